"""Build the tree of an archive in memory, with the rules by which `unpack` would write it to a disk.

The paths of the archive are resolved here alone: a symbolic link leads to what the tree has at its target, and never out of it. A
member replaces an earlier one of the same name; missing directories are made. Everything that `unpack` refuses is refused with
the same reason, so that an archive can be mounted exactly if it can be unpacked.
"""

from __future__ import annotations

import errno
import os
import stat

from sandbox.images.destination import MAX_LINKED, PATH_MAX, RefusedError
from sandbox.images.names import printable
from sandbox.images.whiteouts import is_whiteout
from sandbox.kernel.walk import MAX_LINKS

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_NAME_MAX = 255  # bytes of one component (limits.h)
_MOST_KNOWN = 4096  # paths of directories that are remembered

NO_XATTRS: Mapping[bytes, bytes] = {}


class ArchivedObject:
    """A file, symbolic link or FIFO of the archive. An archive may have a million, so it has no dictionary."""

    __slots__ = (
        "extents",
        "gid",
        "ino",
        "links",
        "mode",
        "mtime_ns",
        "position",
        "size",
        "target",
        "uid",
        "xattrs",
    )

    def __init__(self, mode: int, uid: int, gid: int, mtime_ns: int) -> None:
        """Create an object with *mode*, which includes the type."""
        self.mode = mode
        self.uid = uid
        self.gid = gid
        self.mtime_ns = mtime_ns
        self.size = 0
        #: The offset of the contents in the archive.
        self.position = 0
        #: Of a sparse file: offset and length of each piece of data; None for any other.
        self.extents: tuple[tuple[int, int], ...] | None = None
        #: Of a symbolic link.
        self.target = b""
        self.xattrs: Mapping[bytes, bytes] = NO_XATTRS
        #: How many names it has, as far as they have been counted; 1 until it is the target of a hard link.
        self.links = 1
        #: Its inode number; 0 until it has one.
        self.ino = 0


class ArchivedDirectory:
    """A directory of the archive: its attributes, what it contains, and its whiteouts."""

    __slots__ = (
        "absent",
        "entries",
        "gid",
        "lacks_lower",
        "mode",
        "mtime_ns",
        "opaque",
        "parent",
        "uid",
        "whiteouts",
        "xattrs",
    )

    def __init__(self, parent: ArchivedDirectory | None, mtime_ns: int) -> None:
        """Create a directory that no member has listed yet."""
        self.parent = parent
        self.mode = stat.S_IFDIR | 0o755
        self.uid = 0
        self.gid = 0
        self.mtime_ns = mtime_ns
        self.xattrs: Mapping[bytes, bytes] = NO_XATTRS
        self.entries: dict[bytes, ArchivedObject | ArchivedDirectory] = {}
        #: The names of lower layers that it hides; None for none.
        self.whiteouts: set[bytes] | None = None
        #: Whether it hides all names of lower layers.
        self.opaque = False
        #: The names of devices that were left out; None for none.
        self.absent: set[bytes] | None = None
        #: Whether the layers below are known to have no directory here.
        self.lacks_lower = False


class ArchiveTree:
    """The tree of one archive. `archive_index` creates it; nothing has to be closed."""

    def __init__(self, inherit: Callable[[bytes, ArchivedDirectory], None] | None = None) -> None:
        """Start with an empty root directory.

        *inherit* is called with the path of each directory that no member lists, and the directory, to set its attributes.
        """
        self._inherit = inherit
        self.root = ArchivedDirectory(None, 0)
        self._known: dict[bytes, ArchivedDirectory] = {b"": self.root}
        #: The time that directories get which no member lists: that of the member that needs them.
        self.now_ns = 0

    def directory(self, path: bytes, *, create: bool = True) -> ArchivedDirectory:
        """Return the directory at *path*, which is relative and has no superfluous slashes.

        With *create*, missing components are made, and those that are neither directory nor link are replaced by directories.

        Raises:
            RefusedError: a component is a whiteout, or the path is too long.
            OSError: ELOOP for too many links; without *create*: ENOENT, ENOTDIR.
        """
        found = self._known.get(path)
        if found is not None:
            return found
        at, length = self.root, 0
        remaining = path.split(b"/")[::-1]
        links = linked = 0
        names: list[bytes] = []
        while remaining:
            component = remaining.pop()
            if component in {b"", b"."}:
                continue
            if component == b"..":
                if at.parent is not None:
                    at = at.parent
                    length -= len(names.pop()) + bool(names)
                continue
            inner = self._enter(at, component, names, create=create)
            if isinstance(inner, ArchivedDirectory):
                at = inner
                length += len(component) + bool(names)
                names.append(component)
                if length > PATH_MAX:
                    raise RefusedError(f"its path is longer than {PATH_MAX} bytes")
                continue
            steps = inner.split(b"/")
            links, linked = links + 1, linked + len(steps)
            if links > MAX_LINKS or linked > MAX_LINKED:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
            if inner.startswith(b"/"):
                at, length, names = self.root, 0, []
            remaining += reversed(steps)
        if len(self._known) >= _MOST_KNOWN:
            self._known = {b"": self.root}
        self._known[path] = at
        return at

    def _enter(
        self, at: ArchivedDirectory, component: bytes, names: list[bytes], *, create: bool
    ) -> ArchivedDirectory | bytes:
        """Return the directory *component* of *at*, made if necessary, or the target if it is a symbolic link.

        *names* lead from the root to *at*.
        """
        found = at.entries.get(component)
        if isinstance(found, ArchivedDirectory):
            return found
        if found is not None and stat.S_ISLNK(found.mode):
            return found.target
        if not create:
            number = errno.ENOENT if found is None else errno.ENOTDIR
            raise OSError(number, os.strerror(number))
        if is_whiteout(component):
            raise RefusedError(f"it is below {printable(component)}, a whiteout, which is no directory")
        made = ArchivedDirectory(at, self.now_ns)
        self.put(at, component, made)
        if self._inherit is not None:
            self._inherit(b"/".join((*names, component)), made)
        return made

    def covers(self, path: bytes) -> bool:
        """Return whether this layer hides what lower layers have at *path*, which leads through its directories."""
        at = self.root
        for name in path.split(b"/"):
            if at.opaque or (at.whiteouts is not None and name in at.whiteouts):
                return True
            found = at.entries.get(name)
            if not isinstance(found, ArchivedDirectory):
                return True
            at = found
        return at.opaque

    def put(self, at: ArchivedDirectory, name: bytes, made: ArchivedObject | ArchivedDirectory) -> None:
        """Make *made* the entry *name* of *at*, in place of an earlier one and all that it contains.

        Raises:
            OSError: ENAMETOOLONG.
        """
        if len(name) > _NAME_MAX:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        self.remove(at, name)
        at.entries[name] = made

    def remove(self, at: ArchivedDirectory, name: bytes) -> None:
        """Remove the entry *name* of *at*, if there is one, with all that it contains."""
        replaced = at.entries.pop(name, None)
        if replaced is not None and (isinstance(replaced, ArchivedDirectory) or stat.S_ISLNK(replaced.mode)):
            self._known = {b"": self.root}  # some paths may have led through it
        if at.absent is not None:
            at.absent.discard(name)
