"""Operations on files besides reading and writing, each compared with a plain directory on the same disk."""

from __future__ import annotations

import errno
import fcntl
import functools
import mmap
import os
import signal
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.mount.support import SERVER, Union, make_union, scratch, wait_until
from tests.support.tree import File, Tree, make_tree
from unionfs import _libc
from unionfs._libc import FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE
from unionfs.upper import extents

pytestmark = [
    pytest.mark.fusermount,
    pytest.mark.skipif(SERVER == "pyfuse3", reason="pyfuse3 has no handlers for these requests"),
]

KIB = 1 << 10
MIB = 1 << 20
_ROOT = os.geteuid() == 0
LOWER: Tree = {
    "data": bytes(range(256)) * 400,
    "sparse": File(b"begin" + bytes(200 * KIB) + b"end"),
    "large": os.urandom(3 * MIB),
    "empty": b"",
    "d": {"gone": b"deleted", "f": b"lower"},
}


def outcome(operation: Callable[[], Any]) -> tuple[str, Any]:
    """Return the result of *operation*, or the name of its errno."""
    try:
        return "ok", operation()
    except OSError as error:
        return "error", errno.errorcode[error.errno or 0]


def content(path: str | Path) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def link_descriptor(fd: int, directory: str, name: str) -> None:
    """Link the open file *fd* to a name, as open(2) describes for O_TMPFILE."""
    at = os.open(directory, os.O_PATH)
    try:
        os.link(f"/proc/self/fd/{fd}", name, dst_dir_fd=at, follow_symlinks=True)
    finally:
        os.close(at)


def figures(union: Union) -> dict[str, int]:
    """Return the statistics of the server."""
    path = f"{union.work}/unionfs/statistics"
    before = os.stat(path).st_mtime_ns if os.path.exists(path) else 0
    assert union.process is not None
    union.may_complain = True
    os.kill(union.pid, signal.SIGUSR1)
    os.listdir(union.path)  # the signal wakes a sleeping server; this request wakes a busy one

    def written() -> bool:
        return os.path.exists(path) and os.stat(path).st_mtime_ns != before and bool(content(path))

    wait_until(written, "the server writes its figures")
    words = content(path).decode().split()
    return {name: int(value) for name, _, value in (word.partition("=") for word in words) if value.isdigit()}


@pytest.fixture
def places(base: str) -> Iterator[tuple[Union, str]]:
    """Yield a union of LOWER, and a plain directory with the same tree on the same disk."""
    make_tree(os.path.join(base, "plain"), LOWER)
    with make_union(base, LOWER) as union:
        yield union, os.path.join(base, "plain")


# -- ranges --------------------------------------------------------------------------------------------

_OFFSETS = st.sampled_from([0, 1, 4095, 4096, 5000, 65_536, 100_000, 200_000, 210_000, 400_000])
_LENGTHS = st.sampled_from([1, 10, 4096, 8192, 30_000, 150_000])
_MODES = st.sampled_from(
    [
        0,
        FALLOC_FL_KEEP_SIZE,
        FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE,
        FALLOC_FL_ZERO_RANGE,
        FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE,
        FALLOC_FL_PUNCH_HOLE,  # EOPNOTSUPP without KEEP_SIZE
        0x08,  # FALLOC_FL_COLLAPSE_RANGE, for which the kernel sends no request
    ]
)
_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), _OFFSETS, _LENGTHS),
        st.tuples(st.just("map"), _OFFSETS, _LENGTHS),
        st.tuples(st.just("truncate"), _OFFSETS, st.just(0)),
        st.tuples(st.just("read"), _OFFSETS, _LENGTHS),
        st.tuples(st.just("allocate"), st.tuples(_MODES, _OFFSETS), _LENGTHS),
        st.tuples(st.just("copy"), st.tuples(st.sampled_from(["data", "sparse", "f"]), _OFFSETS, _OFFSETS), _LENGTHS),
        st.tuples(st.just("seek"), st.sampled_from([os.SEEK_DATA, os.SEEK_HOLE]), _OFFSETS),
        st.tuples(st.just("chmod"), st.sampled_from([0o600, 0o644]), st.just(0)),
    ),
    min_size=10,
    max_size=25,
)  # fmt: skip


def perform(root: str, fd: int, name: str, step: tuple[str, Any, int]) -> Any:
    """Do one *step* on the file *name* below *root*, which is open as *fd*."""
    what, where, length = step
    if what == "write":
        return os.pwrite(fd, bytes([length % 251]) * length, where)
    if what == "map":
        size = os.fstat(fd).st_size
        if where < size:
            with mmap.mmap(fd, size) as mapping:
                end = min(size, where + length)
                mapping[where:end] = b"m" * (end - where)
                mapping.flush()
        return None
    if what == "truncate":
        return os.ftruncate(fd, where)
    if what == "read":
        return os.pread(fd, length, where)
    if what == "chmod":
        return os.chmod(f"{root}/{name}", where)
    if what == "allocate":
        mode, offset = where
        if mode == 0x08:
            mode, offset, length = 0x08, 4096, 4097  # not of whole blocks, so every file system refuses it
            try:
                return _libc.fallocate(fd, mode, offset, length)
            except OSError:
                return "refused"
        return _libc.fallocate(fd, mode, offset, length)
    source_name, source, target = where
    at = os.open(f"{root}/{name if source_name == 'f' else source_name}", os.O_RDONLY)
    try:
        done = 0
        while done < length:
            copied = os.copy_file_range(at, fd, length - done, source + done, target + done)
            if not copied:
                break
            done += copied
        return done
    finally:
        os.close(at)


def compare_seek(union: Union, files: list[int], name: str, whence: int, offset: int) -> None:
    """Assert that a seek finds the same as in the file below, with only zeros in between.

    Two files with the same history may have different holes, because ext4 fills small ones.
    """
    ours = outcome(lambda: os.lseek(files[0], offset, whence))
    below = next(
        path for top in ("upper", "lower0") if os.path.exists(path := f"{union.path}/../{top}/{name}")
    )
    fd = os.open(below, os.O_RDONLY)
    try:
        assert ours == outcome(lambda: os.lseek(fd, offset, whence)), (name, whence, offset)
    finally:
        os.close(fd)
    size = os.fstat(files[1]).st_size
    if whence == os.SEEK_DATA:
        end = ours[1] if ours[0] == "ok" else size
        assert not os.pread(files[1], max(0, end - offset), offset).strip(b"\0"), (name, offset)
    else:
        assert ours == (("ok", ours[1]) if offset < size else ("error", "ENXIO"))


@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate],
)
@given(
    histories=st.lists(
        st.tuples(st.sampled_from(["data", "sparse", "empty", "new"]), _STEPS), min_size=3, max_size=4
    )
)
def test_ranges_are_written_allocated_copied_and_found_as_in_a_plain_file(
    histories: list[tuple[str, list[tuple[str, Any, int]]]],
) -> None:
    with scratch() as base:
        make_tree(os.path.join(base, "plain"), LOWER)
        roots = (os.path.join(base, "mnt"), os.path.join(base, "plain"))
        with make_union(base, LOWER) as union:
            for name, steps in histories:
                with ExitStack() as opened:
                    files = [os.open(f"{root}/{name}", os.O_RDWR | os.O_CREAT, 0o644) for root in roots]
                    for fd in files:
                        opened.callback(os.close, fd)
                    for step in steps:
                        if step[0] == "seek":
                            compare_seek(union, files, name, step[1], step[2])
                            continue
                        ours, theirs = (
                            outcome(functools.partial(perform, root, fd, name, step))
                            for root, fd in zip(roots, files, strict=True)
                        )
                        assert ours == theirs, (name, step)
                        sizes = [os.fstat(fd).st_size for fd in files]
                        assert sizes[0] == sizes[1], (name, step)
                assert content(f"{roots[0]}/{name}") == content(f"{roots[1]}/{name}")
            union.remount()
            for name, _ in histories:
                assert content(f"{roots[0]}/{name}") == content(f"{roots[1]}/{name}")


def test_a_hole_that_is_punched_gives_its_blocks_back(places: tuple[Union, str]) -> None:
    union, _ = places
    path = f"{union.path}/large"
    before = os.stat(path).st_blocks
    subprocess.run(["fallocate", "--punch-hole", "--offset", "0", "--length", str(2 * MIB), path], check=True)
    assert content(path) == bytes(2 * MIB) + content(f"{union.path}/../lower0/large")[2 * MIB :]
    assert os.stat(path).st_blocks <= before - 2 * MIB // 512 + 16
    assert os.stat(f"{union.upper}/large").st_blocks == os.stat(path).st_blocks


@pytest.mark.ranges
def test_commands_that_use_ranges_have_the_same_results_as_on_a_plain_file(places: tuple[Union, str]) -> None:
    union, plain = places
    for command in (
        'fallocate --length 100000 "$1/new" && fallocate --dig-holes "$1/data"',
        'cp --reflink=auto --sparse=auto "$1/sparse" "$1/copy" && cp "$1/large" "$1/again"',
        'fallocate --zero-range --offset 5000 --length 100 "$1/data"',  # not on tmpfs
        'truncate --size=+1M "$1/copy" && cp --sparse=always "$1/copy" "$1/other"',
    ):
        ours, theirs = (
            subprocess.run(["sh", "-c", command, "sh", root], check=False, capture_output=True, text=True)
            for root in (union.path, plain)
        )
        assert (ours.returncode, ours.stderr) == (theirs.returncode, theirs.stderr)
    for name in ("new", "data", "copy", "again", "other"):
        assert content(f"{union.path}/{name}") == content(f"{plain}/{name}"), name
        assert os.stat(f"{union.path}/{name}").st_blocks == os.stat(f"{union.upper}/{name}").st_blocks, name
    for name in ("copy", "other"):
        assert os.stat(f"{union.path}/{name}").st_blocks * 512 < os.stat(f"{union.path}/{name}").st_size


def test_a_copy_of_a_range_sends_no_contents_through_the_server(places: tuple[Union, str]) -> None:
    union, _ = places
    large = content(f"{union.path}/large")
    with open(f"{union.path}/warm", "wb"):
        pass
    before = figures(union)
    source = os.open(f"{union.path}/large", os.O_RDONLY)
    target = os.open(f"{union.path}/warm", os.O_RDWR)
    done = 0
    while done < len(large):
        done += os.copy_file_range(source, target, len(large) - done, done, done)
    after = figures(union)
    assert after.get("write", 0) == before.get("write", 0)
    assert after.get("read", 0) == before.get("read", 0)
    assert os.pread(target, len(large), 0) == large
    # To a lower file, which is copied up first, and from a file that is open for reading only.
    lower = os.open(f"{union.path}/data", os.O_RDWR)
    assert os.copy_file_range(target, lower, 10, 5, 3) == 10
    assert os.pread(lower, 16, 0) == bytes(range(3)) + large[5:15] + bytes(range(13, 16))
    for fd in (source, target, lower):
        os.close(fd)


def test_a_copy_of_a_range_from_another_file_system_has_the_contents(base: str) -> None:
    with scratch("/dev/shm") as lower:
        make_tree(os.path.join(lower, "tree"), {"large": LOWER["large"]})
        with Union(base, [os.path.join(lower, "tree")]) as union:
            subprocess.run(["cp", f"{union.path}/large", f"{union.path}/copy"], check=True)
            source, target = (os.open(f"{union.path}/{name}", flags, 0o644) for name, flags in (
                ("large", os.O_RDONLY), ("ranges", os.O_RDWR | os.O_CREAT)))  # fmt: skip
            done = 0
            while copied := os.copy_file_range(source, target, 3 * MIB, done, done):
                done += copied
            os.close(source)
            os.close(target)
            assert content(f"{union.path}/copy") == content(f"{union.path}/ranges") == LOWER["large"]


@pytest.mark.ranges
def test_preallocated_space_can_be_written_when_the_layer_is_full(base: str) -> None:
    with open(f"{base}/probe", "wb") as probe:
        try:
            fcntl.ioctl(probe, extents.FS_IOC_FIEMAP, bytearray(struct.pack("=QQIIII", 0, 1, 0, 0, 0, 0)))
        except OSError:
            pytest.skip("the file system below, as tmpfs, does not report which ranges are allocated")
    with make_union(base, LOWER, options="size=2m") as union:
        for name, mode in (("kept", FALLOC_FL_KEEP_SIZE), ("extended", 0)):
            fd = os.open(f"{union.path}/{name}", os.O_RDWR | os.O_CREAT, 0o644)
            _libc.fallocate(fd, mode, 0, 512 * KIB)
            os.close(fd)
        filler = os.open(f"{union.path}/filler", os.O_RDWR | os.O_CREAT, 0o644)
        with pytest.raises(OSError, match="No space left"):
            _libc.fallocate(filler, 0, 0, 3 * MIB)
        with pytest.raises(OSError, match="No space left"):
            while True:
                os.write(filler, b"x" * 4096)
        os.close(filler)
        for name in ("kept", "extended"):
            fd = os.open(f"{union.path}/{name}", os.O_RDWR)
            for at in range(0, 512 * KIB, 64 * KIB):
                assert os.pwrite(fd, b"y" * 64 * KIB, at) == 64 * KIB
            os.close(fd)
        taken = sum(os.stat(f"{union.upper}/{name}").st_blocks * 512 for name in os.listdir(union.upper))
        assert taken <= 2 * MIB


# -- files without a name ------------------------------------------------------------------------------


def make_unnamed(directory: str, mode: int = 0o666, flags: int = 0) -> int:
    return os.open(directory, os.O_TMPFILE | os.O_RDWR | flags, mode)


def test_a_file_without_a_name_is_made_and_linked_as_in_a_plain_directory(places: tuple[Union, str]) -> None:
    union, plain = places
    before = os.umask(0o027)
    try:
        for root in (union.path, plain):
            os.unlink(f"{root}/d/gone")
            if _ROOT:
                os.chown(f"{root}/d", 0, 100)
            os.chmod(f"{root}/d", 0o2775)

        def use(root: str) -> list[Any]:
            seen: list[Any] = []

            def look(fd: int) -> None:
                info = os.fstat(fd)
                seen.append((info.st_mode, info.st_nlink, info.st_uid, info.st_gid, info.st_size))

            for name, mode in (("new", 0o666), ("gone", 0o640), ("set", 0o2755), ("closed", 0o000)):
                fd = make_unnamed(f"{root}/d", mode)
                look(fd)
                assert os.write(fd, name.encode()) == len(name)
                os.fsync(fd)
                link_descriptor(fd, f"{root}/d", name)
                look(fd)
                seen.append(outcome(functools.partial(link_descriptor, fd, f"{root}/d", "f")))
                os.rename(f"{root}/d/{name}", f"{root}/{name}")
                look(fd)
                assert os.pread(fd, 10, 0) == name.encode()
                os.close(fd)
            exclusive = make_unnamed(f"{root}/d", flags=os.O_EXCL)
            seen.append(outcome(lambda: link_descriptor(exclusive, f"{root}/d", "exclusive")))
            os.close(exclusive)
            seen.append(outcome(lambda: os.open(f"{root}/d", os.O_TMPFILE | os.O_RDONLY)))
            seen.append(outcome(lambda: os.open(f"{root}/data", os.O_TMPFILE | os.O_RDWR)))
            seen.append(sorted(os.listdir(f"{root}/d")))
            return seen

        assert use(union.path) == use(plain)
    finally:
        os.umask(before)
    union.remount()
    assert content(f"{union.path}/gone") == b"gone"
    assert sorted(os.listdir(f"{union.path}/d")) == ["f"]
    assert os.listdir(f"{union.work}/unionfs/tmp") == []


def test_a_file_that_gets_no_name_leaves_nothing(base: str) -> None:
    with make_union(base, LOWER, options="size=1m,inodes=4") as union:
        free = os.statvfs(union.path)
        for _ in range(10):  # more than inodes= allows at a time
            fd = make_unnamed(f"{union.path}/d")
            os.write(fd, b"x" * 600 * KIB)
            os.close(fd)
        held = [make_unnamed(f"{union.path}/d") for _ in range(3)]
        with pytest.raises(OSError, match="No space left"):
            make_unnamed(f"{union.path}/d")
        for fd in held:
            os.close(fd)
        assert os.listdir(f"{union.upper}/d") == []
        after = os.statvfs(union.path)
        assert free.f_ffree - after.f_ffree <= 1  # the directory
        union.remount()
        assert sorted(os.listdir(f"{union.path}/d")) == ["f", "gone"]


def test_files_without_a_name_are_gone_after_a_kill(base: str) -> None:
    with make_union(base, LOWER) as union:
        union.may_complain = True
        fd = make_unnamed(f"{union.path}/d")
        os.write(fd, b"x" * 100_000)
        union.kill()
        with pytest.raises(OSError, match="not connected"):
            os.close(fd)
        with union:
            assert sorted(os.listdir(f"{union.path}/d")) == ["f", "gone"]
            assert os.listdir(f"{union.work}/unionfs/tmp") == []


# -- birth times ---------------------------------------------------------------------------------------


def born(path: str) -> int | None:
    fd = os.open(path, os.O_PATH | os.O_NOFOLLOW)
    try:
        return _libc.birth_time_ns(fd)
    finally:
        os.close(fd)


def test_a_birth_time_is_that_of_the_object_and_stays_over_copy_up_and_remount(
    places: tuple[Union, str],
) -> None:
    union, _ = places
    lower = os.path.join(os.path.dirname(union.path), "lower0")
    names = ["data", "large", "d", "d/f"]
    expected = {name: born(f"{lower}/{name}") for name in names}
    assert None not in expected.values()
    assert {name: born(f"{union.path}/{name}") for name in names} == expected
    with open(f"{union.path}/data", "ab") as file:
        file.write(b"more")
    os.chmod(f"{union.path}/large", 0o600)
    os.chmod(f"{union.path}/d/f", 0o600)
    with open(f"{union.path}/new", "wb"):
        pass
    expected["new"] = born(f"{union.upper}/new")
    for remounted in (False, True):
        if remounted:
            union.remount()
        assert {name: born(f"{union.path}/{name}") for name in expected} == expected
    info = os.stat(f"{union.path}/data")
    text = subprocess.run(
        ["stat", "--format=%i %s %f %h %u %g %Y", f"{union.path}/data"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert [int(text[0]), int(text[1]), int(text[2], 16)] == [info.st_ino, info.st_size, info.st_mode]
    assert [int(word) for word in text[3:]] == [info.st_nlink, info.st_uid, info.st_gid, int(info.st_mtime)]


# -- inode flags ---------------------------------------------------------------------------------------


@pytest.mark.lsattr
def test_inode_flags_are_shown_and_cannot_be_set(places: tuple[Union, str]) -> None:
    union, plain = places
    run = lambda *command: subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: E731
    for name in ("data", "d"):
        shown, expected = (run("lsattr", "-d", f"{root}/{name}") for root in (union.path, plain))
        if expected.returncode:
            pytest.skip(f"the file system below has no inode flags: {expected.stderr}")
        assert shown.stdout.split()[0] == expected.stdout.split()[0]
    if _ROOT:
        refused = run("chattr", "+i", f"{union.path}/data")
        assert refused.returncode
        assert "Operation not supported" in refused.stderr
        assert os.listdir(union.upper) == []


@pytest.mark.root
@pytest.mark.lsattr
def test_the_immutable_flag_of_a_lower_file_is_not_shown(base: str) -> None:
    union = make_union(base, LOWER)
    lower = os.path.join(base, "lower0/data")
    if subprocess.run(["chattr", "+i", lower], check=False, capture_output=True).returncode:
        pytest.skip("the file system below has no inode flags")
    try:
        with union:
            listed = ["lsattr", f"{union.path}/data"]
            flags = subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split()[0]
            assert "i" not in flags
            with open(f"{union.path}/data", "ab") as file:
                file.write(b"more")
    finally:
        subprocess.run(["chattr", "-i", lower], check=True)
