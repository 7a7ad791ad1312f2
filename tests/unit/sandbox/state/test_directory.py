"""The state directory: locks, sweeping, and trees that are hard to remove."""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import json
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.errors import StateError
from sandbox.kernel.idmaps import IdMap, single_map
from sandbox.plan import IdPlan, LayerRecord, MountPoint
from sandbox.state import references
from sandbox.state.directory import StateDirectory, examine
from sandbox.state.references import References
from sandbox.state.sandbox_directory import RunDirectory

IDS = IdPlan(uid_map=single_map(os.geteuid()), gid_map=single_map(os.getegid()), helpers=None, single=True)

RECORD = LayerRecord(file="/db.toml", layers=(("dir", "/", None),))


@pytest.fixture(params=["with a run directory", "without"])
def state(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[StateDirectory]:
    (tmp_path / "run").mkdir(mode=0o700)
    run = str(tmp_path / "run") if request.param == "with a run directory" else None
    directory = StateDirectory(str(tmp_path / "state"), run)
    yield directory
    directory.close()


def record_of(state: StateDirectory, run: RunDirectory) -> Path:
    return Path(state.path, "run", os.path.basename(run.path), "state.json")


def die(state: StateDirectory, run: RunDirectory) -> None:
    """Release the lock of *run*, as the end of its supervisor does."""
    run.close()
    for path in {record_of(state, run), Path(run.path, "state.json")}:
        path.write_text(json.dumps({**json.loads(path.read_text()), "start": 1}))


def left(state: StateDirectory) -> list[str]:
    """Return the directories of runs."""
    bases = {state.path, state.run_path}
    return sorted({name for base in bases for name in os.listdir(os.path.join(base, "run"))})


def test_directory_is_the_owners_alone(state: StateDirectory) -> None:
    assert stat.S_IMODE(os.stat(state.path).st_mode) == 0o700


def test_sweeping_is_not_in_the_way_of_who_removes_a_run_directory_meanwhile(
    state: StateDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One run disappears after the listing. Another, whose lock is already removed, must not get a new lock file."""
    gone, going = state.new_run(IDS, name="gone"), state.new_run(IDS, name="going")
    os.unlink(os.path.join(going.path, "lock"))
    die(state, going)
    paths = [str(record_of(state, run).parent) for run in (gone, going)]
    monkeypatch.setattr(
        "sandbox.state.sweeping.paths_in", lambda base: paths if base.startswith(state.path) else []
    )
    gone.remove()
    made = []
    monkeypatch.setattr(
        "sandbox.state.sweeping.remove_directory", lambda path, _ids: made.append(os.listdir(path))
    )
    assert state.sweep() == [os.path.basename(going.path)]
    assert all(names == ["state.json"] for names in made)
    monkeypatch.undo()
    going.remove()


def test_run_directory_that_cannot_be_noted_is_not_left(
    state: StateDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("sandbox.state.directory.os.rename", refuse)
    with pytest.raises(OSError, match="No space left"):
        state.new_run(IDS, name="x")
    assert left(state) == []


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_run_whose_directories_cannot_be_named_is_not_left(
    state: StateDirectory, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    rename = os.rename
    calls = []

    def refuse(source: str, target: str) -> None:
        calls.append(source)
        if len(calls) == number:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        rename(source, target)

    monkeypatch.setattr("sandbox.state.directory.os.rename", refuse)
    descriptors = os.listdir("/proc/self/fd")
    try:
        state.new_run(IDS, name="x").remove()
    except OSError:
        pass
    assert left(state) == []
    assert os.listdir("/proc/self/fd") == descriptors


def test_directory_that_others_may_write_is_refused(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o770)
    with pytest.raises(StateError, match="can be written by other users"):
        StateDirectory(str(tmp_path / "open"))


def test_directory_that_cannot_be_made_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StateError) as caught:
        StateDirectory(str(tmp_path / "file" / "state"))
    assert "SANDBOX_STATE_DIR" in (caught.value.hint or "")


def test_run_directory_in_use_is_not_swept_and_one_left_behind_is(state: StateDirectory) -> None:
    used = state.new_run(IDS, name="used")
    dead = state.new_run(IDS, name="left")
    die(state, dead)
    assert state.sweep() == [os.path.basename(dead.path)]
    assert left(state) == [os.path.basename(used.path)]
    used.remove()
    assert left(state) == []


def test_run_directory_that_cannot_be_removed_is_not_in_the_way_of_others(
    state: StateDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("first", "second"):
        die(state, state.new_run(IDS, name=name))
    tried = []

    def refuse(path: str, _ids: object) -> None:
        tried.append(path)
        raise OSError(errno.EBUSY, "device or resource busy", path)

    with monkeypatch.context() as patched:
        patched.setattr("sandbox.state.sweeping.remove_directory", refuse)
        assert state.sweep() == []
    assert len(tried) == 2
    assert len(state.sweep()) == 2
    assert left(state) == []


def test_run_directory_that_another_process_removes_meanwhile_is_no_error(
    state: StateDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = os.path.join(state.path, "run", "gone")
    monkeypatch.setattr("sandbox.state.sweeping.paths_in", lambda _base: [gone])
    state.sweep()
    run = state.new_run(IDS, name="x")

    def remove_all(fd: int, *, last: tuple[bytes, ...]) -> None:
        assert b"state.json" in last
        path = os.readlink(f"/proc/self/fd/{fd}")
        for name in os.listdir(path):
            os.unlink(os.path.join(path, name))
        os.rmdir(path)

    monkeypatch.setattr("sandbox.state.removal.remove_contents", remove_all)
    run.remove()


def test_second_sandbox_of_a_name_is_refused_and_told_whose_it_is(state: StateDirectory) -> None:
    first = state.persistent(IDS, name="db", record=RECORD, before=None)
    with pytest.raises(StateError, match=f"sandbox db is running \\(pid {os.getpid()}\\)"):
        state.persistent(IDS, name="db", record=RECORD, before=RECORD)
    first.close()
    state.persistent(IDS, name="db", record=RECORD, before=RECORD).close()


def test_writable_layer_that_another_start_recorded_meanwhile_is_refused(state: StateDirectory) -> None:
    state.persistent(IDS, name="db", record=RECORD, before=None).close()
    other = dataclasses.replace(RECORD, file="/other.toml")
    with pytest.raises(StateError, match="was changed by another process"):
        state.persistent(IDS, name="db", record=other, before=other)
    state.persistent(IDS, name="db", record=RECORD, before=RECORD).close()


DAMAGE = pytest.mark.parametrize(
    "content", ["", "no json", "[]", "7", '{"ids": 1, "layers": 5}', '{"file": "x", "layers": [{}]}', "link"]
)


def damage(path: Path, content: str) -> None:
    path.unlink()
    if content == "link":
        path.symlink_to("/dev/null")
    else:
        path.write_text(content)


@DAMAGE
def test_damaged_record_of_a_writable_layer_is_an_error(state: StateDirectory, content: str) -> None:
    state.persistent(IDS, name="db", record=RECORD, before=None).close()
    damage(Path(state.path, "sandboxes/db/state.json"), content)
    with pytest.raises(StateError, match=r"sandboxes/db/state\.json: ") as caught:
        state.persistent(IDS, name="db", record=RECORD, before=RECORD)
    assert "or discard the directory" in (caught.value.hint or "")


@DAMAGE
def test_damaged_record_of_a_volume_is_an_error(state: StateDirectory, content: str) -> None:
    os.close(state.open_volume("v", IDS, mode=0o755))
    damage(Path(state.path, "volumes/v/state.json"), content)
    with pytest.raises(StateError, match=r"volumes/v/state\.json: "):
        state.open_volume("v", IDS, mode=0o755)


def test_record_that_is_gone_is_made_again(state: StateDirectory) -> None:
    """As after a start that was killed before it wrote a record."""
    state.persistent(IDS, name="db", record=RECORD, before=None).close()
    os.unlink(os.path.join(state.path, "sandboxes/db/state.json"))
    state.persistent(IDS, name="db", record=RECORD, before=None).close()


def test_writable_layer_of_other_ids_is_refused(state: StateDirectory) -> None:
    state.persistent(IDS, name="db", record=RECORD, before=None).close()
    others = IdPlan(uid_map=single_map(4242), gid_map=IDS.gid_map, helpers=None, single=True)
    with pytest.raises(StateError, match="another id map: ") as caught:
        state.persistent(others, name="db", record=RECORD, before=RECORD)
    assert f", not 0 4242 1 (groups 0 {os.getegid()} 1)" in str(caught.value)
    assert "use its former ids" in (caught.value.hint or "")
    state.persistent(IDS, name="db", record=RECORD, before=RECORD).close()


def test_writable_layer_is_resumed_when_only_the_helpers_moved(state: StateDirectory) -> None:
    state.persistent(IDS, name="db", record=RECORD, before=None).close()
    moved = dataclasses.replace(IDS, helpers=("/usr/local/bin/newuidmap", "/usr/local/bin/newgidmap"))
    state.persistent(moved, name="db", record=RECORD, before=RECORD).close()


def test_state_is_replaced_as_a_whole(state: StateDirectory) -> None:
    run = state.new_run(IDS, name="x")
    run.record({"cgroups": ["/a"]})
    recorded = json.loads(record_of(state, run).read_text())
    assert (recorded["cgroups"], recorded["pid"]) == (["/a"], os.getpid())
    assert not record_of(state, run).with_name("state.json.new").exists()
    run.remove()


def test_skeleton_holds_the_mount_points_and_nothing_else(state: StateDirectory) -> None:
    run = state.new_run(IDS, name="x")
    points = (
        MountPoint(path="/proc"),
        MountPoint(path="/a/b/file", is_directory=False),
        MountPoint(path="/a/b"),
    )
    os.close(run.skeleton(points))
    top = Path(run.path, "skeleton")
    found = {str(path.relative_to(top)): path.is_dir() for path in top.rglob("*")}
    assert found == {"proc": True, "a": True, "a/b": True, "a/b/file": False}
    assert stat.S_IMODE((top / "a").stat().st_mode) == 0o755
    run.remove()


@pytest.mark.parametrize("kind", ["absent", "good", "open", "file", "below a file", "link", "dangling link"])
def test_examining_says_what_making_would_and_makes_nothing(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "state"
    if kind == "good":
        StateDirectory(str(path)).close()
    elif kind == "open":
        path.mkdir()
        path.chmod(0o777)
    elif kind in ("file", "below a file"):
        path.touch()
        path = path if kind == "file" else path / "a" / "b"
    elif kind == "link":
        (tmp_path / "real").mkdir(mode=0o700)
        path.symlink_to("real")
    elif kind == "dangling link":
        path.symlink_to("nowhere")
    before = sorted(str(item) for item in tmp_path.rglob("*"))
    found = examine(str(path))
    assert sorted(str(item) for item in tmp_path.rglob("*")) == before
    try:
        StateDirectory(str(path)).close()
        made = None
    except StateError as error:
        made = error.render()
    assert (None if found is None else found.render()) == made


def test_examining_a_directory_of_somebody_else_says_so() -> None:
    owner = os.stat("/proc/1").st_uid
    if owner == os.geteuid():
        pytest.skip("process 1 is this account's")
    assert "belongs to another user" in (examine("/") or StateError("")).message


def test_named_volume_is_made_once_and_kept(state: StateDirectory) -> None:
    for mode in (0o750, 0o700):
        os.close(state.open_volume("data", IDS, mode=mode))
    path = os.path.join(state.path, "volumes", "data")
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o700
    assert stat.S_IMODE(os.stat(f"{path}/data").st_mode) == 0o750


def test_named_volume_that_a_start_left_half_made_is_finished(state: StateDirectory) -> None:
    path = os.path.join(state.path, "volumes", "data")
    os.makedirs(f"{path}/data", mode=0o700)
    os.close(state.open_volume("data", IDS, mode=0o755))
    assert stat.S_IMODE(os.stat(f"{path}/data").st_mode) == 0o755
    assert os.path.exists(f"{path}/state.json")


def test_named_volume_is_used_by_many_and_removed_by_nobody_meanwhile(state: StateDirectory) -> None:
    users = [state.open_volume("data", IDS, mode=0o755) for _ in range(2)]
    lock = os.open(os.path.join(state.path, "volumes", "data", "lock"), os.O_RDWR)
    with pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    for fd in users:
        os.close(fd)
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with pytest.raises(StateError, match="volume data is being removed"):
        state.open_volume("data", IDS, mode=0o755)
    os.close(lock)


def test_two_starts_at_once_both_note_their_file(
    state: StateDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    others: list[threading.Thread] = []
    read = references.read_references

    def start(file: str) -> None:
        os.close(state.open_volume("data", IDS, mode=0o755, file=file))

    def with_another_start(path: str) -> References:
        known = read(path)
        if not others:
            others.append(threading.Thread(target=start, args=("/b.toml",)))
            others[0].start()
            others[0].join(0.3)
        return known

    monkeypatch.setattr(references, "read_references", with_another_start)
    start("/a.toml")
    others[0].join(60)
    assert sorted(read(os.path.join(state.path, "volumes", "data")).files) == ["/a.toml", "/b.toml"]


def test_volume_that_is_removed_while_a_start_opens_it_is_not_used(
    state: StateDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.close(state.open_volume("data", IDS, mode=0o755))
    path = Path(state.path, "volumes", "data")
    flock = fcntl.flock

    def removed_meanwhile(fd: int, operation: int) -> None:
        if operation == fcntl.LOCK_SH | fcntl.LOCK_NB:
            path.rename(path.with_name("gone"))
        flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", removed_meanwhile)
    with pytest.raises(StateError, match="volume data is being removed"):
        state.open_volume("data", IDS, mode=0o755)


def test_named_volume_is_for_those_who_have_all_ids_of_its_files(state: StateDirectory) -> None:
    own_uid, own_gid = os.geteuid(), os.getegid()

    def ids(*ranges: tuple[int, int, int]) -> IdPlan:
        maps = [
            tuple(
                IdMap(inside=inside, outside=outside + own, count=count) for inside, outside, count in ranges
            )
            for own in (own_uid, own_gid)
        ]
        return IdPlan(uid_map=maps[0], gid_map=maps[1], helpers=None, single=False)

    def keep(wanted: IdPlan) -> None:
        os.close(state.open_volume("data", wanted, mode=0o755))

    keep(ids((0, 0, 1)))
    keep(ids((0, 0, 1), (1, 100_000, 10)))
    keep(ids((7, 0, 1), (0, 99_999, 20)))  # with other names inside, and more of them
    with pytest.raises(StateError, match="files of ids that this sandbox does not have"):
        keep(ids((0, 0, 1), (1, 100_000, 10)))
    keep(ids((0, 0, 1), (1, 99_999, 20)))


def _calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list to which the names of files that are synchronized and renamed from now on are added."""
    calls: list[str] = []
    fsync, rename = os.fsync, os.rename

    def note_sync(fd: int) -> None:
        calls.append(f"sync {os.path.basename(os.readlink(f'/proc/self/fd/{fd}'))}")
        fsync(fd)

    def note_rename(source: str, target: str) -> None:
        calls.append(f"rename {os.path.basename(source)}")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "rename", note_rename)
    return calls


def test_state_that_lasts_is_on_the_disk_before_and_after_it_gets_its_name(
    state: StateDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = _calls(monkeypatch)
    written = ["sync state.json.new", "rename state.json.new"]
    directory = state.persistent(IDS, name="kept", record=RECORD, before=None)
    try:
        assert calls
        assert calls == [*written, "sync kept"] * (len(calls) // 3)
        calls.clear()
        directory.record({"root": "/"})
        assert calls == [*written, "sync kept"]
    finally:
        directory.close()
    calls.clear()
    os.close(state.open_volume("data", IDS, mode=0o755))
    assert calls == [*written, "sync data"]
    calls.clear()
    os.close(state.open_volume("data", IDS, mode=0o755))
    assert calls == [], "nothing has changed"


def test_a_start_does_not_wait_for_the_disk_for_what_ends_with_the_sandbox(
    state: StateDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = _calls(monkeypatch)
    run = state.new_run(IDS, name="ephemeral")
    run.record({"root": "/"})
    run.remove()
    assert {call.partition("-")[0] for call in calls} == {"rename state.json.new", "rename .new"}


def test_state_that_cannot_be_written_to_the_disk_keeps_the_old_one(
    state: StateDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = state.persistent(IDS, name="kept", record=RECORD, before=None)
    path = Path(directory.path, "state.json")
    before = path.read_text()

    def fail(_fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match=r"Input/output error: '.*/state\.json\.new'"):
            directory.record({"root": "/other"})
    assert path.read_text() == before
    assert sorted(os.listdir(directory.path)) == ["lock", "state.json"]
    directory.close()


@pytest.mark.parametrize("failing", ["flock", "listdir"])
def test_an_error_at_a_run_directory_leaves_no_descriptor_open(
    state: StateDirectory, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    run = state.new_run(IDS, name="ephemeral")
    before = os.listdir("/proc/self/fd")

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(*((fcntl, "flock") if failing == "flock" else (os, "listdir")), fail)
        with pytest.raises(OSError, match="Input/output"):
            _ = state.sweep() if failing == "flock" else run.subdirectory("upper")
    assert os.listdir("/proc/self/fd") == before
    run.remove()
