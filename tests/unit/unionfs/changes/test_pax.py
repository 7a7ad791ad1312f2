"""Headers of pax archives, read by Python's tarfile, by the reader of the launcher's images, and by GNU tar."""

from __future__ import annotations

import io
import os
import stat
import subprocess
import tarfile
import tempfile
from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from sandbox.images import tar as images
from tests.unit.unionfs.changes.archives import data_ranges
from unionfs.changes import pax
from unionfs.changes.pax import Member

if TYPE_CHECKING:
    from pathlib import Path

EXAMPLES = settings(
    deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
#: One program for each example.
FEW = settings(EXAMPLES, max_examples=15)
LARGE = 8 << 30
_TYPES = {
    stat.S_IFREG: b"0",
    stat.S_IFLNK: b"2",
    stat.S_IFCHR: b"3",
    stat.S_IFBLK: b"4",
    stat.S_IFDIR: b"5",
    stat.S_IFIFO: b"6",
}

# -- what is written -----------------------------------------------------------------------------------

_BYTES = st.binary(min_size=1, max_size=40).filter(lambda name: b"/" not in name and b"\0" not in name)
_TEXT = st.text(min_size=1, max_size=20).filter(lambda text: "/" not in text and "\0" not in text)
NAMES = st.one_of(
    _BYTES,
    _TEXT.filter(lambda text: not any("\ud800" <= each <= "\udfff" for each in text)).map(str.encode),
    st.sampled_from(
        [b"-x", b" ", b"new\nline", b"tab\t", b"=", b"\\", b"\xff" * 255, b"%", "\u00e9".encode()]
    ),
    # Around the 100 bytes of a header's field, the 155 of its prefix, and the 255 of a file name.
    st.sampled_from([97, 98, 99, 100, 101, 154, 155, 156, 254, 255]).map(lambda length: b"l" * length),
).filter(lambda name: name not in {b".", b".."})
PATHS = st.lists(NAMES, min_size=1, max_size=4).map(b"/".join)
IDS = st.one_of(
    st.integers(0, 2**32 - 2), st.sampled_from([0, 0o7777777, 0o7777777 + 1, 65534, 2**31, 2**32 - 2])
)
TIMES = st.one_of(
    st.integers(-(2**33) * 10**9, 2**34 * 10**9),
    st.sampled_from(
        [-1, 0, 1, -(10**9), -(10**9) - 1, -(10**9) + 1, 10**9, 8**11 * 10**9 - 1, 8**11 * 10**9]
    ),
)
SIZES = st.one_of(st.integers(0, 5000), st.sampled_from([LARGE - 1, LARGE, LARGE + 1, 1 << 40]))
_XATTR_NAMES = st.one_of(
    st.sampled_from([b"a", b"a=b", b"%", b"%3D", b"%25", b"%253D", b"%=", b"%%3D", b"a\nb"]),
    st.text("=%325D", min_size=1).map(str.encode),
    st.binary(min_size=1, max_size=20).filter(lambda name: b"\0" not in name),
).map(lambda name: b"user." + name)
_VALUES = st.one_of(
    st.binary(max_size=60), st.sampled_from([b"", b"\n", b"=", b"\0", b"a\0b\n=12 path=x\n", b"x" * 990])
)
XATTRS = st.dictionaries(_XATTR_NAMES, _VALUES, max_size=3)


@st.composite
def members(draw: st.DrawFn) -> Member:
    """Draw a member of any type."""
    kind = draw(st.sampled_from(list(_TYPES)))
    made = Member(
        path=draw(PATHS),
        mode=kind | draw(st.integers(0, 0o7777)),
        uid=draw(IDS),
        gid=draw(IDS),
        mtime_ns=draw(TIMES),
        xattrs=draw(XATTRS),
    )
    if kind == stat.S_IFREG:
        made.size = draw(SIZES)
    elif kind == stat.S_IFLNK:
        made.link = draw(PATHS)
    elif kind in {stat.S_IFCHR, stat.S_IFBLK}:
        made.device = draw(st.integers(0, (1 << 12) - 1)), draw(st.integers(0, (1 << 20) - 1))
    if kind != stat.S_IFDIR and draw(st.booleans()):
        made.hard_link, made.link = True, draw(PATHS)
    return made


def stored_size(member: Member) -> int:
    """Return how many bytes of data follow the header of *member*, without the map of a file with holes."""
    if member.hard_link or not stat.S_ISREG(member.mode):
        return 0
    return member.size if member.ranges is None else sum(length for _, length in member.ranges)


def write(file: io.BufferedRandom | io.BufferedWriter, member: Member, data: bytes | None = None) -> None:
    """Write *member* with *data*; for None a hole, so that the archive takes no space."""
    size = stored_size(member)
    file.write(pax.header(member))
    if data is None:
        file.seek(-(-size // pax.BLOCK) * pax.BLOCK, os.SEEK_CUR)
    else:
        assert len(data) == size
        file.write(pax.padded(data))


# -- the readers in Python -----------------------------------------------------------------------------


def decoded(name: str) -> bytes:
    """Return the name of an attribute as GNU tar decodes it (xattrs.c, xattr_decode_keyword)."""
    found, rest = b"", os.fsencode(name)
    while rest:
        if rest.startswith((b"%3D", b"%25")):
            found, rest = found + (b"=" if rest.startswith(b"%3D") else b"%"), rest[3:]
        else:
            found, rest = found + rest[:1], rest[1:]
    return found


def as_tarfile_reads(info: tarfile.TarInfo) -> Member:
    """Return what tarfile read. Its times are floats, so the record is used where there is one."""
    records = info.pax_headers
    time = Decimal(records["mtime"]) if "mtime" in records else Decimal(int(info.mtime))
    prefix = "SCHILY.xattr."
    kinds = {flag: kind for kind, flag in _TYPES.items()}
    return Member(
        path=os.fsencode(info.name),
        mode=kinds.get(info.type, 0) | info.mode,
        uid=info.uid,
        gid=info.gid,
        mtime_ns=int(time * 10**9),
        size=info.size,
        link=os.fsencode(info.linkname),
        hard_link=info.islnk(),
        device=(info.devmajor, info.devminor) if info.isdev() and not info.isfifo() else (0, 0),
        xattrs={
            decoded(key.removeprefix(prefix)): os.fsencode(value)
            for key, value in records.items()
            if key.startswith(prefix)
        },
    )


def as_images_read(read: images.Member) -> Member:
    """Return what the launcher's reader read."""
    kinds = {flag: kind for kind, flag in _TYPES.items()}
    return Member(
        path=read.name.removesuffix(b"/") if read.kind is images.Kind.DIRECTORY else read.name,
        mode=kinds.get(read.kind.value, 0) | read.mode,
        uid=read.uid,
        gid=read.gid,
        mtime_ns=read.mtime_ns,
        size=read.size,
        link=read.link,
        hard_link=read.kind is images.Kind.HARD_LINK,
        xattrs=read.xattrs,
        ranges=read.extents,
    )


def expected(member: Member, *, devices: bool = True) -> Member:
    """Return what a reader can tell of *member*: of a hard link not the type."""
    found = replace(member, ranges=None)
    if member.hard_link:
        found.mode, found.size, found.device = stat.S_IMODE(member.mode), 0, (0, 0)
    if not devices:
        found.device = 0, 0
    return found


def read_by_tarfile(file: io.BufferedRandom) -> list[tarfile.TarInfo]:
    """Return the members of an archive."""
    file.seek(0)
    with tarfile.open(fileobj=file, mode="r:", encoding="utf-8", errors="surrogateescape") as archive:
        return archive.getmembers()


@EXAMPLES
@example([Member(path=b"f", mode=stat.S_IFREG, size=LARGE, uid=2**32 - 2, mtime_ns=-1)])
@example([Member(path=b"\xff" * 255, mode=stat.S_IFLNK, link=b"\xfe" * 300)])
@given(st.lists(members(), max_size=4))
def test_tarfile_and_the_reader_of_images_read_what_was_written(written: list[Member]) -> None:
    assume(sum(map(stored_size, written)) < 1 << 42)  # what a file of a file system can have
    with tempfile.TemporaryFile() as file:
        for member in written:
            write(file, member)
        file.write(pax.END)
        assert file.tell() % pax.BLOCK == 0
        assert [as_tarfile_reads(info) for info in read_by_tarfile(file)] == [
            expected(member) for member in written
        ]
        file.seek(0)
        stream = iter(images.open_archive(file, "archive"))
        # It reads the data that it skips, so the archive is read up to the header of the first large file.
        for member in written:
            assert as_images_read(next(stream)) == expected(member, devices=False)
            if stored_size(member) > LARGE // 2:
                break
        else:
            assert next(stream, None) is None


@st.composite
def sparse_files(draw: st.DrawFn) -> tuple[Member, bytes]:
    """Draw a file with holes, and its contents."""
    size = draw(st.integers(1, 60_000))
    marks = sorted(draw(st.sets(st.integers(0, size), max_size=8)))
    ranges = [(start, end - start) for start, end in zip(marks[::2], marks[1::2], strict=False)]
    contents = bytearray(size)
    for start, length in ranges:
        contents[start : start + length] = bytes(1 + (start + at) % 255 for at in range(length))
    member = Member(
        path=draw(PATHS), mode=stat.S_IFREG | 0o640, size=size, ranges=ranges, mtime_ns=draw(TIMES),
        xattrs=draw(XATTRS),
    )  # fmt: skip
    return member, bytes(contents)


def data_of(member: Member, contents: bytes) -> bytes:
    """Return what an archive has of *contents*."""
    assert member.ranges is not None
    return b"".join(contents[start : start + length] for start, length in member.ranges)


@EXAMPLES
@given(sparse_files())
def test_the_readers_put_the_data_of_a_file_with_holes_in_its_places(made: tuple[Member, bytes]) -> None:
    member, contents = made
    with tempfile.TemporaryFile() as file:
        write(file, member, data_of(member, contents))
        file.write(pax.END)
        file.seek(0)
        with tarfile.open(fileobj=file, mode="r:", encoding="utf-8", errors="surrogateescape") as archive:
            (info,) = archive.getmembers()
            data = archive.extractfile(info)
            assert data is not None
            assert data.read() == contents
            assert as_tarfile_reads(info) == expected(member)
        file.seek(0)
        found = bytearray(member.size)
        stream = images.open_archive(file, "archive")
        for read in stream:
            for offset, piece in stream.data():
                found[offset : offset + len(piece)] = piece
            assert replace(as_images_read(read), ranges=None) == expected(member)
        assert found == contents


# -- GNU tar -------------------------------------------------------------------------------------------


def gnu_tar(*arguments: str, archive: str) -> bytes:
    """Run GNU tar on *archive*; return its output. It must print no message."""
    # POSIX has the record hdrcharset; GNU tar takes every name for bytes, and warns that it ignores the record.
    silent = ["--warning=no-unknown-keyword", "--warning=no-timestamp"]
    done = subprocess.run(
        ["tar", "--file", archive, *silent, *arguments],
        capture_output=True,
        check=False,
        env={**os.environ, "LC_ALL": "C.UTF-8", "TZ": "UTC"},
    )
    assert (done.returncode, done.stderr) == (0, b""), done
    return done.stdout


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory for archives and what is in them."""
    return tmp_path_factory.mktemp("pax")


@FEW
@given(st.lists(members(), min_size=1, max_size=12))
@example(
    [
        Member(path=b"f%d" % number, mode=stat.S_IFREG, uid=2**32 - 2, gid=0o10000000, mtime_ns=time)
        for number, time in enumerate([-1, -(10**9) - 1, 8**11 * 10**9, 5, -5 * 10**9])
    ]
)
def test_gnu_tar_lists_what_was_written(scratch: Path, written: list[Member]) -> None:
    assume(sum(map(stored_size, written)) < 1 << 42)
    at = str(scratch / "archive")
    with open(at, "wb") as file:
        for member in written:
            write(file, member)
        file.write(pax.END)
    lines = gnu_tar(
        "--list", "--verbose", "--full-time", "--numeric-owner", "--quoting-style=escape", archive=at
    ).split(b"\n")[:-1]
    assert len(lines) == len(written)
    for line, member in zip(lines, written, strict=True):
        mode, owner, size, *_ = line.split()
        assert owner == b"%d/%d" % (member.uid, member.gid)
        if stat.S_ISREG(member.mode) and not member.hard_link:
            assert int(size) == member.size
        kind = b"h" if member.hard_link else stat.filemode(member.mode)[:1].encode()
        assert mode == kind + stat.filemode(member.mode)[1:].encode()
    # Quoting would hide where a name ends, so names are compared apart.
    names = gnu_tar("--list", "--null", "--quoting-style=literal", archive=at).split(b"\n")
    assert b"\n".join(names) == b"".join(
        member.path + (b"/" if stat.S_ISDIR(member.mode) else b"") + b"\n" for member in written
    )


@st.composite
def unpackable(draw: st.DrawFn) -> list[tuple[Member, bytes]]:
    """Draw objects with different names, as this account can make them, with the contents of files."""
    names = draw(st.lists(NAMES.filter(lambda name: len(name) < 255), min_size=1, max_size=10, unique=True))
    made: list[tuple[Member, bytes]] = []
    for number, name in enumerate(names):
        # A directory of its own, so that long paths occur and no name is below another.
        parent = draw(st.sampled_from([b"", b"p" * 99, b"q" * 200 + b"/" + b"\xfe"]))
        path = b"/".join(filter(None, [b"%d" % number, parent, name]))
        kind = draw(st.sampled_from([stat.S_IFREG, stat.S_IFREG, stat.S_IFLNK, stat.S_IFDIR, stat.S_IFIFO]))
        member = Member(path=path, mode=kind | draw(st.sampled_from([0o600, 0o755, 0o1777, 0o4755])))
        # What ext4 can store (Documentation/filesystems/ext4/inodes.rst).
        member.mtime_ns = draw(TIMES.filter(lambda time: -(2**31) * 10**9 <= time < 2**33 * 10**9))
        member.uid, member.gid = (draw(IDS), draw(IDS)) if os.geteuid() == 0 else (os.getuid(), os.getgid())
        if kind in {stat.S_IFREG, stat.S_IFDIR}:
            member.xattrs = {key: value for key, value in draw(XATTRS).items() if len(key) <= 255}
        contents = b""
        if kind == stat.S_IFREG:
            contents = draw(st.binary(max_size=1100))
            member.size = len(contents)
        elif kind == stat.S_IFLNK:
            member.link = draw(NAMES)
        made.append((member, contents))
        if kind != stat.S_IFDIR and draw(st.booleans()):
            made.append((replace(member, path=b"%d/other" % number, hard_link=True, link=path), contents))
    return made


def unpack(archive: str, target: Path) -> None:
    """Unpack *archive* by GNU tar into *target* with everything that it can set."""
    target.mkdir()
    gnu_tar(
        "--extract", "--directory", str(target), "--same-permissions", "--numeric-owner", "--xattrs",
        "--xattrs-include=*", "--delay-directory-restore", archive=archive,
    )  # fmt: skip


@FEW
@given(unpackable())
@example(
    [
        (
            Member(
                path=b"f%d" % number,
                mode=stat.S_IFREG | 0o600,
                uid=os.getuid(),
                gid=os.getgid(),
                mtime_ns=time,
            ),
            b"",
        )
        for number, time in enumerate([-1, -(10**9) - 1, -(10**9) + 1, 5, -5 * 10**9])
    ]
)
def test_gnu_tar_unpacks_what_was_written(scratch: Path, written: list[tuple[Member, bytes]]) -> None:
    with tempfile.TemporaryDirectory(dir=scratch) as work:
        at = os.path.join(work, "archive")
        with open(at, "wb") as file:
            for member, contents in written:
                write(file, member, b"" if member.hard_link else contents)
            file.write(pax.END)
        target = scratch / os.path.basename(work) / "target"
        unpack(at, target)
        for member, contents in written:
            check_unpacked(os.path.join(os.fsencode(target), member.path), member, contents)
        for member, _ in written:
            if member.hard_link:
                first = os.path.join(os.fsencode(target), member.link)
                other = os.path.join(os.fsencode(target), member.path)
                assert os.lstat(first).st_ino == os.lstat(other).st_ino


def check_unpacked(path: bytes, member: Member, contents: bytes) -> None:
    """Assert that *path* is what *member* describes."""
    info = os.lstat(path)
    assert stat.S_IFMT(info.st_mode) == stat.S_IFMT(member.mode)
    assert (info.st_uid, info.st_gid) == (member.uid, member.gid)
    assert info.st_mtime_ns == member.mtime_ns
    if stat.S_ISLNK(info.st_mode):
        assert member.hard_link or os.readlink(path) == member.link
        return
    assert stat.S_IMODE(info.st_mode) == stat.S_IMODE(member.mode)
    found = {os.fsencode(name): os.getxattr(path, name) for name in os.listxattr(path)}
    assert found == dict(member.xattrs)
    if stat.S_ISREG(info.st_mode):
        with open(path, "rb") as file:
            assert file.read() == contents


@pytest.mark.parametrize(
    ("size", "ranges"),
    [
        (1 << 20, [(0, 4096)]),
        (1 << 20, [((1 << 20) - 4096, 4096)]),
        (1 << 20, [(8192, 4096), (1 << 18, 4096)]),
        (1 << 20, []),
        ((1 << 20) + 17, [(4096, 4096)]),
        (LARGE + 4096, [(LARGE, 4096)]),
        (LARGE + 1, [(0, 4096)]),
    ],
)
def test_gnu_tar_unpacks_holes_as_holes(tmp_path: Path, size: int, ranges: list[tuple[int, int]]) -> None:
    at = tmp_path / "archive"
    member = Member(
        path=b"\xff" + b"s" * 150,
        mode=stat.S_IFREG | 0o644,
        size=size,
        ranges=ranges,
        uid=os.getuid(),
        gid=os.getgid(),
    )
    with open(at, "wb") as file:
        write(file, member, b"x" * stored_size(member))
        file.write(pax.END)
    unpack(str(at), tmp_path / "target")
    path = tmp_path / "target" / os.fsdecode(member.path)
    assert path.stat().st_size == size
    assert data_ranges(path) == ranges
    with open(path, "rb") as file:
        for start, length in ranges:
            file.seek(start)
            assert file.read(length) == b"x" * length


@pytest.mark.root
def test_gnu_tar_makes_devices(tmp_path: Path) -> None:
    with open(tmp_path / "archive", "wb") as file:
        file.writelines(
            pax.header(Member(path=name, mode=kind | 0o620, gid=5, device=device))
            for name, kind, device in ((b"c", stat.S_IFCHR, (4095, 5)), (b"b", stat.S_IFBLK, (7, 1048575)))
        )
        file.write(pax.END)
    unpack(str(tmp_path / "archive"), tmp_path / "target")
    for name, device in (("c", (4095, 5)), ("b", (7, 1048575))):
        info = (tmp_path / "target" / name).lstat()
        assert (os.major(info.st_rdev), os.minor(info.st_rdev)) == device
        assert stat.S_IMODE(info.st_mode) == 0o620


def test_sockets_are_not_supported() -> None:
    assert not pax.is_supported(stat.S_IFSOCK | 0o755)
    assert all(pax.is_supported(kind | 0o755) for kind in _TYPES)
