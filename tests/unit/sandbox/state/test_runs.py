"""Runs of several machines in one state directory: which are swept, which are not, and which block the use of a layer."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sandbox.errors import StateError
from sandbox.kernel.idmaps import single_map
from sandbox.plan import IdPlan, LayerRecord
from sandbox.state import locks, node
from sandbox.state.directory import StateDirectory
from sandbox.state.node import RECORD_VERSION as VERSION
from sandbox.state.node import Node, Place, this_place
from sandbox.state.run_record import Lock, RunRecord, state_of
from sandbox.state.runs import find_running, list_runs
from sandbox.state.sandbox_directory import RunDirectory

IDS = IdPlan(uid_map=single_map(os.geteuid()), gid_map=single_map(os.getegid()), helpers=None, single=True)
LAYER = LayerRecord(file="/db.toml", layers=(("dir", "/", None),))

HERE = Place(node=Node(machine="a", host="one"), boot="1", pid_namespace="pid:[1]")
NEIGHBOUR = Place(node=Node(machine="b", host="two"), boot="2", pid_namespace="pid:[1]")
CLONE = dataclasses.replace(HERE, node=Node(machine="a", host="two"))

Machine = Callable[..., StateDirectory]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """Return a function that simulates another machine, with the shared state directory and its own run directory."""
    opened = []

    def become(name: str, *, boot: str = "1") -> StateDirectory:
        (tmp_path / f"machine-{name}").write_text(f"{name}\n")
        (tmp_path / "boot").write_text(boot)
        monkeypatch.setattr(node, "_MACHINE_ID", (str(tmp_path / f"machine-{name}"),))
        monkeypatch.setattr(node, "_BOOT_ID", str(tmp_path / "boot"))
        (tmp_path / f"run-{name}").mkdir(mode=0o700, exist_ok=True)
        opened.append(StateDirectory(str(tmp_path / "state"), str(tmp_path / f"run-{name}")))
        return opened[-1]

    yield become
    for directory in opened:
        directory.close()


@pytest.fixture(params=["locks that work", "locks that always succeed"])
def kinds_of_locks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param != "locks that work":
        monkeypatch.setattr(fcntl, "flock", lambda _fd, _operation: None)
    return str(request.param)


def record_of(run: RunDirectory, state: StateDirectory) -> Path:
    return Path(state.path, "run", os.path.basename(run.path), "state.json")


def change(run: RunDirectory, state: StateDirectory, **facts: object) -> None:
    for path in (record_of(run, state), Path(run.path, "state.json")):
        path.write_text(json.dumps({**json.loads(path.read_text()), **facts}))


def names(state: StateDirectory) -> list[str]:
    return sorted(
        name for base in (state.path, state.run_path) for name in os.listdir(os.path.join(base, "run"))
    )


@pytest.mark.parametrize(
    ("place", "lock", "alive", "run_state"),
    [
        (HERE, "held", True, "running"),
        (HERE, "held", False, "running"),
        (HERE, "free", True, "running"),
        (HERE, "missing", True, "running"),
        (HERE, "free", False, "ended"),
        (HERE, "missing", False, "ended"),
        (dataclasses.replace(HERE, boot="0"), "held", True, "ended"),
        (dataclasses.replace(HERE, boot="0"), "free", False, "ended"),
        (NEIGHBOUR, "free", False, "elsewhere"),
        (NEIGHBOUR, "held", True, "elsewhere"),
        (CLONE, "free", False, "elsewhere"),
        (dataclasses.replace(HERE, pid_namespace="pid:[2]"), "free", True, "ended"),
        (dataclasses.replace(HERE, pid_namespace="pid:[2]"), "held", False, "running"),
        (dataclasses.replace(HERE, pid_namespace="pid:[2]"), "missing", False, "unknown"),
    ],
)
def test_run_has_ended_if_it_is_this_nodes_and_boot_or_lock_and_process_say_so(
    place: Place, lock: Lock, alive: bool, run_state: str
) -> None:
    record = RunRecord(version=VERSION, place=place, pid=7, start=1)
    assert state_of(record, HERE, lock=lock, alive=alive) == run_state


@pytest.mark.parametrize(
    ("lock", "alive", "run_state"),
    [("held", False, "running"), ("free", True, "running"), ("free", False, "ended")],
)
def test_run_of_the_first_version_counts_as_this_nodes(lock: Lock, alive: bool, run_state: str) -> None:
    assert (
        state_of(RunRecord(version=1, place=None, pid=7, start=1), HERE, lock=lock, alive=alive) == run_state
    )


def test_run_of_a_later_version_is_left_alone() -> None:
    record = RunRecord(version=VERSION + 1, place=dataclasses.replace(HERE, boot="0"), pid=7, start=1)
    assert state_of(record, HERE, lock="free", alive=False) == "unknown"


@pytest.mark.usefixtures("kinds_of_locks")
def test_run_of_another_machine_is_never_swept(machine: Machine) -> None:
    first = machine("a")
    run = first.new_run(IDS, name="db")
    run.close()
    change(run, first, start=1)
    second = machine("b", boot="2")
    assert second.sweep() == []
    assert names(first) == [os.path.basename(run.path)] * 2
    (found,) = list_runs(second.path)
    assert (found.state, found.shown()) == (
        "elsewhere",
        f"{os.path.basename(run.path)} (pid {os.getpid()}, on {os.uname().nodename})",
    )
    assert machine("a").sweep() == [os.path.basename(run.path)]
    assert names(first) == []


@pytest.mark.usefixtures("kinds_of_locks")
def test_live_run_is_not_swept_whatever_its_lock_says(machine: Machine) -> None:
    run = machine("a").new_run(IDS, name="db")
    other = machine("a")
    assert other.sweep() == []
    assert [found.state for found in list_runs(other.path)] == ["running"]
    run.remove()
    assert names(other) == []


@pytest.mark.usefixtures("kinds_of_locks")
def test_run_whose_supervisor_is_dead_is_swept(machine: Machine) -> None:
    state = machine("a")
    run = state.new_run(IDS, name="db")
    run.close()
    change(run, state, start=1)
    assert machine("a").sweep() == [os.path.basename(run.path)]
    assert names(state) == []


def test_run_of_an_earlier_boot_is_swept_although_its_pid_is_taken(machine: Machine) -> None:
    run = machine("a").new_run(IDS, name="db")
    run.close()
    later = machine("a", boot="2")
    assert later.sweep() == [os.path.basename(run.path)]
    assert names(later) == []


def test_run_whose_removal_was_interrupted_before_its_empty_directory_went_is_swept(machine: Machine) -> None:
    state = machine("one", boot="1")
    run = state.new_run(IDS, name="box")
    for name in os.listdir(run.path):
        path = os.path.join(run.path, name)
        os.rmdir(path) if os.path.isdir(path) else os.unlink(path)
    run.close()
    assert len(names(state)) == 2
    later = machine("one", boot="2")
    later.sweep()
    assert names(later) == []


def test_run_of_an_earlier_boot_is_swept_where_its_run_directory_is_gone(machine: Machine) -> None:
    """As after a boot, if the run directory is in memory."""
    run = machine("a").new_run(IDS, name="db")
    run.remove()
    state = machine("a")
    run = state.new_run(IDS, name="db")
    for name in ("lock", "state.json"):
        os.unlink(os.path.join(run.path, name))
    os.rmdir(run.path)
    run.close()
    assert machine("a", boot="2").sweep() == [os.path.basename(run.path)]
    assert names(state) == []


def version_1(state: StateDirectory, name: str, *, start: int) -> Path:
    """Create the directory of a run as the first version did."""
    path = Path(state.path, "run", name)
    (path / "upper").mkdir(parents=True)
    (path / "upper" / "file").touch()
    (path / "lock").touch()
    ids = {"uid_map": [], "gid_map": [], "helpers": None, "single": True}
    (path / "state.json").write_text(json.dumps({"pid": os.getpid(), "start": start, "ids": ids}))
    return path


def test_what_the_first_version_left_is_swept_and_what_it_runs_is_not(machine: Machine) -> None:
    state = machine("a")
    version_1(state, "dead-00000000", start=1)
    locked = version_1(state, "locked-00000000", start=1)
    fd = locks.take(str(locked / "lock"), wait=False)
    assert fd is not None
    assert state.sweep() == ["dead-00000000"]
    assert os.listdir(os.path.join(state.path, "run")) == ["locked-00000000"]
    os.close(fd)
    assert state.sweep() == ["locked-00000000"]


def test_run_directory_whose_state_is_garbage_is_swept_if_its_lock_is_beside_it(machine: Machine) -> None:
    state = machine("a")
    path = version_1(state, "left-00000000", start=1)
    (path / "state.json").write_text("no json")
    assert state.sweep() == ["left-00000000"]


def test_record_that_is_garbage_is_left_where_nothing_tells_whose_it_is(machine: Machine) -> None:
    state = machine("a")
    run = state.new_run(IDS, name="db")
    record_of(run, state).write_text("no json")
    run.close()
    assert machine("b").sweep() == []
    assert [found.state for found in list_runs(state.path)] == ["unknown"]


@pytest.mark.parametrize("kind", ["another directory", "a directory of its name", "a link"])
def test_record_is_not_believed_about_what_to_remove(machine: Machine, tmp_path: Path, kind: str) -> None:
    state = machine("a")
    run = state.new_run(IDS, name="db")
    run.close()
    precious = tmp_path / ("home" if kind == "another directory" else os.path.basename(run.path))
    target = tmp_path / "real" if kind == "a link" else precious
    (target / "file").parent.mkdir()
    (target / "file").touch()
    if kind == "a link":
        precious.symlink_to("real")
    change(run, state, start=1, run_directory=str(precious))
    assert state.sweep() == []
    assert (target / "file").exists()


@pytest.mark.parametrize("planted", ["fifo", "directory", "link"])
def test_lock_in_a_directory_that_another_user_planted_is_not_opened(machine: Machine, planted: str) -> None:
    """The run directory was removed from /var/tmp, and another user created a directory of the same name."""
    state = machine("a")
    run = state.new_run(IDS, name="db")
    run.close()
    change(run, state, start=1)
    lock = Path(run.path, "lock")
    lock.unlink()
    if planted == "fifo":
        os.mkfifo(lock)
    elif planted == "link":
        lock.symlink_to("/etc/passwd")
    elif planted == "directory":
        lock.mkdir()  # it cannot be opened for writing, like a file of another user
    os.chmod(state.run_path, 0o777)
    assert [found.state for found in list_runs(state.path)] == ["ended"]
    assert state.sweep() == []
    lock.rmdir() if planted == "directory" else lock.unlink(missing_ok=True)
    os.chmod(state.run_path, 0o700)
    assert state.sweep() == [os.path.basename(run.path)]


def test_run_directory_that_a_link_leads_to_is_not_removed(machine: Machine, tmp_path: Path) -> None:
    """Another user may have created the directory above it, as a symbolic link to a copy that this user made."""
    state = machine("a")
    run = state.new_run(IDS, name="db")
    run.close()
    change(run, state, start=1)
    os.rename(f"{state.run_path}/run", tmp_path / "copy")
    os.symlink(tmp_path / "copy", f"{state.run_path}/run")
    assert state.sweep() == []
    assert (tmp_path / "copy" / os.path.basename(run.path) / "state.json").exists()


def test_run_directory_that_has_lost_its_record_is_swept(machine: Machine) -> None:
    state = machine("a")
    run = state.new_run(IDS, name="db")
    run.close()
    change(run, state, start=1)
    record_of(run, state).unlink()
    record_of(run, state).parent.rmdir()
    assert state.sweep() == [os.path.basename(run.path)]
    assert names(state) == []


def test_run_directory_with_a_record_in_another_state_directory_is_left_to_that(
    machine: Machine, tmp_path: Path
) -> None:
    state = machine("a")
    run = state.new_run(IDS, name="db")
    run.close()
    change(run, state, start=1)
    other = StateDirectory(str(tmp_path / "other"), state.run_path)
    assert other.sweep() == []
    other.close()
    assert state.sweep() == [os.path.basename(run.path)]


@pytest.mark.usefixtures("kinds_of_locks")
def test_directory_that_another_machine_is_making_is_left(machine: Machine) -> None:
    state = machine("a")
    path = Path(state.path, "run", ".new-db-00000000")
    path.mkdir()
    assert state.sweep() == []
    os.utime(path, (1, 1))
    assert state.sweep() == [path.name]


@pytest.mark.parametrize("step", range(7))
def test_start_killed_while_it_makes_its_directories_leaves_nothing_to_the_next(
    machine: Machine, step: int
) -> None:
    """The start is killed before it creates or renames directory or file number *step*."""
    state = machine("a")
    left = step

    def counted(call: Callable[..., object]) -> Callable[..., object]:
        def made(*arguments: object, **options: object) -> object:
            nonlocal left
            left -= 1
            if left < 0:
                os._exit(0)
            return call(*arguments, **options)

        return made

    child = os.fork()
    if child == 0:
        for name in ("mkdir", "rename"):
            setattr(os, name, counted(getattr(os, name)))
        state.new_run(IDS, name="db")
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert (names(state) == []) == (step == 0)
    state.sweep()
    assert names(state) == []


@pytest.mark.usefixtures("kinds_of_locks")
def test_persistent_layer_that_another_machine_uses_is_refused(machine: Machine) -> None:
    first = machine("a")
    run = first.new_run(IDS, name="db", uses={"layer": "db"})
    second = machine("b")
    with pytest.raises(
        StateError, match=f"layer db is in use by {os.path.basename(run.path)} .*, on "
    ) as caught:
        second.persistent(IDS, name="db", record=LAYER, before=None)
    assert str(record_of(run, first).parent) in (caught.value.hint or "")
    second.persistent(IDS, name="other", record=LAYER, before=None).close()
    run.remove()
    second.persistent(IDS, name="db", record=LAYER, before=None).close()


def test_namespaces_of_another_machine_are_not_joined(machine: Machine) -> None:
    first = machine("a")
    run = first.new_run(IDS, name="db")
    run.record({"namespaces": {"net": 5}})
    assert find_running(first.path, "db").supervisor == os.getpid()
    second = machine("b")
    with pytest.raises(StateError, match="sandbox db runs on another machine"):
        find_running(second.path, "db")
    run.remove()


def test_writable_layer_is_where_attributes_can_be_kept(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = machine("a")
    setxattr = os.setxattr

    def on_the_disk_only(path: str, name: str, value: bytes) -> None:
        if path.startswith(state.run_path):
            raise OSError(95, "not supported")
        setxattr(path, name, value)

    usual = state.new_run(IDS, name="usual")
    monkeypatch.setattr(os, "setxattr", on_the_disk_only)
    moved = state.new_run(IDS, name="moved")
    for run in (usual, moved):
        os.close(run.subdirectory("upper"))
    assert os.path.isdir(f"{usual.path}/upper")
    assert (record_of(moved, state).parent / "upper").is_dir()
    for run in (usual, moved):
        run.remove()
    assert names(state) == []


def test_this_place_is_the_machine_its_boot_and_the_pid_namespace() -> None:
    place = this_place()
    assert place.node.host == os.uname().nodename
    assert place.boot == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert place.pid_namespace == os.readlink("/proc/self/ns/pid")


@pytest.mark.parametrize("content", ["", "uninitialized\n", None])
def test_machine_without_an_id_is_known_by_its_host_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None
) -> None:
    if content is not None:
        (tmp_path / "machine-id").write_text(content)
    monkeypatch.setattr(node, "_MACHINE_ID", (str(tmp_path / "machine-id"),))
    assert this_place().node == Node(machine="", host=os.uname().nodename)
