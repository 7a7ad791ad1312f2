"""Changes are not applied to what has changed on the host since it was compared."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from sandbox.changes import apply_plan
from sandbox.changes.apply_plan import Rules
from sandbox.changes.step_order import Step
from tests.support.tree import File, make_tree
from tests.unit.sandbox.changes.applying import (
    Sandbox,
    change_everything,
    conflicts,
    execute,
    on_host,
    refused,
)
from tests.unit.sandbox.changes.union_changes import rows_of

TOUCHES: dict[str, Callable[[Path], object]] = {
    "contents": lambda path: path.write_bytes(b"by the host"),
    "time": lambda path: os.utime(path, ns=(1, 1)),
    "replaced": lambda path: (path.rename(f"{path}~"), path.write_bytes(b"old")),
    "removed": lambda path: path.unlink(),
    "link": lambda path: (path.unlink(), path.symlink_to("elsewhere")),
    "directory": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("touch", TOUCHES)
@pytest.mark.parametrize("name", ["changed", "one", "other"])
@pytest.mark.parametrize("late", [False, True], ids=["before", "meanwhile"])
def test_a_file_that_changed_on_the_host_is_not_replaced_removed_or_moved(
    late: bool, name: str, touch: str, sandbox: Sandbox
) -> None:
    sandbox.union.write("/changed", b"newer")
    sandbox.union.unlink("/one")
    sandbox.union.rename("/other", "/renamed")
    sandbox.union.rename("/file", "/a-first-step")
    plan = sandbox.plan()
    archive = sandbox.archive(plan)
    path = sandbox.host / name
    touched: dict[bytes, object] = {}

    def change(step: Step | None = None) -> None:
        if step is None or step.path == b"a-first-step":
            TOUCHES[touch](path)
            touched.update(on_host(sandbox.host))

    if not late:
        change()
    if (name, touch) == ("one", "removed"):
        execute(sandbox.host, plan, archive, change if late else lambda _step: None)
        assert not path.exists()
        return
    reported = "renamed" if name == "other" and not late else name
    message = refused(sandbox.host, plan, archive, change if late else lambda _step: None)
    assert message.startswith(f"/{reported}: it changed on the host since it was compared")
    found = on_host(sandbox.host)
    assert found.get(name.encode()) == touched.get(name.encode())
    assert late or (found == touched and message.endswith("nothing was changed"))


def test_all_conflicts_are_listed_before_anything_is_changed(sandbox: Sandbox) -> None:
    change_everything(sandbox.union)
    plan = sandbox.plan()
    archive = sandbox.archive(plan)
    (sandbox.host / "changed").write_bytes(b"host")
    (sandbox.host / "moved").rename(sandbox.host / "elsewhere")
    (sandbox.host / "added").mkdir(0o700)
    (sandbox.host / "app/etc").write_bytes(b"host")
    (sandbox.host / "app/bin").write_bytes(b"host")
    before = on_host(sandbox.host)
    found = conflicts(sandbox.host, plan)
    assert {line.partition(":")[0] for line in found} >= {
        "/changed",
        "/target",
        "/added",
        "/app/etc",
        "/app/bin",
    }
    message = refused(sandbox.host, plan, archive)
    assert f"and {len(found) - 1} more conflicts; nothing was changed" in message
    assert on_host(sandbox.host) == before


def test_a_directory_that_got_entries_on_the_host_is_not_removed(sandbox: Sandbox) -> None:
    change_everything(sandbox.union)
    plan = sandbox.plan("/deleted")
    (sandbox.host / "deleted" / "host").write_bytes(b"1")
    assert refused(sandbox.host, plan, sandbox.archive(plan)) == "/deleted: directory not empty"
    assert (sandbox.host / "deleted" / "host").read_bytes() == b"1"


def test_a_new_file_needs_its_directory_on_the_host(sandbox: Sandbox) -> None:
    sandbox.union.create("/mode/new", b"1")
    plan = sandbox.plan()
    archive = sandbox.archive(plan)
    (sandbox.host / "mode").rmdir()
    assert conflicts(sandbox.host, plan) == ["/mode/new: its directory is not on the host"]
    (sandbox.host / "mode").symlink_to("names")
    assert "its directory is not on the host" in refused(sandbox.host, plan, archive)
    assert sorted(os.listdir(sandbox.host / "names")) == ["first", "second"]


def test_a_new_file_does_not_replace_one_that_appeared_on_the_host(sandbox: Sandbox) -> None:
    sandbox.union.create("/new", b"1")
    sandbox.union.mkdir("/d", 0o755)
    plan = sandbox.plan()
    archive = sandbox.archive(plan)
    (sandbox.host / "new").write_bytes(b"host")
    (sandbox.host / "d").mkdir(0o700)
    assert conflicts(sandbox.host, plan) == [
        f"/{name}: something is there on the host since it was compared" for name in ("d", "new")
    ]
    (sandbox.host / "d").rmdir()
    (sandbox.host / "new").unlink()
    os.mkdir(sandbox.host / "d", 0o755)
    assert execute(sandbox.host, plan, archive).found_done == 1  # it is as wanted


def test_a_file_that_is_as_wanted_already_is_found_done_only_if_its_contents_are_equal(
    sandbox: Sandbox,
) -> None:
    sandbox.union.create("/new", b"wanted", mode=0o644)
    plan = sandbox.plan()
    archive = sandbox.archive(plan)
    make_tree(sandbox.host, {"new": File(b"wanton", mode=0o644)})
    assert conflicts(sandbox.host, plan) == []
    assert refused(sandbox.host, plan, archive) == "/new: it changed on the host since it was compared"
    (sandbox.host / "new").write_bytes(b"wanted")
    assert execute(sandbox.host, plan, archive).found_done == 1
    assert (sandbox.host / "new").stat().st_mtime_ns == sandbox.union.stat("/new").mtime_ns


def test_a_symbolic_link_on_the_host_in_place_of_a_directory_is_not_followed(sandbox: Sandbox) -> None:
    sandbox.union.write("/names/first", b"new")
    plan = sandbox.plan()
    archive = sandbox.archive(plan)
    (sandbox.host / "names").rename(sandbox.host / "real")
    (sandbox.host / "names").symlink_to("real")
    assert "/names/first: it changed on the host" in refused(sandbox.host, plan, archive)
    assert (sandbox.host / "real/first").read_bytes() == b"16"


def test_a_plan_with_conflicts_is_not_executed(sandbox: Sandbox) -> None:
    sandbox.union.write("/changed", b"new")
    plan = apply_plan.make(rows_of(sandbox.union), Rules(layer=1))
    assert refused(sandbox.host, plan, b"") == (
        "/changed: it is in lower layer 0, not in layer 1, which is written to; nothing was changed"
    )
