"""The list of the snapshots of a sandbox."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sandbox.state.snapshots import Snapshot, new_list, read_snapshots, write_snapshots

if TYPE_CHECKING:
    from pathlib import Path


def snapshot(home: Path, name: str) -> Snapshot:
    return Snapshot(name=name, time=1.0, layers=(str(home), f"{home}/later/1"))


def test_snapshots_are_read_as_they_were_written(tmp_path: Path) -> None:
    assert read_snapshots(str(tmp_path)) == []
    made = [snapshot(tmp_path, "one"), snapshot(tmp_path, "two")]
    write_snapshots(str(tmp_path), made)
    assert read_snapshots(str(tmp_path)) == made


def test_what_a_killed_command_left_beside_the_list_is_removed_by_the_next_one(tmp_path: Path) -> None:
    (tmp_path / "snapshots.json.12345678.new").write_text("{}")
    (tmp_path / "snapshots.lock").write_text("")
    (tmp_path / "state.json.12345678.new").write_text("{}")
    with new_list(str(tmp_path), [snapshot(tmp_path, "one")]):
        assert len(list(tmp_path.glob("snapshots.json.*.new"))) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["snapshots.lock", "state.json.12345678.new"]
