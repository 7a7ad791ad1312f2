"""The layer store: what is published is on the disk, and what fails leaves nothing open."""

from __future__ import annotations

import errno
import fcntl
import io
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sandbox.errors import SetupError
from sandbox.image import store
from sandbox.image.store import LayerStore
from sandbox.kernel.idmaps import single_map
from sandbox.plan import IdPlan
from sandbox.state import StateDirectory

IDS = IdPlan(uid_map=single_map(os.geteuid()), gid_map=single_map(os.getegid()), helpers=None, single=True)


@pytest.fixture
def layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LayerStore]:
    """Return a store that unpacks in this process, without a user namespace."""
    monkeypatch.setattr(store, "run_with_ids", lambda _ids, action: action())
    monkeypatch.setattr(store, "give_to_root", lambda _ids, *_fds: None)
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
    """Return the names of the layers that the store has."""
    return [name for name in os.listdir(layers._base) if not name.endswith(".importing")]


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
        seen.append(("renamed", places(layers)))

    monkeypatch.setattr(store, "synchronize_file_system", synchronize)
    monkeypatch.setattr(os, "rename", noted)
    layer = layers.open_archive(archive, IDS)
    layer.close()
    (building,), (published,) = seen[0][1], seen[1][1]
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
