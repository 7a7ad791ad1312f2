"""Layers that are archives: damaged indexes and archives give errors, and nothing of them needs a descriptor."""

from __future__ import annotations

import errno
import os
import random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.archives import memory_file, mounted_archive
from tests.unit.sandbox.images.tars import directory, file, hard_link, pax, pax_sparse, symlink, tar
from tests.unit.unionfs.support import Union
from unionfs.assemble import LayerSource, StackSource, open_stack
from unionfs.errors import UnionError
from unionfs.layer_index.archive_records import Record
from unionfs.layer_index.format import DamagedError

if TYPE_CHECKING:
    from pathlib import Path

_OPEN_DIR = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
#: The owner of what is copied up: without root, only this account can own the copy.
UID, GID = os.geteuid(), os.getegid()
CONTENT = random.Random(1).randbytes(50_000)
ARCHIVE = tar(
    directory(b"d", mode=0o700, uid=UID, gid=GID),
    file(b"d/f", CONTENT, uid=UID, gid=GID),
    hard_link(b"d/g", b"d/f"),
    symlink(b"l", b"d/f"),
    pax([(b"SCHILY.xattr.user.color", b"blue")]) + file(b"x", b"with an attribute"),
    pax_sparse("1.0"),
    file(b".wh.gone"),
    file(b"d/.wh..wh..opq"),
)


class Over(Union):
    """A union over layers that are given as they are opened; *base* makes it writable."""

    def __init__(self, *lowers: LayerSource, base: Path | None = None) -> None:
        source = StackSource(lowers=lowers)
        if base is not None:
            for name in ("upper", "work"):
                (base / name).mkdir()
            source = StackSource(
                lowers=lowers,
                upper_fd=os.open(base / "upper", _OPEN_DIR),
                work_fd=os.open(base / "work", _OPEN_DIR),
            )
        self.fs = open_stack(source)


def content_of(fd: int) -> bytes:
    return os.pread(fd, os.fstat(fd).st_size, 0)


def with_index(index: bytes, archive: bytes = ARCHIVE) -> LayerSource:
    return LayerSource(fd=memory_file(archive), archive_index_fd=memory_file(index))


def index_of(archive: bytes = ARCHIVE) -> bytes:
    source = mounted_archive(archive)
    assert source.archive_index_fd is not None
    try:
        return content_of(source.archive_index_fd)
    finally:
        os.close(source.fd)
        os.close(source.archive_index_fd)


INDEX = index_of()


def read_everything(source: LayerSource) -> str:
    """Read all that a union of *source* shows; return "shown", or how it was refused."""
    try:
        union = Over(source)
    except UnionError as error:
        return "refused" if "the index of an archive cannot be used" in str(error) else str(error)
    try:
        union.show()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    finally:
        union.close()
    return "shown"


def test_the_archive_and_its_index_are_read() -> None:
    assert read_everything(with_index(INDEX)) == "shown"


@settings(max_examples=300, deadline=None)
@given(at=st.integers(0, len(INDEX) - 1), value=st.integers(1, 255))
def test_a_damaged_index_is_refused_or_an_error_of_the_request(at: int, value: int) -> None:
    damaged = bytearray(INDEX)
    damaged[at] ^= value
    assert read_everything(with_index(bytes(damaged))) in ("refused", "EIO")


@settings(max_examples=50, deadline=None)
@given(length=st.integers(0, len(INDEX) - 1))
def test_a_truncated_index_is_refused(length: int) -> None:
    assert read_everything(with_index(INDEX[:length])) == "refused"


def test_the_index_of_an_archive_of_another_size_is_refused() -> None:
    assert read_everything(with_index(INDEX, ARCHIVE + bytes(512))) == "refused"


def hostile(at: int, number: int) -> bytes:
    """Return an index whose row fields are wrong although all checksums match."""
    import zlib

    from unionfs.layer_index import format as index_format

    key = index_format.archive_key(len(ARCHIVE))
    header = index_format.HEADER.unpack(INDEX[: index_format.HEADER.size])
    table_at, pages = header[5], header[6]
    entry = index_format._PAGE
    content = bytearray(INDEX[:table_at])
    table = b""
    for page in range(pages):
        start, length, *rest, _ = entry.unpack_from(INDEX, table_at + page * entry.size)
        rows = rest[0]
        for row in range(rows):
            place = start + row * index_format.ROW.size
            fields = list(index_format.ROW.unpack_from(content, place))
            if number < 0 and at in (8, 9, 10):
                fields[at] = number
            else:
                fields[at] = number & ((1 << (16 if at > 11 else 32 if at in (0, 1, 2, 3, 11) else 64)) - 1)
            content[place : place + index_format.ROW.size] = index_format.ROW.pack(*fields)
        checksum = zlib.crc32(content[start : start + length])
        table += entry.pack(start, length, *rest, checksum)
    encoded = index_format.encode_header(key, table, length=table_at + len(table))
    content[: len(encoded)] = encoded
    return bytes(content) + table


@settings(max_examples=200, deadline=None)
@given(
    at=st.integers(0, 13),
    number=st.sampled_from(
        [0, 1, 2, 7, 0o100644, 0o40755, 0o120777, 1 << 16, (1 << 32) - 1, (1 << 63) - 1, -1]
    ),
)
def test_an_index_with_wrong_fields_does_no_harm(at: int, number: int) -> None:
    source = with_index(hostile(at, number))
    try:
        union = Over(source)
    except UnionError:
        return
    try:
        for path in ("d", "d/f", "d/g", "l", "x", "s"):
            try:
                inode = union.inode(path)
                shown = union.fs.attributes.of(inode)
                for name in union.fs.xattrs.list(inode.ino):
                    union.fs.xattrs.get(inode.ino, name)
                if shown.mode & 0o170000 == 0o100000 and shown.size < 1 << 20:
                    union.read(path)
                elif shown.mode & 0o170000 == 0o120000:
                    union.fs.files.readlink(inode.ino)
            except OSError:
                continue
            except AssertionError:  # of the test's own helper: another type than the name had
                continue
    finally:
        union.close()


@pytest.mark.parametrize("left", [0, 512, len(ARCHIVE) // 2])
def test_a_truncated_archive_gives_an_error_and_no_zeros(tmp_path: Path, left: int) -> None:
    union = Over(with_index(INDEX), base=tmp_path)
    try:
        number = union.open("d/f")
        archive_fd = union.fs.inode_table.layers[1].file_system_fd
        os.truncate(f"/proc/self/fd/{archive_fd}", left)
        with pytest.raises(OSError, match="the archive has become shorter") as caught:
            union.fs.files.read(number, len(CONTENT) - 100, 100)
        assert caught.value.errno == errno.EIO
        with pytest.raises(OSError, match="the archive has become shorter"):
            union.write("d/f", b"1")
        assert os.listdir(tmp_path / "work/unionfs/tmp") == []
        union.fs.handles.close_file(number)
        assert union.stat("d/f").size == len(CONTENT)
        assert union.names("d") == ["f", "g"]
    finally:
        union.close()


def test_open_files_of_an_archive_need_no_descriptors() -> None:
    union = Over(with_index(INDEX))
    try:
        before = len(os.listdir("/proc/self/fd"))
        numbers = [union.open("d/f") for _ in range(100)]
        assert len(os.listdir("/proc/self/fd")) == before
        assert {union.fs.files.read(number, 7, 5) for number in numbers} == {CONTENT[7:12]}
        for number in numbers:
            union.fs.handles.close_file(number)
    finally:
        union.close()


def test_an_open_file_of_an_archive_sees_what_is_written_after_its_copy_up(tmp_path: Path) -> None:
    union = Over(with_index(INDEX), base=tmp_path)
    try:
        number = union.open("d/f")
        union.write("d/g", b"written", offset=10)
        assert union.fs.files.read(number, 0, 20) == CONTENT[:10] + b"written" + CONTENT[17:20]
        union.fs.handles.close_file(number)
        assert (union.stat("d/f").ino, union.stat("d/f").nlink) == (union.stat("d/g").ino, 2)
    finally:
        union.close()


def test_a_sparse_file_is_copied_up_with_its_holes(tmp_path: Path) -> None:
    large = pax(
        [
            (b"GNU.sparse.size", b"10000000"),
            (b"GNU.sparse.numblocks", b"1"),
            (b"GNU.sparse.map", b"9000000,5"),
        ]
    )
    archive = tar(large + file(b"s", b"12345", uid=UID, gid=GID))
    source = mounted_archive(archive)
    union = Over(source, base=tmp_path)
    try:
        union.write("s", b"x", offset=4)
        info = (tmp_path / "upper/s").stat()
        assert info.st_size == 10_000_000
        assert info.st_blocks * 512 < 1 << 20
        with open(tmp_path / "upper/s", "rb") as copy:
            content = copy.read()
        assert content == bytes(4) + b"x" + bytes(8_999_995) + b"12345" + bytes(999_995)
    finally:
        union.close()


def test_the_layers_of_two_equal_archives_have_objects_of_their_own() -> None:
    layers = [with_index(INDEX), with_index(INDEX)]
    union = Over(*layers)
    try:
        assert union.names() == ["d", "l", "s", "x"]
    finally:
        union.close()


@settings(max_examples=200, deadline=None)
@given(content=st.binary(max_size=80), size=st.integers(0, 200))
def test_any_bytes_are_a_record_or_are_refused(content: bytes, size: int) -> None:
    try:
        record = Record.decode(content, size)
    except DamagedError:
        return
    assert record.encode() == content


@given(
    extents=st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), max_size=5),
    xattrs=st.dictionaries(
        st.binary(min_size=1, max_size=5).filter(lambda name: b"\0" not in name), st.binary()
    ),
    position=st.integers(0, (1 << 64) - 1),
)
def test_a_record_is_what_was_encoded(
    extents: list[tuple[int, int]], xattrs: dict[bytes, bytes], position: int
) -> None:
    placed, at = [], 0
    for gap, length in extents:
        placed.append((at + gap, length))
        at += gap + length
    record = Record(position, tuple(placed), xattrs)
    assert Record.decode(record.encode(), at) == record
