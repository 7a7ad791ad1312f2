"""A process that applies changes is killed: each file is old or new, and the same plan can be executed again."""

from __future__ import annotations

import os

import pytest

from sandbox.changes.step_order import Action
from tests.support.tree import HardLink, Tree
from tests.unit.sandbox.changes.applying import (
    LOWER,
    change_everything,
    conflicts,
    execute,
    on_host,
    sandbox_over,
    shown,
)
from tests.unit.sandbox.changes.killing import killed_at


def test_a_kill_at_any_system_call_leaves_each_file_old_or_new_and_the_rest_resumable() -> None:
    kills = 0
    while True:
        with sandbox_over(LOWER) as sandbox:
            change_everything(sandbox.union)
            plan, wanted = sandbox.plan(), shown(sandbox.union)
            archive = sandbox.archive(plan)
            before = on_host(sandbox.host)
            whole = {entry[4:6] for tree in (before, wanted) for entry in tree.values()}  # type: ignore[index]
            killed = killed_at(lambda: execute(sandbox.host, plan, archive), kills)  # noqa: B023
            for path, entry in on_host(sandbox.host).items():
                name = path.rpartition(b"/")[2]
                if not name.endswith(b".sandbox-new") and path != b"sparse":
                    assert entry[4:6] in whole, path  # type: ignore[index]
            assert len(on_host(sandbox.host)[b"sparse"]) == 9  # type: ignore[arg-type]
            assert conflicts(sandbox.host, plan) == []
            result = execute(sandbox.host, plan, archive)
            assert result.done + result.found_done == len(plan.steps)
            found = on_host(sandbox.host)
            assert found.keys() == wanted.keys(), kills
            for path, entry in wanted.items():
                assert path == b"sparse" or found[path] == entry, (path, kills)
            assert os.path.samefile(sandbox.host / "names/first", sandbox.host / "names/second")
            if not killed:
                assert result.done == sum(step.action is Action.SET_ATTRIBUTES for step in plan.steps)
                break
        kills += 1
    assert kills > 100


@pytest.mark.parametrize("kills", range(12))
def test_names_of_one_file_that_change_places_are_resumed(kills: int) -> None:
    """By its inode alone, one name of a file cannot be told from another."""
    lower: Tree = {
        "a": b"1", "b": HardLink("a"), "c": HardLink("a"), "x": {"same": HardLink("a"), "z": b"2"},
        "y": {"same": HardLink("a"), "gone": HardLink("a")},
    }  # fmt: skip
    with sandbox_over(lower) as sandbox:
        union = sandbox.union
        for path in ("/y/same", "/y/gone"):
            union.unlink(path)
        union.rmdir("/y")
        union.rename("/x", "/y")
        union.rename("/a", "/t")
        union.rename("/b", "/a")
        union.rename("/c", "/b")
        union.end_request()
        plan, wanted = sandbox.plan(), shown(union)
        archive = sandbox.archive(plan)
        position = kills
        while killed_at(lambda: execute(sandbox.host, plan, archive), position):
            position += 3
        assert on_host(sandbox.host) == wanted
