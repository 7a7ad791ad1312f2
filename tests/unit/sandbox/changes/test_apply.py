"""A plan is executed on a directory of the host, as a whole or the selected part of it."""

from __future__ import annotations

import io
import os

import pytest

from sandbox.changes import apply
from sandbox.changes.host_tree import HostTree
from sandbox.changes.step_order import Action, Step
from tests.support.tree import Tree
from tests.unit.sandbox.changes.applying import (
    ROOT,
    Sandbox,
    change_everything,
    execute,
    on_host,
    refused,
    sandbox_over,
    shown,
)
from tests.unit.sandbox.images.tars import directory, file, tar


def test_the_host_becomes_what_the_sandbox_showed(sandbox: Sandbox) -> None:
    change_everything(sandbox.union)
    plan, wanted = sandbox.plan(), shown(sandbox.union)
    archive = sandbox.archive(plan)
    seen: list[Step] = []
    result = execute(sandbox.host, plan, archive, seen.append)
    found = on_host(sandbox.host)
    for path in ("sparse", "big"):
        assert path == "big" or found[path.encode()][4].startswith(b"sha256:")  # type: ignore[index]
    assert found.keys() == wanted.keys()
    for path, entry in wanted.items():
        if path != b"sparse":
            assert found[path] == entry, path
    assert (sandbox.host / "sparse").read_bytes() == b"18" + bytes(499_998) + b"new" + bytes(
        (1 << 20) - 500_003
    )
    assert os.path.samefile(sandbox.host / "names/first", sandbox.host / "names/second")
    assert os.path.samefile(sandbox.host / "added/again", os.fsencode(sandbox.host) + b"/added/\xff")
    assert tuple(seen) == plan.steps
    assert (result.done, result.found_done, result.left_out) == (len(plan.steps), 0, ())


def test_new_directories_have_the_times_that_the_sandbox_showed(sandbox: Sandbox) -> None:
    sandbox.union.mkdir("/a", 0o755)
    sandbox.union.mkdir("/a/b", 0o755)
    sandbox.union.create("/a/b/c", b"1")
    sandbox.union.utime("/a/b", 5)
    sandbox.union.utime("/a", 6)
    sandbox.union.utime("/mode", 7)
    sandbox.union.chmod("/mode", 0o711)
    plan = sandbox.plan()
    execute(sandbox.host, plan, sandbox.archive(plan))
    times = [os.stat(sandbox.host / path).st_mtime_ns for path in ("a/b", "a", "mode")]
    assert times == [5, 6, 7]


def test_only_selected_changes_are_applied(sandbox: Sandbox) -> None:
    change_everything(sandbox.union)
    before = on_host(sandbox.host)
    plan = sandbox.plan("/target/changed", "/link", exclude=("/changed",))
    execute(sandbox.host, plan, sandbox.archive(plan))
    after = on_host(sandbox.host)
    differ = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    moved = {b"", b"/kept", b"/changed", b"/deleted"}
    assert differ == {b"link", *(b"moved" + end for end in moved), *(b"target" + end for end in moved)}


def test_a_plan_without_members_needs_no_archive(sandbox: Sandbox) -> None:
    sandbox.union.unlink("/changed")
    plan = sandbox.plan()
    assert plan.members == ()
    fd = os.open(sandbox.host, os.O_PATH)
    try:
        apply.execute(plan, HostTree(fd), None, lambda uid, gid: (uid, gid))
    finally:
        os.close(fd)
    assert not (sandbox.host / "changed").exists()


def test_ids_are_those_that_the_caller_maps(sandbox: Sandbox) -> None:
    sandbox.union.create("/new", b"1")
    sandbox.union.mkdir("/d", 0o755)
    plan = sandbox.plan()
    fd = os.open(sandbox.host, os.O_PATH)
    asked = set()

    def owners(uid: int, gid: int) -> tuple[int, int]:
        asked.add((uid, gid))
        return (77, 78) if ROOT else (uid, gid)

    try:
        apply.execute(plan, HostTree(fd), io.BytesIO(sandbox.archive(plan)), owners)
    finally:
        os.close(fd)
    assert asked == {(os.geteuid(), os.getegid())}
    for name in ("new", "d"):
        assert (sandbox.host / name).stat().st_uid == (77 if ROOT else os.geteuid())


# -- archives that do not fit ----------------------------------------------------------------------


def test_members_that_are_not_in_the_plan_are_refused(sandbox: Sandbox) -> None:
    sandbox.union.write("/changed", b"new")
    sandbox.union.write("/one", b"new")
    plan = sandbox.plan()
    me = {"uid": os.geteuid(), "gid": os.getegid()}
    good = [file(b"changed", b"x", **me), file(b"one", b"x", **me)]
    for members in (
        [file(b"../changed", b"x")],
        [file(b"deleted/x", b"x")],
        [directory(b"changed")],
        [good[1], good[0]],
        [good[0]],
        [*good, file(b"two", b"x")],
        [],
    ):
        assert refused(sandbox.host, plan, tar(*members))
    assert not (sandbox.host / "two").exists()
    assert (sandbox.host / "deleted/x").read_bytes() == b"1"


def test_a_truncated_archive_leaves_the_rest_resumable(sandbox: Sandbox) -> None:
    change_everything(sandbox.union)
    plan, wanted = sandbox.plan(), shown(sandbox.union)
    archive = sandbox.archive(plan)
    for cut in range(512, len(archive) - 1024, 1700):
        assert "the contents from the sandbox" in refused(sandbox.host, plan, archive[:cut])
    execute(sandbox.host, plan, archive)
    assert on_host(sandbox.host).keys() == wanted.keys()


# -- ordinary users --------------------------------------------------------------------------------


@pytest.mark.skipif(ROOT, reason="root needs no permission")
def test_changes_in_directories_without_write_permission_are_applied_by_their_owner() -> None:
    lower: Tree = {"closed": {"f": b"old", "gone": b"1", "d": {"x": b"2"}}}
    with sandbox_over(lower) as sandbox:
        union = sandbox.union
        union.write("/closed/f", b"new")
        union.unlink("/closed/gone")
        union.rename("/closed/d", "/closed/e")
        union.create("/closed/e/new", b"1")
        union.mkdir("/closed/made", 0o700)
        union.create("/closed/made/x", b"1")
        # Inside, the program has the rights of the owner of all files. This process has not.
        for path, host in (("/closed/e", "closed/d"), ("/closed", "closed"), ("/closed/made", "")):
            union.chmod(path, 0o555)
            if host:
                (sandbox.host / host).chmod(0o555)
        union.end_request()
        plan, wanted = sandbox.plan(), shown(union)
        assert [step.path for step in plan.steps if step.action is Action.SET_ATTRIBUTES] == []
        execute(sandbox.host, plan, sandbox.archive(plan))
        assert on_host(sandbox.host) == wanted
