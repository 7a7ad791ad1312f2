"""File contents through mappings, direct I/O and ranges; locks, holes, times and large files."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.mount.support import PATIENCE, make_union, now_and_remounted
from tests.support.tree import File

pytestmark = pytest.mark.fusermount

PAGE = mmap.PAGESIZE
MIB = 1 << 20
GIB = 1 << 30
#: Larger than the files that the server copies whole when only metadata changes.
LARGE = bytes(range(256)) * 1024


def content(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


@contextmanager
def opened(path: str, flags: int = os.O_RDONLY) -> Iterator[int]:
    fd = os.open(path, flags, 0o644)
    try:
        yield fd
    finally:
        os.close(fd)


class Peer:
    """Another process, which evaluates each line of Python that it receives and returns the value."""

    _LOOP = """
import os, sys, mmap, fcntl, struct
for line in sys.stdin:
    try:
        try:
            answer = eval(line)
        except SyntaxError:
            exec(line)
            answer = None
    except OSError as error:
        answer = error.errno
    print(repr(answer), flush=True)
"""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", self._LOOP], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def evaluate(self, line: str) -> str:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(line + "\n")
        stdin.flush()
        return stdout.readline().strip()

    def end(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(PATIENCE)
        self._process.stdout.close()


@pytest.fixture
def peer() -> Iterator[Peer]:
    other = Peer()
    yield other
    other.end()


# -- mappings ------------------------------------------------------------------------------------------


def test_a_private_mapping_is_written_without_the_file(base: str) -> None:
    access = mmap.PROT_READ | mmap.PROT_WRITE
    with (
        make_union(base, {"f": LARGE}) as union,
        opened(f"{union.path}/f") as fd,
        mmap.mmap(fd, 0, flags=mmap.MAP_PRIVATE, prot=access) as mapping,
    ):
        mapping[:5] = b"HELLO"
        assert mapping[:6] == b"HELLO" + LARGE[5:6]
        assert content(f"{union.path}/f") == LARGE
    assert os.listdir(union.upper) == []


def test_two_processes_share_a_mapping(base: str, peer: Peer) -> None:
    with make_union(base, {"f": LARGE}) as union:
        assert peer.evaluate(f"f = open({union.path + '/f'!r}, 'r+b')") == "None"
        assert peer.evaluate("m = mmap.mmap(f.fileno(), 0)") == "None"
        with opened(f"{union.path}/f", os.O_RDWR) as fd, mmap.mmap(fd, 0) as mapping:
            mapping[PAGE : PAGE + 4] = b"mine"
            assert peer.evaluate(f"m[{PAGE}:{PAGE}+4]") == "b'mine'"
            assert peer.evaluate(f"m.__setitem__(slice({PAGE}, {PAGE}+4), b'THEY')") == "None"
            assert mapping[PAGE : PAGE + 4] == b"THEY"
            mapping.flush()
            assert os.pread(fd, 4, PAGE) == b"THEY"
        assert peer.evaluate("m.close() or f.close()") == "None"
        union.remount()
        assert content(f"{union.path}/f") == LARGE[:PAGE] + b"THEY" + LARGE[PAGE + 4 :]


@pytest.mark.parametrize("before", ["nothing", "chmod", "rename", "link"])
def test_descriptors_and_mappings_from_before_copy_up_show_each_later_change(base: str, before: str) -> None:
    """chmod, rename and link copy only metadata; the change of the contents follows."""
    expected = {}
    with make_union(base, dict.fromkeys(CHANGES, LARGE)) as union:
        for how in CHANGES:
            path, data = f"{union.path}/{how}", bytearray(LARGE)
            with opened(path) as reader, mmap.mmap(reader, 0, prot=mmap.PROT_READ) as mapping:
                assert mapping[:PAGE] == LARGE[:PAGE]
                if before == "chmod":
                    os.chmod(path, 0o600)
                elif before == "rename":
                    os.rename(path, path + "2")
                    path += "2"
                elif before == "link":
                    os.link(path, path + "2")
                    path += "2"
                with opened(path) as second:
                    assert os.pread(second, 100, MIB // 8) == LARGE[MIB // 8 :][:100]
                    change(path, how, data)
                    for fd in (reader, second):
                        assert os.pread(fd, len(data) + 10, 0) == data
                        assert os.fstat(fd).st_size == len(data)
                    assert mapping[: 3 * PAGE] == data[: 3 * PAGE]
            expected[path] = bytes(data)
        for _ in now_and_remounted(union):
            for path, wanted in expected.items():
                assert content(path) == wanted, path
    for how in CHANGES:
        assert content(f"{base}/lower0/{how}") == LARGE


CHANGES = ["write", "append", "mapping", "truncate", "direct"]


def change(path: str, how: str, data: bytearray) -> None:
    """Change the contents of *path* and, equally, *data*."""
    new = os.urandom(PAGE)
    if how == "truncate":
        os.truncate(path, 3 * PAGE)
        del data[3 * PAGE :]
    elif how == "append":
        with opened(path, os.O_WRONLY | os.O_APPEND) as fd:
            os.write(fd, new)
        data += new
    elif how == "mapping":
        with opened(path, os.O_RDWR) as fd, mmap.mmap(fd, 0) as mapping:
            mapping[2 * PAGE : 3 * PAGE] = new
            mapping.flush()
        data[2 * PAGE : 3 * PAGE] = new
    else:
        with opened(path, os.O_WRONLY | (os.O_DIRECT if how == "direct" else 0)) as fd:
            assert os.pwritev(fd, [aligned(new)], 2 * PAGE) == PAGE
        data[2 * PAGE : 3 * PAGE] = new


def aligned(data: bytes) -> mmap.mmap:
    """Return a buffer on a page boundary, which O_DIRECT requires."""
    buffer = mmap.mmap(-1, len(data))
    buffer[:] = data
    return buffer


# -- direct and ranges ---------------------------------------------------------------------------------


def test_direct_and_cached_reads_and_writes_agree(base: str) -> None:
    with make_union(base, {"f": LARGE}) as union:
        path = f"{union.path}/f"
        with opened(path, os.O_RDWR | os.O_DIRECT) as direct, opened(path, os.O_RDWR) as cached:
            buffer = mmap.mmap(-1, PAGE)
            assert os.preadv(direct, [buffer], PAGE) == PAGE
            assert buffer[:] == LARGE[PAGE : 2 * PAGE]
            os.pwrite(cached, b"cached", PAGE)
            assert os.preadv(direct, [buffer], PAGE) == PAGE
            assert buffer[:6] == b"cached"
            buffer[:6] = b"direct"
            assert os.pwritev(direct, [buffer], PAGE) == PAGE
            assert os.pread(cached, 6, PAGE) == b"direct"
            assert os.preadv(direct, [buffer], len(LARGE)) == 0
        union.remount()
        assert content(path) == LARGE[:PAGE] + b"direct" + LARGE[PAGE + 6 :]


def test_a_range_is_copied_by_copy_file_range_inside_the_mount_and_refused_from_outside(base: str) -> None:
    """The kernel copies through the page cache. Between two file systems it returns EXDEV."""
    with make_union(base, {"lower": LARGE}, upper={"upper": LARGE}) as union:
        for source in ("lower", "upper"):
            with (
                opened(f"{union.path}/{source}") as start,
                opened(f"{union.path}/new-{source}", os.O_RDWR | os.O_CREAT) as end,
            ):
                done = os.copy_file_range(start, end, 3 * PAGE, PAGE + 1, 7)
                assert done > 0
                assert os.pread(end, 4 * PAGE, 0) == bytes(7) + LARGE[PAGE + 1 :][:done]
        with (
            opened(f"{base}/lower0/lower") as start,
            opened(f"{union.path}/new-lower", os.O_RDWR) as end,
            pytest.raises(OSError) as caught,
        ):
            os.copy_file_range(start, end, PAGE)
        assert caught.value.errno == errno.EXDEV


def test_a_range_is_copied_from_a_lower_file_onto_itself(base: str) -> None:
    with make_union(base, {"f": LARGE}) as union:
        with opened(f"{union.path}/f") as start, opened(f"{union.path}/f", os.O_RDWR) as end:
            done = os.copy_file_range(start, end, PAGE, 0, 10 * PAGE)
            assert done == PAGE
            assert os.pread(start, PAGE, 10 * PAGE) == LARGE[:PAGE]
        union.remount()
        assert content(f"{union.path}/f") == LARGE[: 10 * PAGE] + LARGE[:PAGE] + LARGE[11 * PAGE :]


# -- holes and sizes -----------------------------------------------------------------------------------


def test_a_hole_that_is_written_around_takes_no_space(base: str) -> None:
    with make_union(base, {"d": {}}) as union:
        with opened(f"{union.path}/d/f", os.O_RDWR | os.O_CREAT) as fd:
            os.pwrite(fd, b"end", GIB)
            assert os.pread(fd, 8, GIB - 5) == bytes(5) + b"end"
        for _ in now_and_remounted(union):
            info = os.stat(f"{union.path}/d/f")
            assert (info.st_size, info.st_blocks * 512 < MIB) == (GIB + 3, True)


def test_a_file_over_four_gib_is_read_and_changed_on_both_sides_of_the_boundary(base: str) -> None:
    boundary = 4 * GIB
    lower = f"{base}/lower0/f"
    union = make_union(base, {"f": File(b"begin", size=boundary + MIB)})
    with open(lower, "r+b") as file:
        file.seek(boundary - 3)
        file.write(b"across")
    with union:
        path = f"{union.path}/f"
        with opened(path) as reader, opened(path, os.O_RDWR) as fd:
            for number in (reader, fd):
                assert os.pread(number, 8, boundary - 4) == b"\0across\0"
            os.pwrite(fd, b"ACROSS", boundary - 3)
            os.pwrite(fd, b"far", 6 * GIB)
            assert os.pread(reader, 8, boundary - 4) == b"\0ACROSS\0"
            os.ftruncate(fd, 5 * GIB)
        for _ in now_and_remounted(union):
            info = os.stat(path)
            assert (info.st_size, info.st_blocks * 512 < MIB) == (5 * GIB, True)
            with opened(path) as fd:
                assert os.pread(fd, 5, 0) == b"begin"
                assert os.pread(fd, 8, boundary - 4) == b"\0ACROSS\0"


# -- times ---------------------------------------------------------------------------------------------


#: The range of times on ext4: from 1901 to 2446.
SECONDS = [0, 1, 10**9, 2**31, 2**33, -1, -(10**9), 1 - 2**31]


def test_times_of_every_year_have_nanoseconds(base: str) -> None:
    lower = {f"lower{number}": b"x" for number in range(len(SECONDS))}
    with make_union(base, {**lower, "d": {}}, upper={"upper": b"x"}) as union:
        names = [*lower, *(f"new{number}" for number in range(len(SECONDS)))]
        expected = {}
        for name, seconds in zip(names, SECONDS * 2, strict=True):
            expected[name] = (seconds * 10**9 + 123_456_789, seconds * 10**9 + 999_999_999)
            with opened(f"{union.path}/{name}", os.O_WRONLY | os.O_CREAT):
                os.utime(f"{union.path}/{name}", ns=expected[name])
        for _ in now_and_remounted(union):
            for name in names:
                info = os.stat(f"{union.path}/{name}")
                assert (info.st_atime_ns, info.st_mtime_ns) == expected[name], name


def test_every_time_of_a_lower_file_is_shown_unchanged(base: str) -> None:
    times = [second * 10**9 + 1 for second in SECONDS]
    with make_union(base, {f"f{number}": File(mtime_ns=time) for number, time in enumerate(times)}) as union:
        shown = [os.stat(f"{union.path}/f{number}").st_mtime_ns for number in range(len(times))]
        assert shown == times


def test_changes_of_a_file_set_its_times(base: str) -> None:
    old = 10**18
    with make_union(base, {"f": File(LARGE, mtime_ns=old)}) as union:
        path = f"{union.path}/f"
        os.chmod(path, 0o600)
        assert os.stat(path).st_mtime_ns == old
        with opened(path, os.O_WRONLY) as fd:
            assert os.fstat(fd).st_mtime_ns == old
            os.write(fd, b"x")
            assert os.fstat(fd).st_mtime_ns > old
        for _ in now_and_remounted(union):
            assert os.stat(path).st_mtime_ns > old


# -- locks ---------------------------------------------------------------------------------------------


def test_flock_holds_between_processes_and_over_copy_up(base: str, peer: Peer) -> None:
    with make_union(base, {"f": LARGE}) as union:
        path = f"{union.path}/f"
        peer.evaluate(f"f = open({path!r}, 'rb')")
        attempt = "fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)"
        with opened(path) as fd:
            fcntl.flock(fd, fcntl.LOCK_EX)
            assert peer.evaluate(attempt) == str(errno.EAGAIN)
            os.chmod(path, 0o600)
            assert peer.evaluate(attempt) == str(errno.EAGAIN)
            with open(path, "r+b") as writer:
                writer.write(b"x")
            assert peer.evaluate(attempt) == str(errno.EAGAIN)
            os.rename(path, path + "2")
            assert peer.evaluate(attempt) == str(errno.EAGAIN)
        assert peer.evaluate(attempt) == "None"
        with opened(path + "2") as fd, pytest.raises(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        peer.evaluate("f.close()")


OFD_SETLK = 37  # F_OFD_SETLK, linux/fcntl.h; the fcntl module has it from Python 3.9 on some builds only


@pytest.mark.parametrize("owner", ["process", "description"])
def test_fcntl_locks_of_ranges_hold_between_processes_and_over_copy_up(
    base: str, peer: Peer, owner: str
) -> None:
    command = fcntl.F_SETLK if owner == "process" else OFD_SETLK

    def lock(kind: int, start: int) -> bytes:
        return struct.pack("hhqqi4x", kind, os.SEEK_SET, start, 10, 0)

    with make_union(base, {"f": LARGE}) as union:
        path = f"{union.path}/f"
        peer.evaluate(f"f = open({path!r}, 'rb')")

        def attempt(start: int) -> str:
            return peer.evaluate(f"fcntl.fcntl(f, {command}, {lock(fcntl.F_RDLCK, start)!r}) and 1")

        with open(path, "r+b") as file:
            fcntl.fcntl(file, command, lock(fcntl.F_WRLCK, 100))
            assert attempt(105) == str(errno.EAGAIN)
            assert attempt(110) == "1"
            file.write(b"copied up")
            file.flush()
            os.rename(path, path + "2")
            assert attempt(105) == str(errno.EAGAIN)
            fcntl.fcntl(file, command, lock(fcntl.F_UNLCK, 100))
            assert attempt(105) == "1"
            with pytest.raises(BlockingIOError):
                fcntl.fcntl(file, command, lock(fcntl.F_WRLCK, 105))
            peer.evaluate("f.close()")
            fcntl.fcntl(file, command, lock(fcntl.F_WRLCK, 105))


# -- capabilities --------------------------------------------------------------------------------------

#: vfs_cap_data of revision 2: cap_net_bind_service, effective and permitted (linux/capability.h).
CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)


def disturb(path: str, how: str) -> str:
    """Change *path*; return its path afterwards."""
    if how == "chmod":
        os.chmod(path, 0o711)
    elif how == "rename":
        os.rename(path, path + "2")
        return path + "2"
    elif how == "write":
        with open(path, "r+b") as file:
            file.write(b"x")
    elif how == "mapping":
        with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:
            mapping[0] = 1
            mapping.flush()
    elif how == "truncate":
        os.truncate(path, 5)
    else:
        os.chown(path, 0, 0)
    return path


@pytest.mark.root
def test_file_capabilities_are_kept_by_metadata_changes_and_cleared_by_content_changes(base: str) -> None:
    ways = ["chmod", "rename", "write", "mapping", "truncate", "chown"]

    def tree(where: str) -> dict[str, File]:
        return {
            f"{where}-{size}-{how}": File(
                LARGE[:size], mode=0o755, xattrs={"security.capability": CAPABILITY}
            )
            for size in (10, len(LARGE))
            for how in ways
        }

    with make_union(base, tree("lower"), upper=tree("upper")) as union:
        left = {}
        for name in [*tree("lower"), *tree("upper")]:
            path = f"{union.path}/{name}"
            assert os.getxattr(path, "security.capability") == CAPABILITY
            how = name.rpartition("-")[2]
            left[disturb(path, how)] = how in ("chmod", "rename")
        for _ in now_and_remounted(union):
            assert {path: "security.capability" in os.listxattr(path) for path in left} == left
