"""Blobs of the image directory: complete under their digests, received by one process at a time."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import threading
from pathlib import Path

import pytest

from sandbox.errors import ImageError, StateError
from sandbox.images.blobs import BlobStore
from sandbox.images.oci.digest import Digest

CONTENT = b"content"
DIGEST = Digest.of(CONTENT)


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(str(tmp_path / "images"))


def partial(blobs: BlobStore) -> list[str]:
    return os.listdir(blobs.partial) if os.path.isdir(blobs.partial) else []


def receive(blobs: BlobStore, content: bytes = CONTENT, *, resumable: bool = True) -> bool:
    """Receive the blob; return whether it was missing."""
    with blobs.receiving(DIGEST, resumable=resumable) as fd:
        if fd is None:
            return False
        os.ftruncate(fd, 0)
        os.pwrite(fd, content, 0)
    return True


def test_an_added_blob_is_complete_and_only_its_owner_may_read_it(blobs: BlobStore) -> None:
    assert not blobs.has(DIGEST)
    assert blobs.size(DIGEST) == 0
    assert blobs.add(CONTENT) == DIGEST
    assert blobs.has(DIGEST)
    assert (blobs.size(DIGEST), blobs.read(DIGEST, 7)) == (7, CONTENT)
    assert stat.S_IMODE(os.stat(blobs.path(DIGEST)).st_mode) == 0o600
    assert list(blobs.digests()) == [DIGEST]
    assert partial(blobs) == []


def test_a_complete_blob_is_not_received_again(blobs: BlobStore) -> None:
    blobs.add(CONTENT)
    before = os.stat(blobs.path(DIGEST))
    assert not receive(blobs, b"something else")
    blobs.add(CONTENT)
    assert os.stat(blobs.path(DIGEST)) == before


def test_an_empty_blob_can_be_stored(blobs: BlobStore) -> None:
    digest = blobs.add(b"")
    assert blobs.has(digest)
    assert blobs.read(digest, 0) == b""


def test_a_blob_that_is_larger_than_the_limit_is_not_read(blobs: BlobStore) -> None:
    blobs.add(CONTENT)
    with pytest.raises(ImageError, match="more than 6 bytes"):
        blobs.read(DIGEST, 6)


def test_a_missing_blob_is_named_with_the_remedy(blobs: BlobStore) -> None:
    with pytest.raises(ImageError, match=f"has no blob {DIGEST}") as caught:
        blobs.open(DIGEST)
    assert caught.value.hint == "fetch or import the image again"


@pytest.mark.parametrize("resumable", [True, False])
def test_after_an_error_only_a_resumable_blob_stays(blobs: BlobStore, *, resumable: bool) -> None:
    with pytest.raises(ImageError), blobs.receiving(DIGEST, resumable=resumable) as fd:
        assert fd is not None
        os.write(fd, b"cont")
        raise ImageError("the connection was cut")
    assert not blobs.has(DIGEST)
    assert partial(blobs) == ([f"sha256-{DIGEST.hex}"] if resumable else [])
    with blobs.receiving(DIGEST) as fd:
        assert fd is not None
        assert os.fstat(fd).st_size == (4 if resumable else 0)
        os.pwrite(fd, CONTENT, 0)
    assert blobs.read(DIGEST, 7) == CONTENT


def test_nothing_is_left_of_a_blob_of_which_nothing_was_received(blobs: BlobStore) -> None:
    with pytest.raises(ImageError), blobs.receiving(DIGEST):
        raise ImageError("the host is unknown")
    assert partial(blobs) == []


def test_a_process_that_waits_for_a_blob_finds_it_complete(blobs: BlobStore) -> None:
    found: list[int | None] = []
    waiting = threading.Event()

    def wait() -> None:
        with blobs.receiving(DIGEST, waiting.set) as fd:
            found.append(fd)

    with blobs.receiving(DIGEST) as fd:
        assert fd is not None
        other = threading.Thread(target=wait)
        other.start()
        assert waiting.wait(60)
        os.write(fd, CONTENT)
    other.join(60)
    assert found == [None]
    assert partial(blobs) == []


def test_the_caller_can_end_the_wait_for_a_blob(blobs: BlobStore) -> None:
    class EndedError(Exception): ...

    def end() -> None:
        raise EndedError

    with blobs.receiving(DIGEST), pytest.raises(EndedError), blobs.receiving(DIGEST, end):
        pytest.fail("two processes receive one blob")


def test_a_full_disk_is_an_error_with_its_remedy_and_leaves_nothing(
    blobs: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StateError, match=f"{DIGEST} cannot be written .* no space left") as caught:
        blobs.add(CONTENT)
    assert "SANDBOX_CACHE_DIR" in str(caught.value.hint)
    assert partial(blobs) == []
    assert not blobs.has(DIGEST)


def test_a_blob_gets_its_name_after_it_is_on_the_disk(
    blobs: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []
    fsync = os.fsync

    def noted(fd: int) -> None:
        seen.append(blobs.has(DIGEST))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", noted)
    blobs.add(CONTENT)
    assert seen[0] is False


def test_partial_blobs_are_removed_unless_a_process_receives_them(blobs: BlobStore) -> None:
    os.makedirs(blobs.partial)
    for name in ("sha256-a", "new-b"):
        with open(os.path.join(blobs.partial, name), "w") as file:
            file.write("left by a killed process")
    with open(os.path.join(blobs.partial, "sha256-held"), "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert sorted(map(os.path.basename, blobs.remove_partial())) == ["new-b", "sha256-a"]
        assert partial(blobs) == ["sha256-held"]
    assert blobs.remove_partial() != []
    assert partial(blobs) == []


def test_other_files_among_the_blobs_are_not_taken_for_blobs(blobs: BlobStore) -> None:
    blobs.add(CONTENT)
    for name in ("README", "a" * 63, "A" * 64):
        with open(os.path.join(blobs.base, "sha256", name), "w"):
            pass
    assert list(blobs.digests()) == [DIGEST]


def test_a_removed_blob_tells_its_size(blobs: BlobStore) -> None:
    blobs.add(CONTENT)
    assert blobs.remove(DIGEST) == 7
    assert blobs.remove(DIGEST) == 0
    assert not blobs.has(DIGEST)


def test_a_written_blob_without_a_digest_is_removed(blobs: BlobStore) -> None:
    with blobs.writing() as new:
        new.write(CONTENT)
    assert partial(blobs) == []
    assert list(blobs.digests()) == []
    with blobs.writing() as new:
        new.write(CONTENT)
        new.publish(DIGEST)
    assert blobs.read(DIGEST, 7) == CONTENT
    assert partial(blobs) == []
