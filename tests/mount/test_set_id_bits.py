"""Set-id bits and file capabilities after changes of contents, for each kind of caller, compared with a plain file."""

from __future__ import annotations

import functools
import mmap
import os
import stat
import subprocess
from collections.abc import Callable

import pytest

from tests.mount._libc import drop_effective_capability
from tests.mount.support import SERVER, make_union
from tests.support.tree import File, Tree, make_tree
from unionfs import _libc
from unionfs._libc import FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE

pytestmark = [
    pytest.mark.fusermount,
    pytest.mark.root,
    pytest.mark.skipif(SERVER == "pyfuse3", reason="pyfuse3 does not pass on who keeps set-id bits"),
]


def content(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


#: Modes without a set-group-ID bit lacking group execution, which has no effect on execution (inode(7)). The kernel clears
#: it for callers outside of the group, and FUSE does not report whether a caller is in the group.
MODES = [0o4755, 0o2755, 0o6777, 0o4766, 0o777]


def _write(path: str) -> None:
    fd = os.open(path, os.O_WRONLY)
    os.pwrite(fd, b"w", 3)
    os.close(fd)


def _map(path: str) -> None:
    fd = os.open(path, os.O_RDWR)
    with mmap.mmap(fd, 0) as mapping:
        mapping[0:1] = b"m"
        mapping.flush()
    os.close(fd)


def _fallocate(path: str) -> None:
    fd = os.open(path, os.O_WRONLY)
    _libc.fallocate(fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, 0, 10)
    os.close(fd)


def _copy_range(path: str) -> None:
    source, target = os.open(os.path.dirname(path) + "/source", os.O_RDONLY), os.open(path, os.O_WRONLY)
    os.copy_file_range(source, target, 5, 0, 0)
    os.close(source)
    os.close(target)


def _open_truncating(path: str) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_TRUNC))


def _truncate_handle(path: str) -> None:
    fd = os.open(path, os.O_WRONLY)
    os.ftruncate(fd, 1)
    os.close(fd)


CHANGES: dict[str, Callable[[str], object]] = {
    "write": _write,
    "map": _map,
    "fallocate": _fallocate,
    "copy a range": _copy_range,
    "truncate to 0": lambda path: os.truncate(path, 0),
    "truncate to 2": lambda path: os.truncate(path, 2),
    "truncate a handle": _truncate_handle,
    "open, truncating": _open_truncating,
}
CALLERS: dict[str, tuple[int, int, list[int], bool]] = {
    "root": (0, 0, [], False),
    "root without CAP_FSETID": (0, 0, [], True),
    "the owner": (1000, 1000, [], False),
    "somebody else": (1001, 1001, [], False),
    "a member of the group": (1001, 1001, [1000], False),
}
_CAP_FSETID = 4


def as_caller(caller: tuple[int, int, list[int], bool], act: Callable[[], object]) -> int:
    """Run *act* in a process of *caller*; return 0 or the errno."""
    uid, gid, groups, without = caller
    pid = os.fork()
    if pid == 0:
        status = 255
        try:
            if without:
                drop_effective_capability(_CAP_FSETID)
            else:
                os.setgroups(groups)
                os.setresgid(gid, gid, gid)
                os.setresuid(uid, uid, uid)
            act()
            status = 0
        except OSError as error:
            status = error.errno or 254
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize("layer", ["lower", "upper"])
def test_set_id_bits_survive_the_same_changes_as_in_a_plain_file(layer: str, base: str) -> None:
    tree: Tree = {"source": b"0123456789"}
    for number in range(len(CHANGES) * len(CALLERS) * len(MODES)):
        tree[f"f{number}"] = b"x" * 10  # type: ignore[index]
    os.chmod(base, 0o755)
    plain = os.path.join(base, "plain")
    make_tree(plain, tree)
    union = make_union(base, {} if layer == "upper" else tree, upper=tree if layer == "upper" else None)
    roots = [union.path, plain]
    prepared = [os.path.join(base, "upper" if layer == "upper" else "lower0"), plain]
    cases = [(change, caller, mode) for change in CHANGES for caller in CALLERS for mode in MODES]
    for number, (_, _, mode) in enumerate(cases):
        for root in prepared:
            os.chown(f"{root}/f{number}", 1000, 1000)
            os.chmod(f"{root}/f{number}", mode)
    different = []
    with union:
        for number, (change, caller, mode) in enumerate(cases):
            seen = []
            for root in roots:
                path = f"{root}/f{number}"
                os.stat(path)  # the kernel has the former mode in its cache
                status = as_caller(CALLERS[caller], functools.partial(CHANGES[change], path))
                seen.append((status, oct(stat.S_IMODE(os.stat(path).st_mode)), content(path)))
            if seen[0] != seen[1]:
                different.append(f"{change} by {caller} of {mode:o}: {seen[0]}, on a plain file {seen[1]}")
        assert not different, "\n".join(different)
        union.remount()
        for number in range(len(cases)):
            ours, theirs = (os.stat(f"{root}/f{number}").st_mode for root in roots)
            assert ours == theirs


@pytest.mark.parametrize("change", ["write", "fallocate", "copy a range"])
def test_a_changed_file_is_executed_without_its_set_id_bits(change: str, base: str) -> None:
    # No stat(2) happens in between, so the kernel uses its cached mode.
    os.chmod(base, 0o755)
    program = content("/usr/bin/id") + b"at the end"
    with make_union(base, {"source": b"0123456789", "id": File(program, mode=0o6777)}) as union:
        path = f"{union.path}/id"
        os.chmod(path, 0o6777)
        command = [path, "-u"]
        run = lambda: int(subprocess.check_output(command, user=1000, group=1000, extra_groups=[]))  # noqa: E731
        assert run() == 0

        def act() -> None:
            fd = os.open(path, os.O_WRONLY)
            if change == "write":
                os.pwrite(fd, b"!", len(program) - 1)
            elif change == "fallocate":
                _libc.fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, 10)
            else:
                source = os.open(f"{union.path}/source", os.O_RDONLY)
                os.copy_file_range(source, fd, 5, 0, len(program) - 5)
                os.close(source)
            os.close(fd)

        assert as_caller((1000, 1000, [], False), act) == 0
        assert run() == 1000


@pytest.mark.parametrize("layer", ["lower", "upper"])
def test_a_user_who_may_not_change_a_file_cannot_clear_its_set_id_bits(layer: str, base: str) -> None:
    os.chmod(base, 0o755)
    tree: Tree = {"program": File(b"x", mode=0o6755)}
    with make_union(
        base, {} if layer == "upper" else tree, upper=tree if layer == "upper" else None
    ) as union:
        path = f"{union.path}/program"
        # A chown(2) that changes nothing: the kernel sends the same SETATTR as before a write, without a permission check.
        as_caller((1000, 1000, [], False), lambda: os.chown(path, -1, -1))
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o6755
        union.remount()
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o6755
        os.chown(path, -1, -1)  # root clears them, as in a plain directory
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o755


def test_a_write_of_any_caller_clears_file_capabilities(base: str) -> None:
    capability = bytes.fromhex("0100000200040000000000000000000000000000")
    with make_union(base, {"f": b"x"}) as union:
        os.chmod(f"{union.path}/f", 0o4755)
        os.setxattr(f"{union.path}/f", "security.capability", capability)
        _write(f"{union.path}/f")
        assert "security.capability" not in os.listxattr(f"{union.path}/f")
        union.remount()
        assert "security.capability" not in os.listxattr(f"{union.path}/f")
