"""Archives of compressed frames: what they contain is what the plain archive does, in bounded memory."""

from __future__ import annotations

import errno
import gzip
import os
import random
import threading
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.images.compression import zstd_module
from tests.support.archives import mounted_archive
from tests.unit.sandbox.images.tars import directory, file, pax_sparse, tar
from tests.unit.unionfs.layer_index.test_archive_layer import Over
from unionfs.errors import UnionError
from unionfs.layer_index import framed_data
from unionfs.layer_index.archive_frames import LARGEST_FRAME, Frame, key_of, read_key
from unionfs.layer_index.format import DamagedError, encode_header
from unionfs.layer_index.framed_data import FramedData

zstd: Any = zstd_module("test")
CONTENT = random.Random(2).randbytes(30_000) + bytes(30_000)
PLAIN = tar(directory(b"d"), file(b"d/f", CONTENT), pax_sparse("1.0"), file(b"g", b"short"))
#: A skippable frame, as pzstd, zstd:chunked and the seekable format have (RFC 8878, 3.1.2).
SKIPPED = b"\x50\x2a\x4d\x18\x04\0\0\0skip"


def in_frames(pack: Callable[[bytes], bytes], content: bytes, size: int, between: bytes = b"") -> bytes:
    """Return *content* packed in frames of *size* bytes."""
    return b"".join(between + pack(content[at : at + size]) for at in range(0, len(content), size)) + between


def _gzip(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)


@pytest.mark.parametrize("size", [512, 1000, 1 << 20])
@pytest.mark.parametrize(
    ("pack", "between"),
    [(_gzip, b""), (zstd.compress, b""), (zstd.compress, SKIPPED), (zstd.compress, zstd.compress(b""))],
    ids=["gzip", "zstd", "zstd-skippable", "zstd-empty"],
)
def test_an_archive_of_frames_shows_what_the_plain_one_does(
    pack: Callable[[bytes], bytes], between: bytes, size: int
) -> None:
    plain = Over(mounted_archive(PLAIN))
    framed = Over(mounted_archive(in_frames(pack, PLAIN, size, between)))
    try:
        assert framed.show(ino=False) == plain.show(ino=False)
        number = framed.open("d/f")
        for offset in range(0, len(CONTENT), 777):
            assert framed.fs.files.read(number, offset, 1500) == CONTENT[offset : offset + 1500]
        framed.fs.handles.close_file(number)
    finally:
        plain.close()
        framed.close()


def test_files_of_an_archive_of_frames_are_copied_up(tmp_path: Any) -> None:
    content = tar(file(b"f", CONTENT, uid=os.geteuid(), gid=os.getegid()))
    union = Over(mounted_archive(in_frames(zstd.compress, content, 4096)), base=tmp_path)
    try:
        union.write("f", b"changed", offset=40_000)
        expected = CONTENT[:40_000] + b"changed" + CONTENT[40_007:]
        assert union.read("f") == expected == (tmp_path / "upper/f").read_bytes()
    finally:
        union.close()


def framed(content: bytes, sizes: list[int]) -> tuple[int, FramedData, list[int]]:
    """Return a descriptor, the data of *content* in frames of *sizes*, and a list of the frames that are decompressed."""
    fd = os.memfd_create("frames")
    frames, stored, shown, loaded = [], 0, 0, []
    for size in sizes:
        packed = _gzip(content[shown : shown + size])
        frames.append(Frame(stored, shown))
        stored += os.pwrite(fd, packed, stored)
        shown += size
    frames.append(Frame(stored, shown))
    real = framed_data.decompressor(fd)

    def decompress(packed: bytes, size: int) -> bytes:
        loaded.append(size)
        return real(packed, size)

    return fd, FramedData(fd, frames, decompress), loaded


@settings(max_examples=100, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 50), min_size=1, max_size=10),
    at=st.integers(0, 500),
    length=st.integers(1, 100),
    offset=st.integers(0, 20),
)
def test_any_range_is_read_and_copied(sizes: list[int], at: int, length: int, offset: int) -> None:
    content = random.Random(3).randbytes(sum(sizes))
    fd, data, _ = framed(content, sizes)
    target = os.memfd_create("target")
    try:
        room = bytearray(length)
        if at + length > len(content):
            with pytest.raises(OSError, match="shorter"):
                data.read(memoryview(room), at, cached=False)
            return
        assert data.read(memoryview(room), at, cached=False)
        assert room == content[at : at + length]
        assert data.read(memoryview(room), at, cached=True)
        data.copy(at, length, target, offset)
        assert os.pread(target, 1000, 0) == bytes(offset) + content[at : at + length]
    finally:
        os.close(fd)
        os.close(target)


def test_what_is_kept_is_bounded_and_the_latest_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(framed_data, "_MOST_KEPT", 250)
    fd, data, loaded = framed(bytes(1000), [100] * 10)
    room = memoryview(bytearray(1))
    for position in (0, 100, 0, 200, 0, 100):
        assert data.read(room, position, cached=False)
    assert len(loaded) == 4
    assert sum(map(len, data._kept.values())) <= 250
    assert not data.read(room, 900, cached=True)
    assert len(loaded) == 4
    os.close(fd)


def test_a_read_from_memory_does_not_wait_for_a_thread_that_decompresses() -> None:
    fd, data, _ = framed(bytes(100), [100])
    room = memoryview(bytearray(1))
    data._lock.acquire()
    seen: list[bool] = []
    thread = threading.Thread(target=lambda: seen.append(data.read(room, 0, cached=False)))
    thread.start()
    assert not data.read(room, 0, cached=True)
    data._lock.release()
    thread.join()
    assert seen == [True]
    os.close(fd)


@pytest.mark.parametrize("pack", [_gzip, zstd.compress], ids=["gzip", "zstd"])
@pytest.mark.parametrize("damage", ["changed", "truncated"])
def test_a_damaged_frame_is_an_error_of_the_request(pack: Callable[[bytes], bytes], damage: str) -> None:
    source = mounted_archive(in_frames(pack, PLAIN, 4096))
    size = os.fstat(source.fd).st_size
    union = Over(source)
    try:
        if damage == "truncated":
            os.truncate(f"/proc/self/fd/{source.fd}", size // 4)
        else:
            fd = os.open(f"/proc/self/fd/{source.fd}", os.O_WRONLY)
            os.pwrite(fd, os.urandom(size), 0)
            os.close(fd)
        with pytest.raises(OSError, match=r"damaged|shorter|another length") as caught:
            union.read("d/f")
        assert caught.value.errno == errno.EIO
        assert union.stat("d/f").size == len(CONTENT)
    finally:
        union.close()


@given(
    frames=st.lists(st.tuples(st.integers(0, 1 << 40), st.integers(0, 1 << 40)), max_size=4).map(
        lambda pairs: [Frame(*pair) for pair in pairs]
    ),
    size=st.integers(0, 1 << 40),
)
def test_only_frames_in_order_are_read(frames: list[Frame], size: int) -> None:
    key = key_of(size, frames)
    content = encode_header(key, b"", length=len(key) + 100)
    sound = not frames or (
        len(frames) > 1
        and frames[0].shown == 0
        and frames[-1].stored <= size
        and all(
            one.stored < other.stored and 0 < other.shown - one.shown <= LARGEST_FRAME
            for one, other in pairwise(frames)
        )
    )
    if sound:
        assert read_key(content, size) == (key, tuple(frames))
    else:
        with pytest.raises(DamagedError):
            read_key(content, size)


def test_a_table_of_frames_of_another_archive_is_refused() -> None:
    source = mounted_archive(in_frames(_gzip, PLAIN, 4096))
    with open(f"/proc/self/fd/{source.fd}", "ab") as archive:
        archive.write(b"more")
    with pytest.raises(UnionError, match="another archive"):
        Over(source)
