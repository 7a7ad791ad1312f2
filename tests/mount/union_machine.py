"""Random operations on a mounted union and on a plain directory with the same tree, whose results must be equal.

Compared are the result or the errno of each operation, and snapshots of the trees: types, modes, owners, contents, link
targets, link counts, attributes, and modification times as far as they are comparable. At the end the union is remounted
and compared again, with its inode numbers. If kernel OverlayFS can be mounted, it must show the same tree of the layers.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, ClassVar

from hypothesis import HealthCheck, Phase, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from tests.mount.support import Union, inode_numbers, kernel_overlay
from tests.support.layers import BOTTOM, MIDDLE, OLD, RECENT, VISIBLE, age, comparable_time
from tests.support.requirements import missing
from tests.support.tree import Entry, make_tree, snapshot
from unionfs import _libc

_AT_FDCWD = -100
_ROOT = os.geteuid() == 0
#: Names of new objects. Some exist in the layers. The long ones: NAME_MAX with the prefix `.wh.`, NAME_MAX, one byte more.
NEW_NAMES = [
    b"a",
    b"b",
    b"new",
    b"w",
    b"gone",
    b"only",
    b"x",
    b"e",
    b"hard2",
    b"\xff\xfe",
    b"n" * 251,
    b"m" * 255,
    b"l" * 256,
]
#: Only root can read trees with any modes.
MODES = [0o600, 0o644, 0o700, 0o755, 0o1777, 0o000, 0o444, 0o555] if _ROOT else [0o700, 0o750, 0o755, 0o1777]
ATTRIBUTES = ["user.color", "user.size", "user." + "n" * 200]
RENAME_FLAGS = [0, 0, 0, _libc.RENAME_NOREPLACE, _libc.RENAME_EXCHANGE]

#: Number of remounts of one example. hypothesis starts with the simplest step at every place, which is the remount, and
#: each costs as much as a hundred operations.
_MAX_REMOUNTS = 2

SHORT = settings(
    max_examples=8,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
    # Shrinking takes minutes, because each attempt mounts. In tests/unit/unionfs/test_histories.py it is fast enough.
    phases=[Phase.generate],
)
LONG = settings(
    SHORT,
    max_examples=1000,
    stateful_step_count=120,
    derandomize=False,
)

Outcome = tuple[str, Any]


def outcome(operation: Callable[[bytes], Any], root: bytes) -> Outcome:
    """Return the result of *operation* on *root*, or the name of its errno."""
    try:
        return "ok", operation(root)
    except OSError as error:
        return "error", errno.errorcode[error.errno or 0]


def look(root: bytes) -> Mapping[bytes, Entry]:
    """Return the tree below *root* with comparable times."""
    return {
        path: replace(entry, mtime_ns=comparable_time(entry.mtime_ns))
        for path, entry in snapshot(root, nlink=True, mtime=True).items()
    }


def walk(root: bytes) -> tuple[list[bytes], list[bytes]]:
    """Return the relative paths of all directories (with b"", the root) and of everything else, sorted."""
    directories, others = [b""], []
    for at, names, files in os.walk(root):
        relative = os.path.relpath(at, root) if at != root else b""
        for name in names:
            path = os.path.join(relative, name)
            (others if os.path.islink(os.path.join(at, name)) else directories).append(path)
        others += [os.path.join(relative, name) for name in files]
    return sorted(directories), sorted(others)


class UnionMachine(RuleBasedStateMachine):
    """Operations on one union and one plain directory. It creates both, and removes them in `teardown`."""

    options: ClassVar[str] = "whiteouts=overlay"
    kernel_reads_it: ClassVar[bool] = True
    #: The lower layers are mounted archives.
    archived: ClassVar[bool] = False
    #: Number of compared operations of all examples.
    operations: ClassVar[int] = 0

    def __init__(self) -> None:
        super().__init__()
        self._old_umask = os.umask(0)
        self._base = tempfile.mkdtemp(prefix="unionfs-differential-")
        os.chmod(self._base, 0o755)
        base = os.fsencode(self._base)
        for name, tree in (("bottom", BOTTOM), ("middle", MIDDLE), ("plain", VISIBLE)):
            make_tree(os.path.join(self._base, name), tree)
            if _ROOT and name == "middle":  # kernel OverlayFS reads either root's marks or users'
                os.setxattr(os.path.join(self._base, "middle/e"), "trusted.overlay.opaque", b"y")
            age(os.path.join(base, os.fsencode(name)))
        self._union = Union(
            self._base,
            [os.path.join(self._base, "middle"), os.path.join(self._base, "bottom")],
            options=self.options,
            archived=self.archived,
        )
        os.utime(self._union.upper, ns=(OLD, OLD))
        self.plain = os.path.join(base, b"plain")
        self.mount = os.fsencode(self._union.path)
        self.begin()
        self._handles: list[tuple[int, int]] = []
        self._steps = 0
        self._remounts = 0
        _, others = walk(self.mount)
        # Inode numbers do not change at copy-up, so they identify the lower objects.
        self._lower_links = {
            info.st_ino
            for info in (os.lstat(os.path.join(self.mount, path)) for path in others)
            if info.st_nlink > 1
        }

    def begin(self) -> None:
        """Mount."""
        self._union.mount()

    def again(self) -> None:
        """Mount again, and compare."""
        self._union.remount()
        self.compare()

    # -- comparisons --------------------------------------------------------------------------

    def both(self, what: str, operation: Callable[[bytes], Any]) -> Outcome:
        """Do *operation* on both and compare."""
        UnionMachine.operations += 1
        ours = outcome(operation, self.mount)
        note(f"{what} -> {ours}")
        theirs = outcome(operation, self.plain)
        assert ours == theirs, f"{what}: {ours} on the union, {theirs} on the plain directory"
        return ours

    def compare(self) -> None:
        """Compare the two trees."""
        ours, theirs = look(self.mount), look(self.plain)
        assert ours == theirs

    @invariant()
    def trees_are_equal_now_and_then(self) -> None:
        """Compare after every eighth step, because a comparison costs as much as eight steps."""
        self._steps += 1
        if self._steps % 8 == 0:
            self.compare()

    def teardown(self) -> None:
        """Compare, mount again, compare again."""
        try:
            for handles in self._handles:
                for fd in handles:
                    os.close(fd)
            self.compare()
            numbers = inode_numbers(self._union.path)
            self._union.remount()
            self.compare()
            assert inode_numbers(self._union.path) == numbers
            hard_linked = {path for path, number in numbers.items() if number in self._lower_links}
            self._union.unmount()
            assert os.listdir(os.path.join(self._union.work, "unionfs/tmp")) == []
            if self.kernel_reads_it and _ROOT and missing("overlay") is None:
                self._compare_with_the_kernel(hard_linked)
        finally:
            self._union.kill()
            os.umask(self._old_umask)
            shutil.rmtree(self._base)

    def _compare_with_the_kernel(self, hard_linked: set[bytes]) -> None:
        """Let kernel OverlayFS mount the layers, with the written layer as a lower layer, and a copy of it as the upper one.

        Hard links to lower files need the link index of unionfs, which the kernel does not read.
        """
        upper, lower = (os.path.join(self._base, name) for name in ("upper", "middle"))
        lower += ":" + os.path.join(self._base, "bottom")
        copy, work = (os.path.join(self._base, name) for name in ("copy-of-upper", "kernel-work"))
        subprocess.run(["cp", "--archive", upper, copy], check=True)
        os.mkdir(work)
        for options in (
            f"ro,redirect_dir=on,metacopy=on,lowerdir={upper}:{lower}",
            f"redirect_dir=on,metacopy=on,index=on,xino=on,lowerdir={lower},upperdir={copy},workdir={work}",
        ):
            with kernel_overlay(os.fsdecode(self.mount), options):
                self._compare_but_for_hard_links(look(self.mount), hard_linked)

    def _compare_but_for_hard_links(self, seen: Mapping[bytes, Entry], hard_linked: set[bytes]) -> None:
        def comparable(path: bytes, entry: Entry) -> Entry:
            public = {
                name: value
                for name, value in entry.xattrs.items()
                if not name.startswith(("user.unionfs.", "user.overlay."))
            }
            return replace(entry, nlink=None, xattrs=public)

        expected = look(self.plain)
        assert seen.keys() == expected.keys()
        for path, entry in seen.items():
            if path not in hard_linked:
                assert comparable(path, entry) == comparable(path, expected[path]), path

    # -- drawing paths -----------------------------------------------------------------------------

    def _existing(self, data: st.DataObject, *, root: bool = False) -> bytes:
        directories, others = walk(self.plain)
        paths = directories[0 if root else 1 :] + others
        return data.draw(st.sampled_from(paths or [b"a"]), label="path")

    def _directory(self, data: st.DataObject) -> bytes:
        return data.draw(st.sampled_from(walk(self.plain)[0]), label="directory")

    def _file(self, data: st.DataObject) -> bytes | None:
        files = [
            path
            for path in walk(self.plain)[1]
            if stat.S_ISREG(os.lstat(os.path.join(self.plain, path)).st_mode)
        ]
        return data.draw(st.sampled_from(files), label="file") if files else None

    def _new(self, data: st.DataObject) -> bytes:
        return os.path.join(self._directory(data), data.draw(st.sampled_from(NEW_NAMES), label="name"))

    def _any(self, data: st.DataObject) -> bytes:
        return self._new(data) if data.draw(st.booleans(), label="new") else self._existing(data)

    # -- operations on names -----------------------------------------------------------------------

    @initialize()
    def the_same_tree_shows_at_the_start(self) -> None:
        """Before the first operation, the union shows the expected tree."""
        self.compare()

    @rule(
        data=st.data(), mode=st.sampled_from(MODES), content=st.binary(max_size=20), exclusive=st.booleans()
    )
    def create(self, data: st.DataObject, mode: int, content: bytes, exclusive: bool) -> None:
        """Create a file, or overwrite the beginning of an existing one."""
        path = self._any(data)
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | (os.O_EXCL if exclusive else 0)

        def operation(root: bytes) -> int:
            fd = os.open(os.path.join(root, path), flags, mode)
            try:
                return os.write(fd, content)
            finally:
                os.close(fd)

        self.both(f"create {path!r} {mode:o}", operation)

    @rule(data=st.data(), mode=st.sampled_from([*MODES, 0o2755]))
    def mkdir(self, data: st.DataObject, mode: int) -> None:
        """Make a directory."""
        path = self._any(data)
        self.both(f"mkdir {path!r} {mode:o}", lambda root: os.mkdir(os.path.join(root, path), mode))

    @rule(data=st.data())
    def unlink(self, data: st.DataObject) -> None:
        """Remove a name, which is an error for a directory."""
        path = self._existing(data)
        self.both(f"unlink {path!r}", lambda root: os.unlink(os.path.join(root, path)))

    @rule(data=st.data())
    def rmdir(self, data: st.DataObject) -> None:
        """Remove a directory, if it is empty."""
        path = self._existing(data)
        self.both(f"rmdir {path!r}", lambda root: os.rmdir(os.path.join(root, path)))

    @rule(data=st.data())
    def remove_tree(self, data: st.DataObject) -> None:
        """Remove a directory with everything in it, as rm -r does."""
        path = self._directory(data)
        if path:
            self.both(f"rm -r {path!r}", lambda root: shutil.rmtree(os.path.join(root, path)))

    @rule(data=st.data(), flags=st.sampled_from(RENAME_FLAGS))
    def rename(self, data: st.DataObject, flags: int) -> None:
        """Rename, with or without replacing, or exchange."""
        old, new = self._existing(data), self._any(data)

        def operation(root: bytes) -> None:
            _libc.renameat2(_AT_FDCWD, os.path.join(root, old), _AT_FDCWD, os.path.join(root, new), flags)

        self.both(f"rename {old!r} {new!r} {flags}", operation)

    @rule(data=st.data())
    def link(self, data: st.DataObject) -> None:
        """Make a hard link."""
        old, new = self._existing(data), self._any(data)
        self.both(
            f"link {old!r} {new!r}",
            lambda root: os.link(os.path.join(root, old), os.path.join(root, new), follow_symlinks=False),
        )

    @rule(data=st.data(), content=st.sampled_from([b"a", b"../b", b"nowhere", b"d", b"t" * 300]))
    def symlink(self, data: st.DataObject, content: bytes) -> None:
        """Make a symbolic link."""
        path = self._any(data)
        self.both(f"symlink {path!r}", lambda root: os.symlink(content, os.path.join(root, path)))

    @rule(
        data=st.data(),
        kind=st.sampled_from([stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFREG]),
        mode=st.sampled_from(MODES),
    )
    def mknod(self, data: st.DataObject, kind: int, mode: int) -> None:
        """Make a special file."""
        path = self._any(data)
        self.both(f"mknod {path!r}", lambda root: os.mknod(os.path.join(root, path), kind | mode))

    # -- operations on attributes ------------------------------------------------------------------

    @rule(data=st.data(), mode=st.sampled_from(MODES))
    def chmod(self, data: st.DataObject, mode: int) -> None:
        """Change the mode; a symbolic link is followed."""
        path = self._existing(data, root=True)
        self.both(f"chmod {path!r} {mode:o}", lambda root: os.chmod(os.path.join(root, path), mode))

    @precondition(lambda self: _ROOT)
    @rule(data=st.data(), uid=st.sampled_from([-1, 0, 1000, 65533]), gid=st.sampled_from([-1, 0, 100]))
    def chown(self, data: st.DataObject, uid: int, gid: int) -> None:
        """Change the owner, also of a symbolic link itself."""
        path = self._existing(data, root=True)
        self.both(
            f"chown {path!r} {uid}:{gid}",
            lambda root: os.chown(os.path.join(root, path), uid, gid, follow_symlinks=False),
        )

    @rule(data=st.data(), time=st.integers(0, RECENT - 1))
    def utime(self, data: st.DataObject, time: int) -> None:
        """Set the times, also of a symbolic link itself."""
        path = self._existing(data, root=True)
        self.both(
            f"utime {path!r} {time}",
            lambda root: os.utime(os.path.join(root, path), ns=(time, time), follow_symlinks=False),
        )

    @rule(
        data=st.data(),
        name=st.sampled_from(ATTRIBUTES),
        value=st.binary(max_size=30),
        flags=st.sampled_from([0, os.XATTR_CREATE, os.XATTR_REPLACE]),
    )
    def setxattr(self, data: st.DataObject, name: str, value: bytes, flags: int) -> None:
        """Set an attribute."""
        path = self._existing(data)
        self.both(
            f"setxattr {path!r} {name} {flags}",
            lambda root: os.setxattr(os.path.join(root, path), name, value, flags, follow_symlinks=False),
        )

    @rule(data=st.data(), name=st.sampled_from(ATTRIBUTES))
    def removexattr(self, data: st.DataObject, name: str) -> None:
        """Remove an attribute."""
        path = self._existing(data)
        self.both(
            f"removexattr {path!r} {name}",
            lambda root: os.removexattr(os.path.join(root, path), name, follow_symlinks=False),
        )

    @rule(data=st.data(), name=st.sampled_from(ATTRIBUTES))
    def getxattr(self, data: st.DataObject, name: str) -> None:
        """Read an attribute, and list all names."""
        path = self._existing(data)
        self.both(
            f"listxattr {path!r}",
            lambda root: sorted(os.listxattr(os.path.join(root, path), follow_symlinks=False)),
        )
        self.both(
            f"getxattr {path!r}",
            lambda root: os.getxattr(os.path.join(root, path), name, follow_symlinks=False),
        )

    # -- operations on contents --------------------------------------------------------------------

    @rule(data=st.data(), size=st.sampled_from([0, 1, 5000, 80_000, 400_000]))
    def truncate(self, data: st.DataObject, size: int) -> None:
        """Change the size by path."""
        path = self._file(data)
        if path is not None:
            self.both(f"truncate {path!r} {size}", lambda root: os.truncate(os.path.join(root, path), size))

    @rule(
        data=st.data(),
        flags=st.sampled_from([os.O_RDONLY, os.O_RDWR, os.O_RDWR | os.O_APPEND, os.O_RDWR | os.O_TRUNC]),
    )
    def open(self, data: st.DataObject, flags: int) -> None:
        """Open a file and keep it open."""
        path = self._file(data)
        if path is None:
            return
        opened: list[int] = []

        def operation(root: bytes) -> None:
            opened.append(os.open(os.path.join(root, path), flags | os.O_NOFOLLOW))

        if self.both(f"open {path!r} {flags:o}", operation)[0] == "ok":
            self._handles.append((opened[0], opened[1]))

    def _on_handle(self, data: st.DataObject, what: str, operation: Callable[[int], Any]) -> None:
        number = data.draw(st.integers(0, len(self._handles) - 1), label="handle")
        pair = dict(zip((self.mount, self.plain), self._handles[number], strict=True))
        self.both(f"{what} handle {number}", lambda root: operation(pair[root]))

    @precondition(lambda self: self._handles)
    @rule(
        data=st.data(),
        content=st.binary(min_size=1, max_size=5000),
        at=st.sampled_from([0, 3, 4096, 100_000]),
    )
    def write_handle(self, data: st.DataObject, content: bytes, at: int) -> None:
        """Write through an open file."""
        self._on_handle(data, f"write {len(content)} at {at}", lambda fd: os.pwrite(fd, content, at))

    @precondition(lambda self: self._handles)
    @rule(data=st.data(), at=st.sampled_from([0, 3, 4096, 69_990]))
    def read_handle(self, data: st.DataObject, at: int) -> None:
        """Read through an open file, which may have been opened before the file was copied up."""
        self._on_handle(data, f"read at {at}", lambda fd: os.pread(fd, 3000, at))

    @precondition(lambda self: self._handles)
    @rule(data=st.data(), size=st.sampled_from([0, 10, 100_000]))
    def truncate_handle(self, data: st.DataObject, size: int) -> None:
        """Change the size through an open file."""
        self._on_handle(data, f"truncate {size}", lambda fd: os.ftruncate(fd, size))

    @precondition(lambda self: self._handles)
    @rule(data=st.data(), mode=st.sampled_from(MODES))
    def chmod_handle(self, data: st.DataObject, mode: int) -> None:
        """Change the mode through an open file, which may be unlinked."""
        self._on_handle(data, f"chmod {mode:o}", lambda fd: os.fchmod(fd, mode))

    @precondition(lambda self: self._handles)
    @rule(data=st.data())
    def stat_handle(self, data: st.DataObject) -> None:
        """Compare the attributes of an open file."""

        def operation(fd: int) -> tuple[int, ...]:
            os.fsync(fd)
            info = os.fstat(fd)
            return info.st_mode, info.st_size, info.st_nlink, info.st_uid

        self._on_handle(data, "stat", operation)

    @precondition(lambda self: self._handles)
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        """Close an open file."""
        number = data.draw(st.integers(0, len(self._handles) - 1), label="handle")
        for fd in self._handles.pop(number):
            os.close(fd)

    @rule(data=st.data())
    def list(self, data: st.DataObject) -> None:
        """List a directory."""
        path = self._directory(data)
        self.both(f"list {path!r}", lambda root: sorted(os.listdir(os.path.join(root, path))))

    @precondition(lambda self: not self._handles and self._remounts < _MAX_REMOUNTS)
    @rule()
    def remount(self) -> None:
        """Mount again, so that the server has to read everything from disk."""
        self._remounts += 1
        self.again()
