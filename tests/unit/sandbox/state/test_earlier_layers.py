"""Which layers a record means, which are used, and which are removed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from sandbox.errors import StateError
from sandbox.kernel.idmaps import single_map
from sandbox.plan import IdPlan
from sandbox.state.earlier_layers import make_next, refuse_if_forked, remove_unused, settle, used_by_others
from sandbox.state.snapshots import Snapshot, locked, read_snapshots, write_snapshots
from sandbox.state.stack_record import RecordedLayer, RecordedStack

IDS = IdPlan(uid_map=single_map(os.geteuid()), gid_map=single_map(os.getegid()), helpers=None, single=True)
BELOW = (RecordedLayer(kind="dir", path="/"),)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    for name in ("sandboxes", "changes"):
        (tmp_path / name).mkdir()
    return tmp_path


def make_home(state: Path, name: str, earlier: tuple[str, ...] = (), base: str = "sandboxes") -> Path:
    """Make the sandbox *name* with a layer of its own."""
    home = state / base / name
    for part in ("upper", "work"):
        (home / part).mkdir(parents=True)
    write(home, RecordedStack(writable=str(home), layers=BELOW, earlier=earlier))
    return home


def write(home: Path, stack: RecordedStack) -> None:
    (home / "state.json").write_text(json.dumps(stack.as_json(str(home))))


def stack_of(home: Path) -> RecordedStack:
    found = RecordedStack.read(json.loads((home / "state.json").read_text()), str(home))
    assert found is not None
    return found


def make_layer(home: Path) -> str:
    path = make_next(str(home))
    for part in ("upper", "work"):
        os.mkdir(f"{path}/{part}")
    Path(f"{path}/upper/file").write_text("content")
    return path


def present(home: Path) -> list[str]:
    later = home / "later"
    found = [f"later/{name}" for name in os.listdir(later)] if later.exists() else []
    return sorted([*found, *(name for name in os.listdir(home) if name in ("upper", "work"))])


def test_paths_of_a_record_follow_its_directory(state: Path) -> None:
    home = make_home(state, "a")
    layer = make_layer(home)
    elsewhere = str(state / "changes" / "b")
    write(home, RecordedStack(writable=layer, layers=BELOW, earlier=(elsewhere, str(home)), next=layer + "1"))
    moved = home.rename(home.parent / "moved")
    found = stack_of(moved)
    assert found.writable == f"{moved}/later/1"
    assert found.earlier == (elsewhere, str(moved))
    assert found.next == f"{moved}/later/11"
    assert found.layers == BELOW


def test_a_record_of_an_older_version_is_read(state: Path) -> None:
    home = make_home(state, "a")
    old = {"stack": {"writable": str(home), "layers": []}}
    assert RecordedStack.read(old, str(home)) == RecordedStack(writable=str(home), layers=())


@pytest.mark.parametrize(
    "stack",
    [{}, {"writable": 1, "layers": []}, {"writable": ".", "layers": [], "earlier": [3]}, [], "x", None],
)
def test_a_malformed_record_has_no_stack(stack: object) -> None:
    assert RecordedStack.read({"stack": stack}, "/home") is None


def test_a_recorded_freeze_counts_if_it_has_begun_the_next_layer(state: Path) -> None:
    home = make_home(state, "a")
    layer = make_layer(home)
    planned = RecordedStack(writable=str(home), layers=BELOW, next=layer)
    assert settle(planned, IDS) == RecordedStack(writable=str(home), layers=BELOW)
    os.makedirs(f"{layer}/work/unionfs")
    assert settle(planned, IDS) == RecordedStack(writable=str(home), layers=BELOW)
    Path(f"{layer}/work/unionfs/stack").touch()
    assert settle(planned, IDS) == RecordedStack(writable=layer, layers=BELOW, earlier=(str(home),))
    assert settle(settle(planned, IDS), IDS) == settle(planned, IDS)


def test_layers_that_nothing_names_are_removed(state: Path) -> None:
    home = make_home(state, "a")
    layers = [make_layer(home) for _ in range(5)]
    write(home, RecordedStack(writable=layers[3], layers=BELOW, earlier=(layers[0],)))
    write_snapshots(str(home), [Snapshot(name="s", time=1.0, layers=(layers[1],))])
    make_home(state, "fork", earlier=(layers[4],), base="changes")
    remove_unused(str(state), str(home), IDS)
    assert present(home) == ["later/1", "later/2", "later/4", "later/5"]  # not later/3, and not the first
    assert not list(home.glob(".removed-*"))


def test_a_next_layer_is_not_removed(state: Path) -> None:
    home = make_home(state, "a")
    layer = make_layer(home)
    write(home, RecordedStack(writable=str(home), layers=BELOW, next=layer))
    remove_unused(str(state), str(home), IDS)
    assert present(home) == ["later/1", "upper", "work"]


def test_what_an_interrupted_removal_left_is_removed(state: Path) -> None:
    home = make_home(state, "a")
    os.rename(make_layer(home), home / ".removed-1234")
    remove_unused(str(state), str(home), IDS)
    assert not (home / ".removed-1234").exists()


def test_nothing_is_removed_while_a_record_cannot_be_read(state: Path) -> None:
    home = make_home(state, "a")
    make_layer(home)
    other = make_home(state, "other")
    (other / "state.json").write_text("{")
    with pytest.raises(StateError, match="which layers it uses is unknown"):
        remove_unused(str(state), str(home), IDS)
    (other / "state.json").unlink()
    (other / "snapshots.json").write_text("{")
    write(other, RecordedStack(writable=str(other), layers=BELOW))
    with pytest.raises(StateError, match="damaged"):
        remove_unused(str(state), str(home), IDS)
    assert present(home) == ["later/1", "upper", "work"]


def test_forks_are_named_and_similar_names_are_not(state: Path) -> None:
    home = make_home(state, "a")
    make_home(state, "ab")
    assert used_by_others(str(state), str(home)) == []
    refuse_if_forked(str(state), str(home), "a")
    fork = make_home(state, "fork", earlier=(f"{home}/later/1",))
    kept = make_home(state, "kept-1", earlier=(str(home),), base="changes")
    make_home(state, "other", earlier=(f"{home}b",))
    assert used_by_others(str(state), str(home)) == sorted([str(fork), str(kept)])
    with pytest.raises(StateError, match="use layers of a") as refused:
        refuse_if_forked(str(state), str(home), "a")
    assert refused.value.hint == "remove that first: sandbox rm changes:kept-1 layer:fork"


def test_snapshots_are_kept_in_order_with_paths_that_follow_their_directory(state: Path) -> None:
    home = make_home(state, "a")
    made = [
        Snapshot(name="one", time=1.5, layers=(str(home),)),
        Snapshot(name="two", time=2.5, layers=(str(home), f"{home}/later/1")),
        Snapshot(name="none", time=3.5, layers=()),
    ]
    write_snapshots(str(home), made)
    assert read_snapshots(str(home)) == made
    moved = home.rename(home.parent / "moved")
    assert read_snapshots(str(moved))[1].layers == (str(moved), f"{moved}/later/1")


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"version": 1}', '{"version": 1, "snapshots": [{}]}', '{"version": 2}']
)
def test_a_list_that_cannot_be_read_is_an_error(state: Path, content: str) -> None:
    home = make_home(state, "a")
    (home / "snapshots.json").write_text(content)
    with pytest.raises(StateError):
        read_snapshots(str(home))


def test_two_commands_do_not_change_snapshots_at_the_same_time(state: Path) -> None:
    home = make_home(state, "a")
    with locked(str(home), "a"), pytest.raises(StateError, match="another command"), locked(str(home), "a"):
        pass
    with locked(str(home), "a"):
        pass
