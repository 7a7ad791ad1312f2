"""A server that is confined like the launcher's opens nothing outside of its layers, whatever the request.

Landlock refuses all opens below /proc in these tests, whichever inodes of procfs exist. So an open that would fail only
after the kernel reclaimed memory fails here at once.
"""

from __future__ import annotations

import os
import re
import stat
import struct
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.fsapi.direct import DirectOperations
from tests.support.tree import make_tree
from unionfs import _libc
from unionfs.assemble import (
    LayerSource,
    StackSource,
    build_indexes,
    lacks_indexes,
    open_stack,
    with_process_facts,
)
from unionfs.fuse.libfuse.handlers import UnionOperations
from unionfs.fuse.notify import KernelNotifier
from unionfs.launch.confine import restrict_files
from unionfs.layer_index import build

pytestmark = pytest.mark.skipif(
    _libc.landlock_version() < 2, reason="needs Landlock of version 2 in the kernel (Linux 5.19)"
)

ROOT = 1
#: A link in procfs to an open descriptor: the kernel follows it without opening a file of procfs.
_OPEN_ALREADY = re.compile(rb"/proc/self/fd/\d+(/.*)?")
#: "u::rwx,g::r-x,o::r-x" (struct posix_acl_xattr_header, include/uapi/linux/posix_acl_xattr.h).
_ACCESS_LIST = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", tag, mode, 0xFFFFFFFF) for tag, mode in ((1, 7), (4, 5), (0x20, 5))
)
#: Not root, whose set-group-id files keep the bit. Without CAP_CHOWN it is this account.
_UID, _GID = os.geteuid() or 1000, os.getegid() or 1000
_CALLER = SimpleNamespace(uid=_UID, gid=_GID, pid=os.getpid(), umask=0)
_STRANGER = SimpleNamespace(uid=_UID, gid=_GID + 1000, pid=os.getpid(), umask=0)


class Opened:
    """The absolute paths that this process opens or lists, without links to open descriptors."""

    def __init__(self) -> None:
        self.paths: list[bytes] = []
        self.noting = True
        sys.addaudithook(self._note)

    def _note(self, event: str, arguments: tuple[object, ...]) -> None:
        if (
            self.noting
            and event in ("open", "os.listdir", "os.scandir")
            and isinstance(arguments[0], str | bytes)
        ):
            path = os.fsencode(arguments[0])
            if path.startswith(b"/") and not _OPEN_ALREADY.fullmatch(path):
                self.paths.append(path)


def in_child(action: Callable[[], object]) -> None:
    """Call *action* in a child of this process and fail with its traceback."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        text = ""
        try:
            action()
        except BaseException:  # noqa: BLE001 - a forked child must not run on in its parent's code
            text = traceback.format_exc()
        finally:
            os.write(writer, text.encode())
            os._exit(0)
    os.close(writer)
    with open(reader, encoding="utf-8") as pipe:
        text = pipe.read()
    os.waitpid(pid, 0)
    assert not text, text


@pytest.fixture
def source(tmp_path: Path) -> StackSource:
    """Return a stack of two layers to index, and a writable one. A child of the test owns the descriptors."""
    for name in ("top", "bottom"):
        make_tree(
            tmp_path / name,
            {"d": {f"{name}{number}": b"x" * 5000 for number in range(3)}, "both": name.encode()},
        )
    for name in ("upper", "work", "index"):
        (tmp_path / name).mkdir(mode=0o700)

    def fd(name: str) -> int:
        return os.open(tmp_path / name, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    return StackSource(
        lowers=tuple(LayerSource(fd=fd(name), indexed=True) for name in ("top", "bottom")),
        upper_fd=fd("upper"),
        work_fd=fd("work"),
        index_fd=fd("index"),
        size=1 << 24,
        inodes=1000,
    )


@pytest.fixture(autouse=True)
def _closed(source: StackSource) -> object:
    yield
    for fd in (*(lower.fd for lower in source.lowers), source.upper_fd, source.work_fd, source.index_fd):
        assert fd is not None
        os.close(fd)


def confine(source: StackSource, *writable: int | None) -> tuple[StackSource, Opened]:
    """Confine this process like the server of *source*, and deny all opens below /proc."""
    source = with_process_facts(source)
    readable = [
        *(lower.fd for lower in source.lowers),
        *((source.index_fd,) if source.index_fd is not None else ()),
    ]
    assert restrict_files(readable, [fd for fd in writable if fd is not None])
    for path in (
        "/proc/self/uid_map",
        "/proc/self/mountinfo",
        "/proc/self/fd",
        f"/proc/{os.getppid()}/status",
    ):
        with pytest.raises(PermissionError):
            os.open(path, os.O_RDONLY)
    return source, Opened()


def run(coroutine: object) -> object:
    """Run a handler of pyfuse3, which never waits, and return its result."""
    try:
        coroutine.send(None)  # type: ignore[attr-defined]
    except StopIteration as done:
        return done.value
    raise AssertionError("it waits")


def test_an_index_is_made_and_used(source: StackSource, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "_TICK_NS", 0)

    def build_here() -> None:
        confined, opened = confine(source, source.index_fd)
        assert lacks_indexes(confined)
        assert build_indexes(confined, wait=True)
        assert not lacks_indexes(confined)
        assert opened.paths == []

    def use() -> None:
        confined, opened = confine(source, source.upper_fd, source.work_fd)
        assert not lacks_indexes(confined)
        fs = open_stack(confined)
        directory = fs.inode_table.directory(ROOT)
        assert fs.inode_table.lookup(directory, b"both") is not None
        fs.close()
        assert opened.paths == []

    in_child(build_here)
    in_child(use)


@pytest.mark.parametrize("server", ["direct", "unopened", "pyfuse3"])
def test_every_request_is_answered_without_opening_anything_else(source: StackSource, server: str) -> None:
    def serve() -> None:
        confined, opened = confine(source, source.upper_fd, source.work_fd)
        fs = open_stack(confined)
        if server == "pyfuse3":
            kernel = UnionOperations(fs, masks=True, callers_visible=False)
        else:
            kernel = DirectOperations(fs, unopened=server == "unopened")
        end, connection = os.pipe()
        notices = KernelNotifier(fs.inode_table, connection)
        use(kernel)
        notices.check()
        fs.inode_table.touch_all()
        assert os.read(end, 1 << 16), "the kernel was notified"
        fs.prepare_copies()
        fs.make_room()
        fs.close()
        assert opened.paths == []

    in_child(serve)


def use(kernel: object) -> None:
    """Send one request of every kind through *kernel*."""

    def ask(name: str, *arguments: object) -> object:
        return run(getattr(kernel, name)(*arguments))

    def find(parent: int, name: bytes) -> int:
        found: int = ask("lookup", parent, name, _CALLER).st_ino  # type: ignore[attr-defined]
        assert found
        return found

    def open_file(number: int, flags: int) -> int:
        opened = ask("open", number, flags, _CALLER)
        return getattr(opened, "fh", opened)  # type: ignore[return-value]

    directory, both = find(ROOT, b"d"), find(ROOT, b"both")
    for name in (b"top0", b"bottom1"):
        handle = open_file(find(directory, name), os.O_RDONLY)
        ask("read", handle, 0, 4096)
        ask("release", handle)
    for number in (ROOT, directory, both):
        ask("getattr", number, _CALLER)
        ask("listxattr", number, _CALLER)
    ask("statfs", _CALLER)
    # Copy-up of contents, of metadata, and of a name only.
    handle = open_file(both, os.O_RDWR)
    ask("write", handle, 0, b"changed")
    ask("fsync", handle, False)
    ask("release", handle)
    ask("setxattr", find(directory, b"top1"), b"user.a", b"b", _CALLER)
    ask("removexattr", find(directory, b"top1"), b"user.a", _CALLER)
    ask("link", find(directory, b"bottom2"), ROOT, b"link", _CALLER)
    ask("rename", directory, b"top2", ROOT, b"moved", 0, _CALLER)
    ask("rename", ROOT, b"d", ROOT, b"e", 0, _CALLER)
    made = ask("mkdir", ROOT, b"new", 0o755, _CALLER).st_ino  # type: ignore[attr-defined]
    ask("mknod", made, b"fifo", stat.S_IFIFO | 0o644, 0, _CALLER)
    ask("symlink", made, b"link", b"target", _CALLER)
    ask("readlink", find(made, b"link"), _CALLER)
    created, _ = ask("create", made, b"file", 0o644, os.O_RDWR, _CALLER)  # type: ignore[misc]
    handle = getattr(created, "fh", created)
    ask("unlink", made, b"file", _CALLER)
    ask("write", handle, 0, b"without a name")
    ask("release", handle)
    for name in (b"fifo", b"link"):
        ask("unlink", made, name, _CALLER)
    ask("rmdir", ROOT, b"new", _CALLER)
    ask("unlink", ROOT, b"both", _CALLER)
    # Setting an ACL of a set-group-id file must not look up the caller's groups in /proc.
    created, _ = ask("create", ROOT, b"sgid", stat.S_ISGID | 0o755, os.O_RDWR, _CALLER)  # type: ignore[misc]
    ask("release", getattr(created, "fh", created))
    ask("setxattr", find(ROOT, b"sgid"), b"system.posix_acl_access", _ACCESS_LIST, _STRANGER)
