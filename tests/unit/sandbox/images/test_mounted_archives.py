"""The store of indexes of archives: one for each version of an archive and each id map, made again when it is damaged."""

from __future__ import annotations

import bz2
import fcntl
import gzip
import lzma
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from sandbox.errors import ImageError, StateError
from sandbox.images import bounded, mounted_archives, unpacked_trees
from sandbox.images.archive_names import ArchiveNames
from sandbox.images.layer_store import LayerStore
from sandbox.images.mounted_archives import MEMBERS, MountedArchives, open_recorded
from sandbox.kernel.idmaps import single_map
from sandbox.plan import IdPlan
from sandbox.state.directory import StateDirectory
from tests.unit.sandbox.images.tars import directory, file, symlink, tar
from unionfs.layer_index.archive_frames import LARGEST_FRAME

IDS = IdPlan(uid_map=single_map(os.geteuid()), gid_map=single_map(os.getegid()), helpers=None, single=True)
CONTENT = tar(directory(b"etc"), file(b"etc/f", b"content"), symlink(b"l", b"etc"), file(b".wh.gone"))


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StateDirectory]:
    """Return a state directory; archives are read in this process, without a user namespace."""
    for module in ("sandbox.images.mounted_archives", "sandbox.images.layer_store"):
        monkeypatch.setattr(f"{module}.run_with_ids", lambda _ids, action, _meanwhile: action())
    monkeypatch.setattr(unpacked_trees, "chown_to_root", lambda _ids, *_fds: None)
    # The limit would apply to the whole process of the tests, which has more memory already.
    monkeypatch.setattr(bounded, "memory_limit", lambda _memory: nullcontext())
    state = StateDirectory(str(tmp_path / "state"))
    yield state
    state.close()


@pytest.fixture
def store(state: StateDirectory) -> MountedArchives:
    """Return the store."""
    return MountedArchives(state)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Return an archive."""
    path = tmp_path / "layer.tar"
    path.write_bytes(CONTENT)
    return path


def place_of(store: MountedArchives, archive: Path) -> Path:
    """Open the layer and close it; return its directory."""
    layer = store.open_archive(str(archive), IDS)
    try:
        assert layer.archive_fd is not None
        assert layer.members_fd is not None
        assert os.path.samestat(os.fstat(layer.archive_fd), archive.stat())
        names = ArchiveNames(layer.members_fd, len(archive.read_bytes()))
        assert names.is_directory("/etc")
        return Path(layer.place)
    finally:
        layer.close()


def test_an_archive_is_indexed_once(
    store: MountedArchives, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = place_of(store, archive)
    assert sorted(os.listdir(place)) == [
        "archive.json",
        "ids",
        "index",
        "lock",
        MEMBERS,
        "references.json",
        "tree",
    ]
    assert os.listdir(place / "tree") == []
    monkeypatch.setattr(MountedArchives, "_fill", None)
    assert place_of(store, archive) == place


def test_one_archive_may_be_mounted_and_unpacked(
    store: MountedArchives, state: StateDirectory, archive: Path
) -> None:
    mounted = place_of(store, archive)
    unpacked = LayerStore(state).open_archive(str(archive), IDS)
    unpacked.close()
    assert Path(unpacked.place) != mounted
    assert Path(unpacked.place, "tree/etc/f").read_bytes() == b"content"
    assert place_of(store, archive) == mounted


def test_a_changed_archive_is_indexed_again_and_the_old_index_removed(
    store: MountedArchives, archive: Path
) -> None:
    before = place_of(store, archive)
    archive.write_bytes(tar(directory(b"etc"), file(b"other")))
    after = place_of(store, archive)
    assert after != before
    assert not before.exists()


def test_an_archive_with_another_time_but_the_same_content_keeps_its_index(
    store: MountedArchives, archive: Path
) -> None:
    before = place_of(store, archive)
    os.utime(archive, (1, 1))
    assert place_of(store, archive) == before


@pytest.mark.parametrize("damage", ["truncated", "empty", "another", "missing"])
def test_a_damaged_index_is_made_again(store: MountedArchives, archive: Path, damage: str) -> None:
    place = place_of(store, archive)
    members = place / MEMBERS
    good = members.read_bytes()
    if damage == "missing":
        members.unlink()
    else:
        members.write_bytes({"truncated": good[:-1], "empty": b"", "another": b"x" * len(good)}[damage])
    assert place_of(store, archive) == place
    assert members.read_bytes() == good


def test_a_damaged_index_that_another_sandbox_uses_is_an_error(store: MountedArchives, archive: Path) -> None:
    place = place_of(store, archive)
    (place / MEMBERS).write_bytes(b"")
    with open(place / "lock", "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        with pytest.raises(ImageError, match="its layer in the store is damaged") as caught:
            store.open_archive(str(archive), IDS)
    assert caught.value.hint


LARGE = tar(file(b"large", bytes(LARGEST_FRAME + 1)))


@pytest.mark.parametrize(
    ("name", "pack", "content", "program"),
    [
        ("layer.tar.gz", gzip.compress, LARGE, "gzip -dc"),
        ("layer.tgz", gzip.compress, LARGE, "gzip -dc"),
        ("layer.tar.xz", lzma.compress, CONTENT, "xz -dc"),
        ("layer.tar.bz2", bz2.compress, CONTENT, "bzip2 -dc"),
    ],
)
def test_an_archive_in_large_pieces_is_refused_with_the_command_that_packs_it_again(
    store: MountedArchives,
    archive: Path,
    name: str,
    pack: Callable[[bytes], bytes],
    content: bytes,
    program: str,
) -> None:
    packed = archive.with_name(name)
    packed.write_bytes(pack(content))
    with pytest.raises(ImageError, match=f"{name}: its files cannot be read where they are") as caught:
        store.open_archive(str(packed), IDS)
    assert caught.value.hint is not None
    assert f": {program} {packed} | pzstd -1 -o {archive.parent}/layer-seekable.tar.zst;" in caught.value.hint
    assert [name for name in os.listdir(store.trees.base) if not name.endswith(".importing")] == []


def test_an_archive_that_changes_while_it_is_read_is_refused(
    store: MountedArchives, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = mounted_archives.run_with_ids

    def change(ids: IdPlan, action: object, meanwhile: object) -> str:
        text = really(ids, action, meanwhile)  # type: ignore[arg-type]
        os.utime(archive, (5, 5))
        return text

    monkeypatch.setattr(mounted_archives, "run_with_ids", change)
    with pytest.raises(ImageError, match="changed while it was read"):
        store.open_archive(str(archive), IDS)


def test_a_container_image_is_refused_as_when_unpacking(store: MountedArchives, archive: Path) -> None:
    archive.write_bytes(
        tar(file(b"oci-layout", b'{"imageLayoutVersion":"1.0.0"}'), file(b"index.json", b"{}"))
    )
    with pytest.raises(ImageError, match="an OCI layout: a container image"):
        store.open_archive(str(archive), IDS)


def test_an_archive_of_too_many_members_names_the_remedy(
    store: MountedArchives, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("sandbox.images.indexing.index_archive", exhausted)
    assert bounded.MEMORY
    with pytest.raises(ImageError, match="indexing takes more than 256 MiB of memory") as caught:
        store.open_archive(str(archive), IDS)
    assert caught.value.hint == 'remove "mount = true", which unpacks it'


def test_a_reader_finds_the_archive_and_its_index(store: MountedArchives, archive: Path) -> None:
    place = place_of(store, archive)
    fds = open_recorded(str(place), str(archive))
    assert os.path.samestat(os.fstat(fds[0]), archive.stat())
    assert os.path.samestat(os.fstat(fds[1]), (place / MEMBERS).stat())
    for fd in fds:
        os.close(fd)
    os.utime(archive, (1, 1))
    place_of(store, archive)  # which records the new time
    for fd in open_recorded(str(place), str(archive)):
        os.close(fd)


def test_a_reader_refuses_another_archive_and_a_damaged_index(store: MountedArchives, archive: Path) -> None:
    place = place_of(store, archive)
    kept = archive.with_name("kept.tar")
    os.rename(archive, kept)
    shutil.copy(kept, archive)
    with pytest.raises(StateError, match="has changed since"):
        open_recorded(str(place), str(archive))
    os.rename(kept, archive)
    (place / MEMBERS).write_bytes(b"")
    with pytest.raises(StateError, match="the file is empty"):
        open_recorded(str(place), str(archive))


def test_names_are_found_without_following_links(store: MountedArchives, archive: Path) -> None:
    layer = store.open_archive(str(archive), IDS)
    assert layer.members_fd is not None
    names = ArchiveNames(layer.members_fd, len(CONTENT))
    assert [names.link(path) for path in ("l", "etc", "etc/f", "l/f", "none", "gone", "etc/f/x")] == [
        "etc", "", "", None, None, None, None,
    ]  # fmt: skip
    assert [names.is_directory(path) for path in ("/", "/etc", "/l", "/etc/f", "/none")] == [
        True, True, False, False, False,
    ]  # fmt: skip
    layer.close()
