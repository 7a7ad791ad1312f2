"""Modes, owners, read-only mounts, permissions, and the statistics of the file system."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO

import pytest

from tests.mount.support import SERVER, Union, make_union, now_and_remounted, run_unionfs, unmount, wait_until
from tests.support.tree import Dir, File, Tree, make_tree, snapshot

pytestmark = pytest.mark.fusermount

_ROOT = os.geteuid() == 0
_NOBODY = 65534


def mode_of(path: str) -> int:
    return stat.S_IMODE(os.lstat(path).st_mode)


@contextmanager
def umask_of(mask: int) -> Iterator[None]:
    old = os.umask(mask)
    try:
        yield
    finally:
        os.umask(old)


def run_unprivileged(
    script: str, cwd: str, stdout: IO[bytes] | int = subprocess.PIPE
) -> subprocess.CompletedProcess[bytes]:
    """Run a shell *script* as an ordinary user. Root runs it as another user."""
    return subprocess.run(
        ["sh", "-c", script],
        cwd=cwd,
        user=_NOBODY if _ROOT else None,
        group=_NOBODY if _ROOT else None,
        extra_groups=[] if _ROOT else None,
        stdout=stdout,
        stderr=subprocess.PIPE,
        check=False,
    )


def write_unprivileged(path: str) -> None:
    """Write one byte to *path* without CAP_FSETID, so that every file system clears set-id bits."""
    with open(path, "r+b") as file:
        run_unprivileged("printf x", "/", stdout=file).check_returncode()


# -- set-id bits ---------------------------------------------------------------------------------------


#: Modes before and after a write. A set-group-ID bit without group execution means mandatory locking, and is
#: kept (inode(7)).
CLEARED = {0o6755: 0o755, 0o4711: 0o711, 0o2755: 0o755, 0o2745: 0o2745, 0o1644: 0o1644}


@pytest.mark.parametrize("where", ["lower", "upper"])
def test_a_write_clears_the_set_id_bits(base: str, where: str) -> None:
    tree: Tree = {f"{mode:o}": File(b"program", mode=mode) for mode in CLEARED}
    with make_union(
        base, tree if where == "lower" else {}, upper=tree if where == "upper" else None
    ) as union:
        for before in CLEARED:
            assert mode_of(f"{union.path}/{before:o}") == before
            write_unprivileged(f"{union.path}/{before:o}")
        for _ in now_and_remounted(union):
            assert {before: mode_of(f"{union.path}/{before:o}") for before in CLEARED} == CLEARED


def cut(directory: str) -> list[int]:
    """Cut the files a and b of *directory* by truncate(2) and O_TRUNC; return their modes afterwards."""
    os.truncate(f"{directory}/a", 3)
    os.close(os.open(f"{directory}/b", os.O_WRONLY | os.O_TRUNC))
    return [mode_of(f"{directory}/{name}") for name in "ab"]


def test_truncating_a_file_clears_the_set_id_bits_as_in_a_plain_directory(base: str) -> None:
    """In a plain directory, a caller with CAP_FSETID keeps them. libfuse does not report the caller's capabilities to pyfuse3."""
    tree: Tree = {name: File(b"program", mode=0o6755) for name in "ab"}
    make_tree(f"{base}/plain", tree)
    plain = cut(f"{base}/plain")
    assert plain == ([0o6755] * 2 if _ROOT else [0o755] * 2)
    with make_union(base, tree) as union:
        assert cut(union.path) == ([0o755] * 2 if SERVER == "pyfuse3" else plain)


def test_a_change_of_owner_clears_the_set_id_bits_of_a_file_but_not_of_a_directory(base: str) -> None:
    with make_union(base, {"f": File(b"program", mode=0o6755), "d": Dir({}, mode=0o2755)}) as union:
        for name in ("f", "d"):
            os.chown(f"{union.path}/{name}", os.geteuid(), os.getegid())
        assert mode_of(f"{union.path}/f") == 0o755
        assert mode_of(f"{union.path}/d") == 0o2755


def test_set_id_bits_survive_changes_of_metadata(base: str) -> None:
    with make_union(base, {"f": File(b"program", mode=0o6755)}) as union:
        os.utime(f"{union.path}/f", ns=(1, 1))
        os.setxattr(f"{union.path}/f", "user.color", b"blue")
        os.rename(f"{union.path}/f", f"{union.path}/g")
        os.link(f"{union.path}/g", f"{union.path}/h")
        union.remount()
        assert mode_of(f"{union.path}/h") == 0o6755


@pytest.mark.root
def test_a_new_object_in_a_set_group_id_directory_has_its_group(base: str) -> None:
    with make_union(base, {"d": Dir({}, gid=1234, mode=0o2775)}) as union:
        make_tree(f"{union.path}/d", {"f": b""})
        os.mkdir(f"{union.path}/d/sub", 0o755)
        found = snapshot(f"{union.path}/d")
        assert {entry.gid for entry in found.values()} == {1234}
        assert found[b"sub"].mode == 0o2755


def test_the_umask_of_the_caller_applies_and_not_that_of_the_server(base: str) -> None:
    with make_union(base, {"d": {}}) as union:
        for umask in (0o000, 0o027, 0o077):
            os.mkdir(f"{union.path}/{umask:o}")
            with umask_of(umask):
                os.close(os.open(f"{union.path}/{umask:o}/f", os.O_CREAT | os.O_WRONLY, 0o666))
                os.mkdir(f"{union.path}/{umask:o}/d", 0o777)
                os.mkfifo(f"{union.path}/{umask:o}/p", 0o666)
            modes = [mode_of(f"{union.path}/{umask:o}/{name}") for name in "fdp"]
            assert modes == [0o666 & ~umask, 0o777 & ~umask, 0o666 & ~umask]


# -- read-only -----------------------------------------------------------------------------------------

CHANGES: dict[str, Callable[[str], object]] = {
    "create": lambda root: os.open(f"{root}/new", os.O_CREAT | os.O_WRONLY),
    "write": lambda root: os.open(f"{root}/f", os.O_WRONLY),
    "cut": lambda root: os.truncate(f"{root}/f", 0),
    "mkdir": lambda root: os.mkdir(f"{root}/new"),
    "mkfifo": lambda root: os.mkfifo(f"{root}/new"),
    "symlink": lambda root: os.symlink("f", f"{root}/new"),
    "link": lambda root: os.link(f"{root}/f", f"{root}/new"),
    "unlink": lambda root: os.unlink(f"{root}/f"),
    "rmdir": lambda root: os.rmdir(f"{root}/d"),
    "rename": lambda root: os.rename(f"{root}/f", f"{root}/new"),
    "chmod": lambda root: os.chmod(f"{root}/f", 0o600),
    "chown": lambda root: os.chown(f"{root}/f", os.geteuid(), os.getegid()),
    "utime": lambda root: os.utime(f"{root}/f", ns=(1, 1)),
    "setxattr": lambda root: os.setxattr(f"{root}/f", "user.x", b"y"),
    "removexattr": lambda root: os.removexattr(f"{root}/f", "user.color"),
}


def assert_read_only(root: str) -> None:
    before = snapshot(root, mtime=True)
    for name, change in CHANGES.items():
        with pytest.raises(OSError) as caught:
            change(root)
        assert caught.value.errno == errno.EROFS, name
    assert snapshot(root, mtime=True) == before


def test_without_an_upper_layer_every_change_is_erofs(base: str) -> None:
    lower = {"f": File(b"content", xattrs={"user.color": b"blue"}), "d": {}}
    with make_union(base, lower, {"g": b"g"}, writable=False) as union:
        assert os.statvfs(union.path).f_flag & os.ST_RDONLY
        assert_read_only(union.path)
        assert not os.access(f"{union.path}/f", os.W_OK)
        with open(f"{union.path}/f", "rb") as file:
            assert file.read() == b"content"


def test_the_option_ro_makes_a_writable_stack_read_only(base: str) -> None:
    lower = {"f": File(b"content", xattrs={"user.color": b"blue"}), "d": {}}
    with make_union(base, lower, options="ro") as union:
        assert_read_only(union.path)
        assert os.listdir(union.upper) == []


# -- permissions ---------------------------------------------------------------------------------------


def test_the_modes_in_the_layers_are_enforced(base: str) -> None:
    with make_union(base, {"f": File(b"x", mode=0o000), "d": Dir({"g": b"g"}, mode=0o555)}) as union:
        os.chmod(base, 0o755)
        done = run_unprivileged("! cat f && ! rm -f d/g && ! mkdir d/new && cat d/g", union.path)
        assert (done.returncode, done.stdout) == (0, b"g"), done.stderr
        assert done.stderr.count(b"Permission denied") == 3
    assert os.listdir(union.upper) == []


@pytest.mark.root
def test_another_user_has_the_access_of_the_modes_and_owns_new_files(base: str) -> None:
    lower = {"open": Dir({"theirs": b"x"}, mode=0o1777), "shut": Dir({"secret": b"x"}, mode=0o700)}
    with make_union(base, lower) as union:
        os.chmod(base, 0o755)
        script = (
            "cd open && echo new >new && ! rm -f theirs && ! cat ../shut/secret && mkdir own && ln -s x own/s"
        )
        done = run_unprivileged(script, union.path)
        assert done.returncode == 0, done.stderr
        made = snapshot(f"{union.upper}/open")
        for name in (b"new", b"own", b"own/s"):
            assert (made[name].uid, made[name].gid) == (_NOBODY, _NOBODY)
        assert os.path.exists(f"{union.path}/open/theirs")


# -- statistics -------------------------------------------------------------------------------------------


def test_statfs_returns_the_statistics_of_the_file_system_of_the_upper_layer(base: str) -> None:
    with make_union(base, {"f": b"x"}) as union:
        ours, below = os.statvfs(union.path), os.statvfs(union.upper)
        for field in ("f_bsize", "f_frsize", "f_blocks", "f_files", "f_namemax"):
            assert getattr(ours, field) == getattr(below, field), field
        assert 0 < ours.f_bavail <= ours.f_bfree <= ours.f_blocks
        done = subprocess.run(
            ["df", "--output=source", union.path], capture_output=True, text=True, check=True
        )
        assert done.stdout.splitlines()[-1] == "unionfs"


def test_the_type_of_the_mount_names_the_file_system(base: str) -> None:
    os.mkdir(f"{base}/lower")
    os.mkdir(f"{base}/mnt")
    assert run_unionfs("-o", f"lowerdir={base}/lower", f"{base}/mnt").returncode == 0
    try:
        with open("/proc/self/mounts") as file:
            fields = next(line.split() for line in file if line.split()[1] == f"{base}/mnt")
        assert fields[2] == "fuse.unionfs"
        assert "ro" in fields[3].split(",")
    finally:
        unmount(f"{base}/mnt")


def finds_space(change: Callable[[], object]) -> bool:
    """Make *change*; return False if there was no space for it."""
    try:
        change()
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        return False
    return True


def write_one(path: str) -> None:
    """Write one byte at the beginning of a file."""
    with open(path, "r+b", buffering=0) as file:
        file.write(b"x")


@pytest.mark.root
def test_a_full_upper_layer_is_enospc_and_goes_on_serving(base: str) -> None:
    top = f"{base}/top"
    os.mkdir(top)
    make_tree(f"{base}/lower", {"f": b"x" * 900_000, "small": b"y"})
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", top], check=True)
    try:
        with Union(top, [f"{base}/lower"]) as union:
            make_tree(union.path, {"taken": b"z" * 500_000})
            with pytest.raises(OSError) as caught:
                write_one(f"{union.path}/f")
            assert caught.value.errno == errno.ENOSPC
            assert mode_of(f"{union.path}/f") == 0o644
            assert os.listdir(f"{union.work}/unionfs/tmp") == []
            os.unlink(f"{union.path}/taken")
            # The space is free after the kernel's FORGET for the file, which may come later.
            wait_until(
                lambda: finds_space(lambda: write_one(f"{union.path}/f")),
                "the space is free again",
            )
            assert os.lstat(f"{union.upper}/f").st_size == 900_000
    finally:
        subprocess.run(["umount", top], check=True)
