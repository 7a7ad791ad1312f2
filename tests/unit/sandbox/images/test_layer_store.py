"""The layer store: a published layer is on the disk, and a failed import leaves no descriptor open."""

from __future__ import annotations

import errno
import fcntl
import io
import json
import os
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from sandbox.errors import SetupError, StateError
from sandbox.images import bounded, layer_store, unpacked_trees
from sandbox.images.import_lock import import_lock
from sandbox.images.layer_store import LayerStore
from sandbox.kernel.idmaps import single_map
from sandbox.plan import IdPlan
from sandbox.state.directory import StateDirectory
from sandbox.state.node import Node, Place
from tests.conftest import PROJECT

IDS = IdPlan(uid_map=single_map(os.geteuid()), gid_map=single_map(os.getegid()), helpers=None, single=True)


@pytest.fixture
def layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LayerStore]:
    """Return a store that unpacks in this process, without a user namespace."""
    monkeypatch.setattr(layer_store, "run_with_ids", lambda _ids, action, _meanwhile: action())
    monkeypatch.setattr(unpacked_trees, "chown_to_root", lambda _ids, *_fds: None)
    # The limit would apply to the whole process of the tests, which has more memory already.
    monkeypatch.setattr(bounded, "memory_limit", lambda _memory: nullcontext())
    state = StateDirectory(str(tmp_path / "state"))
    yield LayerStore(state)
    state.close()


@pytest.fixture
def archive(tmp_path: Path) -> str:
    """Return the path of an archive of one file."""
    path = tmp_path / "layer.tar"
    with tarfile.open(path, "w") as tar:
        member = tarfile.TarInfo("file")
        member.size = 7
        tar.addfile(member, io.BytesIO(b"content"))
    return str(path)


def places(layers: LayerStore) -> list[str]:
    """Return the names of the layers in the store."""
    return os.listdir(layers.trees.base)


def test_a_layer_is_on_the_disk_before_it_gets_its_name(
    layers: LayerStore, archive: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, list[str]]] = []
    rename = os.rename

    def synchronize(fd: int) -> None:
        building = Path(os.readlink(f"/proc/self/fd/{fd}")).parent
        assert (building / "tree/file").read_bytes() == b"content"
        seen.append(("synchronized", places(layers)))

    def noted(source: str, target: str) -> None:
        rename(source, target)
        if os.path.dirname(target) == layers.trees.base:
            seen.append(("renamed", places(layers)))

    monkeypatch.setattr(unpacked_trees, "synchronize_file_system", synchronize)
    monkeypatch.setattr(os, "rename", noted)
    layer = layers.open_archive(archive, IDS)
    layer.close()
    (building,), (published,) = (
        [name for name in names if not name.endswith(".importing")] for _, names in seen
    )
    assert [what for what, _ in seen] == ["synchronized", "renamed"]
    assert building.endswith(".new")
    assert layer.place.endswith(published)


def test_a_layer_that_cannot_be_written_to_the_disk_is_not_published(
    layers: LayerStore, archive: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sandbox.kernel._libc.syncfs", _failing(errno.EIO))
    with pytest.raises(SetupError, match=r"layer tar:.*: write to the disk: .*input/output error \(EIO\)"):
        layers.open_archive(archive, IDS)
    assert places(layers) == []


def _failing(number: int) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("call", ["lock", "flock", "tree", "index"])
def test_an_error_at_a_layer_that_is_there_leaves_no_descriptor_open(
    layers: LayerStore, archive: str, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    layers.open_archive(archive, IDS).close()
    before = os.listdir("/proc/self/fd")
    really = os.open

    def fail(path: str, flags: int, *mode: int) -> int:
        if os.path.basename(path) == call:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return really(path, flags, *mode)

    with monkeypatch.context() as patch:
        if call == "flock":
            patch.setattr(fcntl, "flock", _failing(errno.ENOLCK))
        else:
            patch.setattr(os, "open", fail)
        with pytest.raises(OSError, match=r"Input/output|locks"):
            layers.open_archive(archive, IDS)
    assert os.listdir("/proc/self/fd") == before
    layers.open_archive(archive, IDS).close()
    assert os.listdir("/proc/self/fd") == before


class Shown:
    """A progress display that records its calls."""

    def __init__(self) -> None:
        self.begun: list[str] = []

    def begin(self, action: str, path: str, size: int) -> None:
        self.begun.append(f"{action} {os.path.basename(path)} {size}")

    def update(self, position: int) -> None: ...

    def end(self) -> None:
        self.begun.append("end")


def used(layers: LayerStore, archive: str, ids: IdPlan = IDS) -> tuple[str, list[str]]:
    """Open the layer of *archive*; return its place, and the recorded calls of the progress display."""
    shown = Shown()
    layers._progress = lambda: shown
    layer = layers.open_archive(archive, ids)
    layer.close()
    return layer.place, shown.begun


SIZE = 10240  # to which tarfile pads an archive


def test_an_archive_that_was_touched_is_compared_once_and_not_unpacked_again(
    layers: LayerStore, archive: str
) -> None:
    place, read = used(layers, archive)
    assert read == [f"unpack layer.tar {SIZE}", "end"]
    for time in (1, 2):
        os.utime(archive, (time, time))
        assert used(layers, archive) == (place, [f"compare layer.tar {SIZE}", "end"])
        assert used(layers, archive) == (place, [])
    assert places(layers) == [os.path.basename(place)]


def test_a_copy_over_an_archive_is_the_same_layer(layers: LayerStore, archive: str, tmp_path: Path) -> None:
    place, _ = used(layers, archive)
    (tmp_path / "copy").write_bytes(Path(archive).read_bytes())
    os.rename(tmp_path / "copy", archive)
    assert used(layers, archive)[0] == place


def test_an_archive_with_another_content_of_the_same_size_is_unpacked_and_replaces_the_layer(
    layers: LayerStore, archive: str
) -> None:
    first, _ = used(layers, archive)
    whole = Path(archive).read_bytes()
    Path(archive).write_bytes(whole.replace(b"content", b"CONTENT"))
    os.utime(archive, (1, 1))
    place, read = used(layers, archive)
    assert (read[0], read[2]) == (f"compare layer.tar {SIZE}", f"unpack layer.tar {SIZE}")
    assert place != first
    assert Path(place, "tree/file").read_bytes() == b"CONTENT"
    assert places(layers) == [os.path.basename(place)]


def test_the_layer_of_the_same_content_under_other_ids_stays(layers: LayerStore, archive: str) -> None:
    first, _ = used(layers, archive)
    os.utime(archive, (1, 1))
    other = IdPlan(uid_map=single_map(12345), gid_map=single_map(12345), helpers=None, single=True)
    second, read = used(layers, archive, other)
    assert read == [f"unpack layer.tar {SIZE}", "end"]
    assert sorted(places(layers)) == sorted(map(os.path.basename, (first, second)))
    assert used(layers, archive)[0] == first


@pytest.mark.parametrize(
    "record", ["", "[]", "{}", '{"size": 10240, "sha256": "0", "known": 1}', "[" * 60000, "\udc80"]
)
def test_a_layer_whose_record_is_damaged_is_made_again(layers: LayerStore, archive: str, record: str) -> None:
    place, _ = used(layers, archive)
    Path(place, "archive.json").write_text(record, errors="surrogateescape")
    assert used(layers, archive) == (place, [])
    os.utime(archive, (1, 1))
    assert used(layers, archive)[1] == [f"unpack layer.tar {SIZE}", "end"]


def test_a_record_that_others_may_write_is_not_believed(layers: LayerStore, archive: str) -> None:
    place, _ = used(layers, archive)
    os.chmod(os.path.join(place, "archive.json"), 0o666)
    os.utime(archive, (1, 1))
    assert used(layers, archive)[1] == [f"unpack layer.tar {SIZE}", "end"]


def test_the_digest_is_that_of_the_whole_file(layers: LayerStore, archive: str) -> None:
    with open(archive, "ab") as file:
        file.write(b"behind the end")
    layer = layers.open_archive(archive, IDS)
    layer.close()
    assert layer_store.recorded_digest(layer.place) == sha256(Path(archive).read_bytes()).hexdigest()


def test_an_archive_with_a_hole_of_exabytes_behind_its_end_is_not_read_through(
    layers: LayerStore, archive: str
) -> None:
    os.truncate(archive, 1 << 43)
    layer = layers.open_archive(archive, IDS)
    layer.close()
    assert layer_store.recorded_digest(layer.place) == ""


def test_no_lock_file_stays(layers: LayerStore, archive: str, tmp_path: Path) -> None:
    base = Path(layers.trees.base)
    base.mkdir()
    for left in (
        "0123456789abcdef",
        "fedcba9876543210",
    ):  # left by an earlier version, and by a process that was killed
        (base / f"{left}.importing").touch()
    (base / f"fedcba9876543210-{unpacked_trees.own_node()}.new/tree").mkdir(parents=True)
    with open(base / "1111111111111111.importing", "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        place, _ = used(layers, archive)
        assert sorted(places(layers)) == sorted(["1111111111111111.importing", os.path.basename(place)])


def test_a_lock_whose_file_was_removed_meanwhile_is_taken_again(tmp_path: Path) -> None:
    base, taken = str(tmp_path), threading.Event()
    with import_lock(base, "a"):
        waiting = threading.Thread(target=lambda: _take(base, taken))
        waiting.start()
        assert not taken.wait(0.2)
    waiting.join(60)
    assert taken.is_set()
    assert os.listdir(base) == []


def _take(base: str, taken: threading.Event) -> None:
    with import_lock(base, "a"):
        assert os.listdir(base) == ["a.importing"]
        taken.set()


def test_an_older_import_that_another_machine_uses_is_not_removed_whatever_its_lock_says(
    layers: LayerStore, archive: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    layers.open_archive(archive, IDS).close()
    record = Path(layers.trees.base).parents[1] / "run/a-00000000/state.json"
    record.parent.mkdir()
    far = Place(node=Node(machine="far", host="far"), boot="", pid_namespace="")
    record.write_text(json.dumps({**far.as_record(pid=7, start=1), "archives": [archive]}))
    for number, left in ((1, 2), (2, 1)):
        with open(archive, "ab") as file:
            file.write(bytes(512))
        layers.open_archive(archive, IDS).close()
        assert len(places(layers)) == left
        if number == 1:
            record.unlink()
            record.parent.rmdir()


def test_machines_that_unpack_an_archive_at_once_get_a_whole_layer_each(
    layers: LayerStore, archive: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two nodes that do not see each other's locks."""
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    unpack = layers._fill
    others = []

    def unpack_while_another_machine_does(*arguments: Any) -> tuple[str, list[str]]:
        monkeypatch.setattr(layers, "_fill", unpack)
        with monkeypatch.context() as elsewhere:
            elsewhere.setattr(unpacked_trees, "own_node", lambda: "far")
            others.append(layers.open_archive(archive, IDS))
        return unpack(*arguments)

    monkeypatch.setattr(layers, "_fill", unpack_while_another_machine_does)
    layer = layers.open_archive(archive, IDS)
    (other,) = others
    assert layer.place == other.place
    assert places(layers) == [os.path.basename(layer.place)]
    assert Path(layer.place, "tree/file").read_bytes() == b"content"
    layer.close()
    other.close()


def test_an_interrupted_import_that_cannot_be_removed_does_not_fail_another_one(
    layers: LayerStore, archive: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = Path(layers.trees.base)
    base.mkdir()
    (base / "0123456789abcdef.importing").touch()
    building = layers.trees.building("0123456789abcdef")
    os.mkdir(building)
    discard = layers.trees.discard

    def refuse(place: str) -> None:
        if place == building:
            raise StateError("its files belong to ids of before")
        discard(place)

    monkeypatch.setattr(layers.trees, "discard", refuse)
    layers.open_archive(archive, IDS).close()
    assert os.path.isdir(building)


NO_IMPORT_IN_THE_CHILD = """
import sys
from sandbox.images import layer_store, unpacked_trees
from sandbox.images.layer_store import LayerStore
from sandbox.state.directory import StateDirectory
from tests.unit.sandbox.images.test_layer_store import IDS

class Refusing:
    def find_spec(self, name, path=None, target=None):
        raise ImportError(f"{name} is imported by the process that unpacks")

def run_with_ids(ids, action, *others):
    sys.meta_path.insert(0, Refusing())
    try:
        return action()
    finally:
        del sys.meta_path[0]

for name in [name for name in sys.modules if name.partition(".")[0] in ("shlex", "pytest", "tests")]:
    del sys.modules[name]
layer_store.run_with_ids = run_with_ids
state = StateDirectory(sys.argv[1], sys.argv[2])
LayerStore(state).open_archive(sys.argv[3], IDS).close()
"""


def test_the_process_that_unpacks_imports_nothing(archive: str, tmp_path: Path) -> None:
    """Under the ids of a sandbox, this process may be unable to read Python's files, such as those below /root."""
    places = [str(tmp_path / "other-state"), str(tmp_path / "other-run")]
    Path(places[1]).mkdir(mode=0o700)
    command = [sys.executable, "-c", NO_IMPORT_IN_THE_CHILD, *places, archive]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=PROJECT)
    assert (done.returncode, done.stderr) == (0, "")
