"""Many layers, many entries, many processes at once, random system calls, and common programs."""

from __future__ import annotations

import errno
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mount._libc import DirectoryStream
from tests.mount.support import PATIENCE, Union, make_union, now_and_remounted
from tests.support.tree import File, Opaque, Symlink, Tree, Whiteout, make_tree, snapshot

pytestmark = pytest.mark.fusermount


def test_five_hundred_layers_are_one_union(base: str) -> None:
    count = 500
    for number in range(count):
        tree: Tree = {"d": {f"only{number}": b"%d" % number, "all": b"%d" % number}}
        if number % 100 == 99:
            tree = {"d": {**tree["d"], f"only{number - 50}": Whiteout()}}  # type: ignore[dict-item, call-overload]
        make_tree(f"{base}/l{number}", tree)
    layers = [f"l{number}" for number in reversed(range(count))]
    union = Union(base, [os.path.join(base, name) for name in layers])
    hidden = {number - 50 for number in range(99, count, 100)}
    with union:
        for _ in now_and_remounted(union):
            expected = {"all", *(f"only{number}" for number in range(count) if number not in hidden)}
            assert set(os.listdir(f"{union.path}/d")) == expected
            with open(f"{union.path}/d/all", "rb") as file:
                assert file.read() == b"%d" % (count - 1)
            for number in (0, 250, 499):
                with open(f"{union.path}/d/only{number}", "rb") as file:
                    assert file.read() == b"%d" % number
        with open(f"{union.path}/d/only0", "ab") as file:
            file.write(b" changed")
        os.unlink(f"{union.path}/d/all")
        union.remount()
        assert not os.path.exists(f"{union.path}/d/all")
        with open(f"{union.path}/d/only0", "rb") as file:
            assert file.read() == b"0 changed"


@pytest.mark.long
def test_a_hundred_thousand_entries_are_listed_once_each_and_can_be_deleted(base: str) -> None:
    """The entries are hard links, because making links is faster than making files."""
    os.makedirs(f"{base}/lower0/d")
    names = [f"entry{number:06}" for number in range(100_000)]
    source = ""
    for number, name in enumerate(names):
        if number % 30_000 == 0:  # ext4 allows 65,000 links to a file
            source = f"{base}/lower0/d/{name}"
            Path(source).touch()
        else:
            os.link(source, f"{base}/lower0/d/{name}")
    with make_union(base, {}) as union, DirectoryStream(f"{union.path}/d") as stream:
        first = [stream.read() for _ in range(1000)]
        position = stream.tell()
        for name in first[:100]:
            assert name is not None
            os.unlink(os.path.join(os.fsencode(union.path), b"d", name))
        Path(f"{union.path}/d/entry-new").touch()
        rest = stream.rest()
        assert sorted(os.fsdecode(name or b"") for name in [*first, *rest]) == names
        stream.seek(position)
        assert stream.rest() == rest
        assert len(os.listdir(f"{union.path}/d")) == 100_000 - 100 + 1


# -- several processes at once -------------------------------------------------------------------------

#: Changes a few names in competition with other processes. Only these errors may result.
FIGHT = """
import errno, os, random, sys
root, seed, steps = sys.argv[1], sys.argv[2], int(sys.argv[3])
random.seed(seed)
expected = {errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR, errno.EISDIR, errno.EINVAL, errno.EPERM,
            errno.EXDEV, errno.ESTALE, errno.ELOOP, errno.EBUSY}
def path():
    return os.path.join(root, *(f"n{random.randrange(3)}" for _ in range(random.randrange(1, 4))))
for _ in range(steps):
    try:
        match random.randrange(9):
            case 0: os.mkdir(path())
            case 1: os.rmdir(path())
            case 2: os.unlink(path())
            case 3: os.rename(path(), path())
            case 4: os.link(path(), path())
            case 5: os.symlink("n0", path())
            case 6:
                with open(path(), "ab") as file: file.write(b"x")
            case 7: os.listdir(path())
            case 8:
                fd = os.open(path(), os.O_RDONLY | os.O_NOFOLLOW)
                try:
                    os.fchmod(fd, 0o700)
                    os.listdir(fd) if os.path.isdir(f"/proc/self/fd/{fd}") else os.read(fd, 10)
                finally:
                    os.close(fd)
    except OSError as error:
        if error.errno not in expected:
            raise
"""


def test_processes_that_compete_for_the_same_names_leave_a_consistent_tree(base: str) -> None:
    lower: Tree = {
        f"n{i}": {f"n{j}": {f"n{k}": b"lower" for k in range(3)} for j in range(3)} for i in range(3)
    }
    with make_union(base, lower) as union:
        fighters = [
            subprocess.Popen([sys.executable, "-c", FIGHT, union.path, str(seed), "1200"])
            for seed in range(4)
        ]
        assert [fighter.wait(PATIENCE) for fighter in fighters] == [0] * 4
        before = snapshot(union.path, mtime=False)
        union.remount()
        assert snapshot(union.path, mtime=False) == before
        shutil.rmtree(union.path, ignore_errors=True)
        assert os.listdir(union.path) == []


def test_a_tree_is_removed_while_others_list_it_and_work_in_it(base: str) -> None:
    lower: Tree = {f"d{i}": {f"e{j}": {f"f{k}": b"" for k in range(20)} for j in range(10)} for i in range(5)}
    with make_union(base, {"tree": lower}, {"tree": {"d0": {"e0": {"below": b""}}}}) as union:
        root = f"{union.path}/tree"
        loop = "import os,sys\nwhile os.path.exists(sys.argv[1]):\n  [n for n in os.walk(sys.argv[1])]"
        listers = [subprocess.Popen([sys.executable, "-c", loop, root]) for _ in range(2)]
        fd = os.open(f"{root}/d1/e1", os.O_RDONLY | os.O_DIRECTORY)
        worker = subprocess.Popen(["sleep", "60"], cwd=f"{root}/d2/e2")
        try:
            subprocess.run(["rm", "-rf", root], check=True, timeout=PATIENCE)
            assert [lister.wait(PATIENCE) for lister in listers] == [0, 0]
            assert os.listdir(fd) == []
            assert os.fstat(fd).st_nlink == 0
            with pytest.raises(FileNotFoundError):
                os.mkdir("new", dir_fd=fd)
            os.fchmod(fd, 0o700)
        finally:
            os.close(fd)
            worker.kill()
            worker.wait()
        os.mkdir(root)
        for _ in now_and_remounted(union):
            assert os.listdir(root) == []


def test_a_directory_is_renamed_while_files_in_it_are_open_and_written(base: str) -> None:
    large = os.urandom(50_000)
    with make_union(base, {"a": {"b": {"c": {"f": large, "g": b"g"}}}, "t": {}}) as union:
        root = union.path
        with open(f"{root}/a/b/c/f", "rb") as reader, open(f"{root}/a/b/c/g", "r+b", buffering=0) as writer:
            fd = os.open(f"{root}/a/b", os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.rename(f"{root}/a", f"{root}/t/moved")
                os.rename("c", "d", src_dir_fd=fd, dst_dir_fd=fd)
                writer.write(b"G")
                with open("d/f", "r+b", opener=lambda path, flags: os.open(path, flags, dir_fd=fd)) as other:
                    other.write(b"new")
                assert reader.read() == b"new" + large[3:]
                os.mkdir(f"{root}/a")
                os.rename(f"{root}/t/moved/b", f"{root}/a/again")
                assert sorted(os.listdir(fd)) == ["d"]
                os.close(os.open("d/made", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
            finally:
                os.close(fd)
        for _ in now_and_remounted(union):
            assert sorted(os.listdir(f"{root}/a/again/d")) == ["f", "g", "made"]
            with open(f"{root}/a/again/d/f", "rb") as file:
                assert file.read() == b"new" + large[3:]
            assert os.listdir(f"{root}/t/moved") == []


# -- hostile names, flags and attributes, by system calls ----------------------------------------------


def test_random_system_calls_end_in_results_or_errors_and_the_server_lives(base: str) -> None:
    dice = random.Random(475)
    odd = [
        b"n" * 255,
        b"n" * 256,
        b"\xff\xfe",
        b".wh.x",
        b".wh..wh..opq",
        b"a/../b",
        b"...",
        b" ",
        b"new\nline",
        b"d",
        b"f",
    ]
    xattrs = [
        "user.a",
        "user.overlay.opaque",
        "trusted.overlay.whiteout",
        "user.unionfs.origin",
        "user." + "x" * 250,
        "bad",
    ]
    lower: Tree = {
        "d": {"f": File(b"x" * 30_000), "d": {}},
        "o": Opaque({"f": b""}),
        "f": b"f",
        "l": Symlink(b"d"),
    }
    reached: set[str] = set()
    refused: set[int] = set()
    with make_union(base, lower, {"o": {"hidden": b""}}) as union:
        root = os.fsencode(union.path)

        def path() -> bytes:
            return os.path.join(root, *(dice.choice(odd) for _ in range(dice.randrange(1, 4))))

        def opened() -> None:
            fd = os.open(path(), dice.getrandbits(23) & ~os.O_TRUNC | os.O_NONBLOCK, 0o600)
            try:
                os.pwrite(fd, b"x" * dice.choice([1, 5000]), dice.choice([0, 1 << 20, (1 << 63) - 1]))
                os.ftruncate(fd, dice.choice([0, 1, 1 << 62]))
            finally:
                os.close(fd)

        calls = {
            "open": opened,
            "mkdir": lambda: os.mkdir(path(), dice.getrandbits(12) | 0o700),
            "mknod": lambda: os.mknod(path(), dice.getrandbits(16) | 0o600, 0),
            "symlink": lambda: os.symlink(b"x" * dice.choice([1, 4095]), path()),
            "link": lambda: os.link(path(), path(), follow_symlinks=False),
            "rename": lambda: os.rename(path(), path()),
            "unlink": lambda: os.unlink(path()),
            "rmdir": lambda: os.rmdir(path()),
            "setxattr": lambda: os.setxattr(path(), dice.choice(xattrs), b"v" * dice.choice([0, 1, 65536])),
            "getxattr": lambda: os.getxattr(path(), dice.choice(xattrs)),
            "listxattr": lambda: os.listxattr(path()),
            "removexattr": lambda: os.removexattr(path(), dice.choice(xattrs)),
            "utime": lambda: os.utime(path(), ns=(dice.getrandbits(62), dice.getrandbits(62))),
            "chmod": lambda: os.chmod(path(), dice.getrandbits(12) | 0o700),
            "truncate": lambda: os.truncate(path(), dice.choice([0, 1, 1 << 20, 1 << 62])),
            "listdir": lambda: os.listdir(path()),
        }  # fmt: skip
        for _ in range(6000):
            kind = dice.choice(list(calls))
            try:
                calls[kind]()
                reached.add(kind)
            except OSError as error:
                refused.add(error.errno or 0)
        assert reached == set(calls)
        assert refused.isdisjoint({0, errno.EIO, errno.ENOTCONN, errno.ENOSYS})
        before = snapshot(union.path)
        union.remount()
        assert snapshot(union.path) == before


# -- programs ------------------------------------------------------------------------------------------


def run(*command: str, cwd: str) -> bytes:
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed: apt-get install git")
def test_git_works_in_a_repository_of_a_layer(base: str) -> None:
    lower = f"{base}/lower0/repository"
    make_tree(lower, {f"d{i}": {f"f{j}": b"%d %d\n" % (i, j) * 3000 for j in range(8)} for i in range(8)})
    commit = ["git", "-c", "user.name=n", "-c", "user.email=e", "commit", "-q", "-a", "-m", "m"]
    for command in (["git", "init", "-q"], ["git", "add", "."], commit):
        run(*command, cwd=lower)
    with make_union(base, {}) as union:
        here = f"{union.path}/repository"
        assert run("git", "status", "--porcelain", cwd=here) == b""
        run("git", "checkout", "-q", "-b", "other", cwd=here)
        run("git", "mv", "d0", "moved", cwd=here)
        with open(f"{here}/d1/f1", "ab") as file:
            file.write(b"changed")
        run(*commit, cwd=here)
        run("git", "gc", "-q", "--prune=now", cwd=here)
        run("git", "clone", "-q", here, f"{union.path}/clone", cwd=union.path)
        for _ in now_and_remounted(union):
            for place in (here, f"{union.path}/clone"):
                run("git", "fsck", "--full", "--strict", cwd=place)
                assert run("git", "status", "--porcelain", cwd=place) == b""
                assert sorted(os.listdir(f"{place}/moved")) == [f"f{j}" for j in range(8)]


def test_tar_copies_a_tree_out_and_in_unchanged(base: str) -> None:
    lower: Tree = {
        "t": {
            **{f"d{i}": {f"f{j}": os.urandom(200 * j) for j in range(10)} for i in range(10)},
            "link": Symlink(b"d0/f0"),
            "hole": File(b"x", size=1 << 20, mode=0o604, mtime_ns=10**18 + 5),
        }
    }
    with make_union(base, lower) as union:
        os.mkdir(f"{union.path}/copy")
        run("sh", "-c", "tar -C t --posix -cf - . | tar -C copy -xpf -", cwd=union.path)
        assert snapshot(f"{union.path}/copy", mtime=True) == snapshot(f"{base}/lower0/t", mtime=True)
        run("cp", "-a", f"{union.path}/t", f"{base}/out", cwd=base)
        assert snapshot(f"{base}/out", mtime=True) == snapshot(f"{base}/lower0/t", mtime=True)
