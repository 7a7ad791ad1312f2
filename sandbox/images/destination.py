"""Open, create and remove directories below the destination of an archive, and nowhere else.

This module resolves the paths of the archive, never the kernel. Each component is opened from its parent's descriptor with
O_NOFOLLOW. A symbolic link is read here and resolved with the destination as its root, as containerd, umoci and (in a chroot)
containers/storage do. `unpack` calls it, in a child process with id 0 of a user namespace.
"""

from __future__ import annotations

import errno
import os
import stat

from sandbox.images.directories import Directory
from sandbox.images.names import printable
from sandbox.images.whiteouts import is_whiteout
from sandbox.kernel.trees import remove_contents
from sandbox.kernel.walk import MAX_LINKS
from unionfs._stdlib.typing import NamedTuple

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

# Bytes of a path without its final zero (limits.h): no program could name a file with a longer one.
PATH_MAX = 4095
MAX_LINKED = 255  # components of the targets of all links in one path: a short path must not lead through thousands of directories
_MAX_OPEN = 128  # directories kept open from member to member


class RefusedError(Exception):
    """A member cannot be unpacked; the text gives the reason."""


class Place(NamedTuple):
    """An open directory of the tree. Its path is relative to the root, which is b"", and has no symbolic links, `.` or `..`."""

    path: bytes
    fd: int
    node: Directory


class Destination:
    """The tree that is being unpacked: its recorded directories and those that are open.

    The unpacker of one archive creates and closes it; the descriptor of the root stays the caller's.
    """

    def __init__(self, root: int, inherit: Callable[[bytes, Directory], None]) -> None:
        """Use the directory *root*. *inherit* is called with each directory that no member lists, after it was created."""
        self.root = root
        self._inherit = inherit
        self.top = Directory(None)
        self.absent: set[bytes] = set()  # names of devices that were left out
        self._open: dict[bytes, Place] = {}

    def close(self) -> None:
        """Close all open directories."""
        for place in self._open.values():
            os.close(place.fd)
        self._open.clear()

    def limit_open(self) -> None:
        """Close all open directories if they are too many."""
        if len(self._open) > _MAX_OPEN:
            self.close()

    def directory(self, path: bytes, *, create: bool = True) -> Place:
        """Open the directory *path*, and return it under its canonical path; it stays open until the next member.

        If *create* is set, missing components are created, and components that are neither directory nor symbolic link are
        replaced by directories, as umoci does it.
        """
        found = self._open.get(path)
        if found is not None:
            return found
        # Start from the innermost open directory; *remaining* is a stack with the next component at the end.
        done, remaining = path, []
        while done and done not in self._open:
            done, _, component = done.rpartition(b"/")
            remaining.append(component)
        start = self._open.get(done)
        node = self.top if start is None else start.node
        fd = os.dup(self.root if start is None else start.fd)
        links, linked = 0, 0
        try:
            while remaining:
                component = remaining.pop()
                if component in {b"", b"."}:
                    continue
                if component == b"..":
                    # From the target of a link. No other process moves directories of this tree.
                    if node.parent is not None:
                        fd = reopen(fd, b"..")
                        done = done.rpartition(b"/")[0]
                        node = node.parent
                    continue
                inner = self._enter(Place(done, fd, node), component, create=create)
                if isinstance(inner, Directory):
                    fd = reopen(fd, component)
                    node = inner
                    done = done + b"/" + component if done else component
                    if len(done) > PATH_MAX:
                        raise RefusedError(f"its path is longer than {PATH_MAX} bytes")
                    continue
                steps = inner.split(b"/")
                links, linked = links + 1, linked + len(steps)
                if links > MAX_LINKS or linked > MAX_LINKED:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
                if inner.startswith(b"/"):
                    os.dup2(self.root, fd, inheritable=False)
                    done, node = b"", self.top
                remaining += reversed(steps)
        except BaseException:
            os.close(fd)
            raise
        if done in self._open:
            os.close(fd)
        else:
            self._open[done] = Place(done, fd, node)
        return self._open[done]

    def _enter(self, place: Place, component: bytes, *, create: bool) -> Directory | bytes:
        """Return the directory *component* in *place*, created if necessary, or the target if it is a symbolic link."""
        known = place.node.child(component)
        if known is not None:
            return known
        own = place.path + b"/" + component if place.path else component
        mode = None
        try:
            mode = os.lstat(component, dir_fd=place.fd).st_mode
        except FileNotFoundError:
            if not create:
                raise
        else:
            if stat.S_ISDIR(mode):
                return place.node.add(component)
            if stat.S_ISLNK(mode):
                return os.readlink(component, dir_fd=place.fd)
            if not create:
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if is_whiteout(component):
            raise RefusedError(f"it is below {printable(own)}, a whiteout, which is no directory")
        if mode is not None:
            os.unlink(component, dir_fd=place.fd)
        os.mkdir(component, 0o700, dir_fd=place.fd)
        self.absent.discard(own)
        made = place.node.add(component)
        made.listed = True
        self._inherit(own, made)
        return made

    def remove(self, place: Place, path: bytes, leaf: bytes) -> None:
        """Remove *leaf* in *place*, a file or a directory with its content."""
        try:
            os.unlink(leaf, dir_fd=place.fd)
        except IsADirectoryError:
            fd = os.open(leaf, DIRECTORY, dir_fd=place.fd)
            try:
                remove_contents(fd)
            finally:
                os.close(fd)
            os.rmdir(leaf, dir_fd=place.fd)
            if place.node.children is not None:
                place.node.children.pop(leaf, None)
            for inner in [one for one in self._open if one == path or one.startswith(path + b"/")]:
                os.close(self._open.pop(inner).fd)


def relative(name: bytes) -> bytes:
    """Return *name* relative to the root of the archive, without `.` and superfluous slashes."""
    parts = [part for part in name.split(b"/") if part not in {b"", b"."}]
    if b".." in parts:
        raise RefusedError(f"a path with `..` in it ({printable(name)})")
    path = b"/".join(parts)
    if len(path) > PATH_MAX:
        raise RefusedError(f"its path is longer than {PATH_MAX} bytes")
    return path


def reopen(fd: int, name: bytes) -> int:
    """Make *fd* refer to the directory *name* in the directory that it refers to, and return it."""
    inner = os.open(name, DIRECTORY, dir_fd=fd)
    try:
        os.dup2(inner, fd, inheritable=False)
    finally:
        os.close(inner)
    return fd
