"""Send random requests, which a kernel would not send, to the handlers. Each ends with a reply or an errno, and the
invariants of the tables hold.
"""

from __future__ import annotations

import errno
import os
import random
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyfuse3
import pytest
from pyfuse3 import FUSEError

from tests.fsapi.direct import DirectOperations
from tests.fsapi.invariants import check_invariants
from tests.support.tree import File, HardLink, Opaque, Symlink, Tree, Whiteout
from tests.unit.unionfs.support import Union
from unionfs.fuse.libfuse.handlers import UnionOperations
from unionfs.inode.inode import DirectoryInode

#: Larger than files whose contents are copied when only metadata changes.
LARGE = bytes(range(256)) * 100
TOP: Tree = {
    "d": {"a": b"top a", "gone": Whiteout(), "e": {"x": b"x"}},
    "o": Opaque({"new": b"new"}),
    "hard": LARGE,
    "hard2": HardLink("hard"),
    "link": Symlink(b"d/a"),
}
BOTTOM: Tree = {
    "d": {
        "a": b"bottom a",
        "b": LARGE,
        "gone": b"gone",
        "e": {"y": File(b"y", mode=0o6755)},
        "deep": {"er": {"f": b"f"}},
    },
    "o": {"hidden": b"hidden"},
    "m": {"1": b"1", "2": LARGE, "3": {}},
    "hard": b"below",
}

NAMES = [
    *(
        name.encode()
        for name in ("d", "o", "m", "hard", "hard2", "link", "a", "b", "e", "x", "y", "gone", "deep")
    ),
    *(name.encode() for name in ("er", "f", "1", "2", "3", "new", "n1", "n2", "n3", "n4", "n5")),
]
ODD_NAMES = [
    *(
        b"",
        b".",
        b"..",
        b"/",
        b"a/b",
        b"../../escaped",
        b"d/a",
        b"\xff\xfe",
        b"new\nline",
        b".wh.a",
        b".wh..wh..opq",
    ),
    *(b".wh.", b"n" * 255, b"n" * 256, b"n" * 1100, b".wh." + b"n" * 251, b"#1", b"index", b"work"),
]
XATTRS = [
    *(
        b"user.a",
        b"user.b",
        b"user.overlay.opaque",
        b"trusted.overlay.redirect",
        b"user.unionfs.origin",
        b"",
        b"a",
        b"user.",
    ),
    *(
        b"user." + b"x" * 300,
        b"security.capability",
        b"system.posix_acl_access",
        b"trusted.x",
        b"user.\xff",
        b"bogus.name",
    ),
]


class Kernel:
    """Calls the handlers with numbers that a kernel would know, and sometimes with others."""

    def __init__(self, union: Union, seed: int, server: str) -> None:
        self.random = random.Random(seed)
        self.union = union
        self.operations: Any = (
            UnionOperations(union.fs, masks=True)
            if server == "pyfuse3"
            else DirectOperations(union.fs, unopened=server == "unopened")
        )
        self.told: Counter[int] = Counter()
        #: The modes of all inodes that a reply contained, by number.
        self.modes: dict[int, int] = {}
        self.files: list[tuple[int, int]] = []
        self.directories: list[tuple[int, int]] = []
        self.outcomes: Counter[str] = Counter()
        self.room = 0

    # -- arguments of requests ---------------------------------------------------------------------

    def inode(self) -> int:
        return self._choose(lambda mode: True)

    def parent(self) -> int:
        return self._choose(stat.S_ISDIR)

    def file(self) -> int:
        return self._choose(stat.S_ISREG)

    def _choose(self, wanted: Callable[[int], bool]) -> int:
        """Return a number, mostly of an inode whose mode is *wanted*; otherwise any, a forgotten or an invented one."""
        luck = self.random.random()
        if luck < 0.03:
            return self.random.choice([0, 2, 1 << 48, (1 << 64) - 1, self.random.getrandbits(64)])
        known = [
            inode
            for inode, mode in self.modes.items()
            if luck < 0.06 or (self.told[inode] and (luck < 0.2 or wanted(mode)))
        ]
        return self.random.choice(known) if known and luck < 0.9 else 1

    def name(self) -> bytes:
        return self.random.choice(ODD_NAMES if self.random.random() < 0.08 else NAMES)

    def entry(self) -> tuple[int, bytes]:
        """Return a directory and a name, which mostly exists."""
        parent = self.parent()
        inode = self.union.fs.inode_table._by_ino.get(parent)  # type: ignore[call-overload]
        if isinstance(inode, DirectoryInode) and inode.children and self.random.random() < 0.7:
            return parent, self.random.choice(list(inode.children))
        return parent, self.name()

    def handle(self, table: list[tuple[int, int]]) -> int:
        if not table or self.random.random() < 0.05:
            return self.random.choice([0, 1, 7, (1 << 64) - 1, self.random.getrandbits(32)])
        return self.random.choice(table)[0]

    def offset(self) -> int:
        return self.random.choice([0, 1, 4095, 4096, 30_000, -1, -(1 << 63), (1 << 63) - 1, 1 << 40])

    def context(self) -> Any:
        owner = self.random.choice([(os.getuid(), os.getgid())] * 3 + [(1000, 1000)])
        return SimpleNamespace(uid=owner[0], gid=owner[1], pid=1, umask=0o22)

    def mode(self) -> int:
        kind = self.random.choice(
            [0, stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFDIR, 0o170000]
        )
        return kind | self.random.getrandbits(12) | stat.S_IRUSR

    # -- requests ----------------------------------------------------------------------------------

    def run(self, handler: Callable[..., Any], *arguments: Any) -> Any:
        """Run a handler, which never waits, and return its result; None for an error."""
        coroutine = handler(*arguments)
        try:
            coroutine.send(None)
        except StopIteration as end:
            self.outcomes[handler.__name__] += 1
            return end.value
        except FUSEError as error:
            self.outcomes[errno.errorcode[error.errno]] += 1
            return None
        raise AssertionError("a handler waits")

    def tell(self, entry: Any) -> None:
        if entry is not None and entry.st_ino:
            self.told[entry.st_ino] += 1
            self.modes[entry.st_ino] = entry.st_mode

    def step(self) -> None:
        """Send one request of a random kind."""
        kind = self.random.choice(KINDS)
        getattr(self, "do_" + kind)()

    def do_lookup(self) -> None:
        self.tell(self.run(self.operations.lookup, *self.entry(), self.context()))

    def do_forget(self) -> None:
        busy = {inode for _, inode in self.files + self.directories}
        known = [inode for inode, count in self.told.items() if count and inode not in busy]
        for inode in self.random.sample(known, min(len(known), 2)):
            count = self.random.randint(1, self.told[inode])
            self.run(self.operations.forget, [(inode, count)])
            self.told[inode] -= count
        self.run(self.operations.forget, [(self.random.getrandbits(60) | 1 << 61, 3)])

    def do_getattr(self) -> None:
        self.run(self.operations.getattr, self.inode(), self.context())

    def do_setattr(self) -> None:
        names = ("mode", "uid", "gid", "size", "atime", "mtime")
        fields = SimpleNamespace(**{"update_" + name: self.random.random() < 0.3 for name in names})
        value = SimpleNamespace(
            st_mode=self.random.getrandbits(12) | stat.S_IRWXU,  # other users than root read the result
            st_uid=os.getuid(),
            st_gid=os.getgid(),
            st_size=self.random.choice([0, 1, 5000, 30_000, -1, 1 << 62]),
            st_atime_ns=self.random.getrandbits(62),
            st_mtime_ns=self.random.getrandbits(62),
        )
        handle = self.handle(self.files) if self.random.random() < 0.5 else None
        self.run(self.operations.setattr, self.inode(), value, fields, handle, self.context())

    def do_mknod(self) -> None:
        device = self.random.choice([0, os.makedev(1, 3)])
        self.tell(
            self.run(self.operations.mknod, self.parent(), self.name(), self.mode(), device, self.context())
        )

    def do_mkdir(self) -> None:
        self.tell(
            self.run(self.operations.mkdir, self.parent(), self.name(), self.mode() | 0o700, self.context())
        )

    def do_symlink(self) -> None:
        target = self.random.choice([b"a", b"", b"x" * 5000, b"../../..", b"\xff"])
        self.tell(self.run(self.operations.symlink, self.parent(), self.name(), target, self.context()))

    def do_link(self) -> None:
        self.tell(self.run(self.operations.link, self.file(), self.parent(), self.name(), self.context()))

    def do_unlink(self) -> None:
        self.run(self.operations.unlink, *self.entry(), self.context())

    def do_rmdir(self) -> None:
        self.run(self.operations.rmdir, *self.entry(), self.context())

    def do_rename(self) -> None:
        flags = self.random.choice([0] * 6 + [1, 2, 2, 3, 4, 1 << 31])
        self.run(
            self.operations.rename,
            *self.entry(),
            *self.entry(),
            flags,
            self.context(),
        )

    def do_readlink(self) -> None:
        self.run(self.operations.readlink, self.inode(), self.context())

    def do_xattr(self) -> None:
        inode, name = self.inode(), self.random.choice(XATTRS)
        value = self.random.choice([b"", b"v", b"x" * 3000, b"x" * 65536, b"x" * 65537])
        if name == b"security.capability":
            value = bytes.fromhex("0100000200040000000000000000000000000000")  # the kernel rejects all others
        match self.random.randrange(4):
            case 0:
                self.run(self.operations.setxattr, inode, name, value, self.context())
            case 1:
                self.run(self.operations.getxattr, inode, name, self.context())
            case 2:
                self.run(self.operations.removexattr, inode, name, self.context())
            case _:
                self.run(self.operations.listxattr, inode, self.context())

    def do_statfs(self) -> None:
        self.run(self.operations.statfs, self.context())

    def flags(self) -> int:
        if self.random.random() < 0.2:
            return self.random.getrandbits(23) & ~os.O_SYNC
        access = self.random.choice([os.O_RDONLY, os.O_WRONLY, os.O_RDWR])
        return access | self.random.choice([0, 0, os.O_APPEND, os.O_TRUNC, os.O_DIRECT])

    def do_open(self) -> None:
        inode = self.file()
        opened = self.run(self.operations.open, inode, self.flags(), self.context())
        if opened is not None:
            self.files.append((opened.fh, inode))
        if len(self.files) > 30:
            self.do_release()

    def do_create(self) -> None:
        made = self.run(
            self.operations.create,
            self.parent(),
            self.name(),
            self.mode() & 0o7777,
            self.flags(),
            self.context(),
        )
        if made is not None:
            self.tell(made[1])
            self.files.append((made[0].fh, made[1].st_ino))

    def do_read(self) -> None:
        self.run(
            self.operations.read, self.handle(self.files), self.offset(), self.random.choice([0, 1, 131072])
        )

    def do_write(self) -> None:
        offset = self.random.choice([0, 1, 4095, 4096, 30_000, -1, -(1 << 63), (1 << 63) - 1])
        self.run(
            self.operations.write, self.handle(self.files), offset, b"w" * self.random.choice([0, 1, 5000])
        )

    def do_release(self) -> None:
        self._release(self.files, self.operations.release)

    def do_releasedir(self) -> None:
        self._release(self.directories, self.operations.releasedir)

    def _release(self, table: list[tuple[int, int]], handler: Callable[..., Any]) -> None:
        number = self.handle(table)
        self.run(handler, number)
        table[:] = [entry for entry in table if entry[0] != number]

    def do_fsync(self) -> None:
        if self.random.random() < 0.1:
            self.run(self.operations.fsync, self.handle(self.files), self.random.random() < 0.5)
            self.run(self.operations.fsyncdir, self.handle(self.directories), False)

    def do_opendir(self) -> None:
        inode = self.parent()
        number = self.run(self.operations.opendir, inode, self.context())
        if number is not None:
            self.directories.append((number, inode))
        if len(self.directories) > 20:
            self.do_releasedir()

    def do_readdir(self) -> None:
        self.room = self.random.choice([0, 1, 3, 100])
        start = self.random.choice([0, 0, 0, 1, 2, 3, 5, -1, 1 << 40, (1 << 63) - 1])
        self.run(self.operations.readdir, self.handle(self.directories), start, self)

    def reply(self, _token: object, _name: bytes, entry: Any, after: int) -> bool:
        """Replace pyfuse3.readdir_reply."""
        if not self.room:
            return False
        self.room -= 1
        if after > 2:
            self.tell(entry)
        return True

    # -- the end -----------------------------------------------------------------------------------

    def let_go(self) -> None:
        """Close all handles and forget all inodes."""
        for number, _ in self.files:
            self.run(self.operations.release, number)
        for number, _ in self.directories:
            self.run(self.operations.releasedir, number)
        self.run(self.operations.forget, [(inode, count) for inode, count in self.told.items() if count])


KINDS = [name.removeprefix("do_") for name in vars(Kernel) if name.startswith("do_")]
KINDS += ["lookup"] * 4 + ["create", "open", "readdir", "rename", "write", "link", "unlink", "mkdir"] * 2


@pytest.fixture
def base(tmp_path: Path) -> Iterator[Path]:
    """Return a directory that can be removed even if its contents have modes without permissions."""
    before = os.umask(0)
    yield tmp_path
    os.umask(before)
    for directory, _, _ in os.walk(tmp_path):
        os.chmod(directory, 0o700)


def fuzz(
    base: Path, monkeypatch: pytest.MonkeyPatch, server: str, seed: int, steps: int, *, every: int
) -> None:
    union = Union(base, [TOP, BOTTOM], {})
    try:
        union.fs.inode_table.layers[0].fds.capacity = 16
        before = len(os.listdir("/proc/self/fd"))
        kernel = Kernel(union, seed, server)
        monkeypatch.setattr(pyfuse3, "readdir_reply", kernel.reply)
        for number in range(steps):
            kernel.step()
            if number % every == 0:
                check_invariants(union.fs, kernel.told)
        check_invariants(union.fs, kernel.told)
        assert not (base / "escaped").exists()
        kernel.let_go()
        assert len(union.fs.inode_table) == 1
        assert len(union.fs.handles) == 0
        assert len(os.listdir("/proc/self/fd")) <= before + 17
        shown = union.show(ino=False)
        union.reopen()
        assert union.show(ino=False) == shown
        assert "ENOSYS" not in kernel.outcomes
        # Most kinds of requests have to succeed sometimes. Otherwise the test covers less than intended.
        assert len(set(kernel.outcomes) - set(errno.errorcode.values())) >= (20 if steps > 1000 else 5)
    finally:
        union.close()


@pytest.mark.parametrize("server", ["pyfuse3", "direct", "unopened"])
@pytest.mark.parametrize("seed", range(6))
def test_random_requests_end_in_replies_or_errnos_and_leave_the_tables_whole(
    base: Path, monkeypatch: pytest.MonkeyPatch, seed: int, server: str
) -> None:
    fuzz(base, monkeypatch, server, seed, 2000, every=10)


@pytest.mark.long
@pytest.mark.parametrize("server", ["pyfuse3", "direct", "unopened"])
def test_very_many_random_requests_end_in_replies_or_errnos_and_leave_the_tables_whole(
    base: Path, monkeypatch: pytest.MonkeyPatch, server: str
) -> None:
    for seed in range(1000, 1100):
        (base / str(seed)).mkdir()
        fuzz(base / str(seed), monkeypatch, server, seed, 5000, every=50)
