"""A layer: a directory tree that is read through descriptors, one component at a time, without following its symbolic links.

``LayerDir`` is one directory of one layer. It stores its parent and name. It reads its names once and then answers from memory.
Its descriptor stays open only as long as the shared ``FdCache`` (fd_cache.py) keeps it. The cached names stay valid, because
the server is the only writer of the upper layer, and lower layers are immutable. If another process changes a lower directory
nevertheless, requests get short reads or ENOENT, but nothing worse.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Sequence
from weakref import WeakValueDictionary

from unionfs import _libc
from unionfs.formats.whiteout import (
    NAME_MAX,
    NO_MARKS,
    WH_OPAQUE,
    WH_PREFIX,
    MarkPolicy,
    decode,
    is_reserved_name,
)
from unionfs.formats.xattrs import OPAQUE_XATTRS, REDIRECT_XATTRS, readable
from unionfs.inode.numbers import Identity
from unionfs.layer.closed_directories import ClosedDirectories
from unionfs.layer.fd_cache import FdCache
from unionfs.layer.objects import DescriptorRef, PathRef, first_xattr, is_null_device, overridden
from unionfs.layer.raw_entries import raw_entries
from unionfs.types import Mark

#: The id that stat(2) reports for ids that the server's user namespace does not map (/proc/sys/kernel/overflowuid).
OVERFLOW_ID = 65534

_OPEN_DIR = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LIST_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_RESOLVE = _libc.RESOLVE_BENEATH | _libc.RESOLVE_NO_SYMLINKS | _libc.RESOLVE_NO_MAGICLINKS
#: For a last component that may be a symbolic link: O_PATH | O_NOFOLLOW opens the link itself.
_RESOLVE_NO_XDEV_LAST = _libc.RESOLVE_BENEATH | _libc.RESOLVE_NO_MAGICLINKS | _libc.RESOLVE_NO_XDEV


class Layer:
    """One layer of the stack: its root directory and how to read it. `unionfs.assemble` creates it, `UnionFs` closes it."""

    __slots__ = (
        "below",
        "closed",
        "cross",
        "device",
        "earlier",
        "fds",
        "frozen",
        "hidden",
        "policy",
        "relocation",
        "root",
        "skeleton",
        "squash",
        "writable",
    )

    #: A name that no layer with other contents has; None if only the file system can identify the layer.
    lasting_name: bytes | None = None

    def __init__(
        self,
        root_fd: int,
        fds: FdCache,
        *,
        policy: MarkPolicy = NO_MARKS,
        writable: bool = False,
        squash: bool = False,
        skeleton: bool = False,
        earlier: bool = False,
        cross: Iterable[bytes] = (),
        hidden: Iterable[Identity] = (),
    ) -> None:
        """Take over *root_fd*, a descriptor of the layer's root directory.

        Args:
            root_fd: closed with the layer.
            fds: the cache for descriptors of its directories.
            policy: which whiteouts and opaque marks are honoured.
            writable: the layer is the upper layer.
            squash: show owners that the server's user namespace does not map as 0, without set-id bits.
            skeleton: the layer is the generated bottom layer that contains mount points; no mark of another layer hides it.
            earlier: the layer was writable, until this mount or an earlier one froze it: its objects are changes, too.
            cross: paths of mount points, relative and without slashes at both ends, whose file systems are part of it.
            hidden: directories, by identity, that appear empty wherever they occur (the sandbox's own state directory).
        """
        self.fds = fds
        self.policy = policy
        self.writable = writable
        #: The layer was the writable one of this mount, until it was frozen (vfs/freezing.py). It has changed no more since.
        #: Whether this earlier layer has objects that were moved in the layers below at their old paths (layer/metacopy.py).
        self.frozen = self.relocation = False
        self.earlier = earlier
        self.squash = squash
        self.skeleton = skeleton
        self.cross = frozenset(cross)
        self.hidden = frozenset(hidden)
        self.closed = ClosedDirectories()
        #: The roots of the layers below that are part of the union, top first, without the skeleton; `InodeTable` sets it.
        self.below: tuple[LayerDir, ...] = ()
        self.root = self._opened_root(root_fd)
        self.device: int = self.root.device

    def _opened_root(self, root_fd: int) -> LayerDir:
        root = LayerDir(self, None, b"")
        root.adopt(root_fd)
        return root

    @property
    def file_system_fd(self) -> int:
        """A descriptor of a file of the file system that has the contents."""
        return self.root.fd()

    @property
    def has_changes(self) -> bool:
        """Return whether the objects of the layer are changes of the sandbox: it is, or was, the writable layer."""
        return self.writable or self.earlier

    def close(self) -> None:
        """Close the root. The descriptor cache closes the directories below it."""
        self.root.close()


class LayerDir:
    """One directory of one layer. It also serves as the :class:`Ref` of itself."""

    __slots__ = (
        "__weakref__",
        "_children",
        "_entries",
        "_fd",
        "_opaque",
        "_redirect",
        "_xwhiteouts",
        "device",
        "layer",
        "name",
        "parent",
        "shown_empty",
    )

    def __init__(self, layer: Layer, parent: LayerDir | None, name: bytes) -> None:
        """Describe the directory *name* of *parent*, without opening it."""
        self.layer = layer
        self.parent = parent
        self.name = name
        #: A mount point of another file system, or a hidden directory: it is shown as an empty directory.
        self.shown_empty = False
        self.device: int = parent.device if parent is not None else 0
        self._fd = -1
        self._entries: dict[bytes, Mark] | None = None
        self._opaque: bool | None = None
        #: b"" if there is none; None if it has not been read.
        self._redirect: bytes | None = None
        self._xwhiteouts = False
        #: None until a subdirectory is used, because most directories have none.
        self._children: WeakValueDictionary[bytes, LayerDir] | None = None

    # -- descriptors -------------------------------------------------------------------------------

    @property
    def merged(self) -> bool:
        """Return whether several layers contribute; False here, because this is a single layer's directory."""
        return False

    @property
    def known_no_xattrs(self) -> bool:
        """Return whether the directory is known to have no extended attributes, without a system call."""
        return False

    def entry(self, name: bytes) -> PathRef:
        """Return a reference to *name*, a non-directory."""
        return PathRef(self, name)

    def adopt(self, fd: int) -> None:
        """Use *fd* as the descriptor of this directory."""
        self._fd = fd
        self.device = os.fstat(fd).st_dev

    def close(self) -> None:
        """Close the descriptor; the next use opens it again."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def pin(self) -> None:
        """Keep the descriptor open regardless of the cache, because the directory is about to lose its name."""
        self.fd()
        self.layer.fds.release(self)

    def unpin(self) -> None:
        """Return the descriptor to the cache, because the directory kept its name after all."""
        if self._fd >= 0 and self.parent is not None:
            self.layer.fds.add(self)

    def fd(self) -> int:
        """Return an O_PATH descriptor of this directory, valid until the cache is next trimmed.

        Raises:
            OSError: the directory can no longer be reached; ESTALE if it is a mount point of another file system, or hidden.
        """
        if self._fd >= 0:
            self.layer.fds.touch(self)
            return self._fd
        chain: list[LayerDir] = []
        at: LayerDir = self
        while at._fd < 0 and at.parent is not None:
            chain.append(at)
            at = at.parent
        opened: LayerDir | None = None
        for directory in reversed(chain):
            directory._open()
            if opened is not None and self.layer.fds.is_full():
                # No other code uses this descriptor yet, and the path may have more components than the cache may have
                # descriptors.
                self.layer.fds.drop(opened)
            opened = directory
        return self._fd

    def _open(self) -> None:
        assert self.parent is not None
        if self.shown_empty:
            raise OSError(errno.ESTALE, "mount point inside a layer", self.name)
        at = self.parent._fd
        try:
            fd = _libc.openat2(at, self.name, _OPEN_DIR, _RESOLVE | _libc.RESOLVE_NO_XDEV)
            entered = True
        except OSError as error:
            if error.errno == errno.ENOSYS:
                fd, entered = os.open(self.name, _OPEN_DIR, dir_fd=at), False
            elif error.errno != errno.EXDEV:
                raise
            elif self.path() in self.layer.cross:
                fd, entered = _libc.openat2(at, self.name, _OPEN_DIR, _RESOLVE), True
            else:
                self.shown_empty = True
                raise OSError(errno.ESTALE, "mount point inside a layer", self.name) from None
        # A file system may have several devices without a mount (Btrfs subvolumes). Only openat2 detects mounts.
        try:
            info = os.fstat(fd)
        except OSError:
            os.close(fd)
            raise
        if (info.st_dev, info.st_ino) in self.layer.hidden or not (
            entered or info.st_dev == self.parent.device
        ):
            os.close(fd)
            self.shown_empty = True
            raise OSError(errno.ESTALE, "hidden directory inside a layer", self.name)
        self.device = info.st_dev
        self._fd = fd
        self.layer.fds.add(self)

    def reachable(self) -> bool:
        """Open the directory unless it is open. Return False if it is shown as an empty directory only.

        Raises:
            OSError: as :meth:`fd`, except for ESTALE.
        """
        try:
            self.fd()
        except OSError as error:
            if self.shown_empty:
                return False
            # The name and the attributes are visible without search permission. Reading the contents reports EACCES later.
            if error.errno == errno.EACCES:
                return True
            raise
        return True

    def path(self) -> bytes:
        """Return the path relative to the layer's root, without a leading slash: for messages and comparison only, not for
        opening.
        """
        parts: list[bytes] = []
        at: LayerDir | None = self
        while at is not None and at.parent is not None:
            parts.append(at.name)
            at = at.parent
        return b"/".join(reversed(parts))

    def is_mount_point(self, name: bytes) -> bool:
        """Return whether something is mounted on the non-directory *name*, whose device differs from this directory's."""
        try:
            os.close(_libc.openat2(self.fd(), name, os.O_PATH | os.O_NOFOLLOW, _RESOLVE_NO_XDEV_LAST))
        except OSError as error:
            # Linux before 5.6 has no openat2; there the different device decides.
            return error.errno in (errno.EXDEV, errno.ENOSYS)
        return False

    # -- names: the View protocol of resolve() -----------------------------------------------------

    @property
    def skeleton(self) -> bool:
        """Return whether the layer is the skeleton."""
        return self.layer.skeleton

    def mark(self, name: bytes) -> Mark | None:
        """Return the mark of *name* in this directory; None if the layer has no such name."""
        entries = self._entries
        if entries is None:
            entries = self._load()
            if entries is None:
                return self._probe(name)
        return entries.get(name)

    def names(self) -> Iterable[bytes]:
        """Return the names that have a mark.

        Raises:
            OSError: EACCES if the server may not read the directory.
        """
        entries = self._entries if self._entries is not None else self._load()
        if entries is None:
            raise OSError(errno.EACCES, os.strerror(errno.EACCES), self.name)
        return entries

    def opaque(self, name: bytes) -> bool:
        """Return whether the directory *name* hides directories of that name in lower layers."""
        return self.layer.policy.any and self.child(name).is_opaque()

    def redirect(self, name: bytes) -> bytes | None:
        """Return the redirect of the directory *name*; None if the layers below have it under its own name."""
        return self.child(name).redirected() if self.layer.policy.redirect else None

    def redirected(self) -> bytes | None:
        """Return the redirect of this directory; None if the layers below have it under its own name.

        Raises:
            OSError: EACCES if its attributes may not be read; without them the mount would show wrong contents.
        """
        # The bottom layer has nothing below it to be redirected to. A file system that is mounted here is not queried, because
        # it may be a union whose server waits for this one.
        if not (self.layer.policy.redirect and self.layer.below and self.reachable()):
            return None
        if self._redirect is None:
            path = self.proc_path()
            for name in readable(REDIRECT_XATTRS, user_marks=self.layer.policy.user_marks):
                try:
                    self._redirect = os.getxattr(path, name)
                    break
                except OSError as error:
                    if error.errno not in (errno.ENODATA, errno.EOPNOTSUPP, errno.EPERM):
                        raise
            else:
                self._redirect = b""
        return self._redirect or None

    def roots_below(self) -> Sequence[LayerDir]:
        """Return the roots of the layers below this one, top first."""
        return self.layer.below

    def hides_below(self) -> bool:
        """Return whether this directory, the root of a layer, hides the layers below."""
        return self.layer.policy.any and self.is_opaque()

    def is_opaque(self) -> bool:
        """Return whether this directory hides directories of its name in lower layers."""
        if self._opaque is None:
            self._load()
        return bool(self._opaque)

    def _load(self) -> dict[bytes, Mark] | None:
        """Read the names and the opaque mark. Return None, and cache no names, if the directory may be searched but not read."""
        if not self.reachable():
            self._entries, self._opaque = {}, False
            return self._entries
        policy = self.layer.policy
        try:
            fd = os.open(b".", _LIST_DIR, dir_fd=self.fd())
        except PermissionError:
            self.layer.closed.check(self.fd(), self.path)
            self._opaque = self._looks_opaque()
            return None
        try:
            value = first_xattr(fd, OPAQUE_XATTRS) if policy.overlay else b""
            self._xwhiteouts = value == b"x"
            entries, opaque = decode(raw_entries(fd, policy, xwhiteouts=self._xwhiteouts), policy)
        finally:
            os.close(fd)
        self._opaque = opaque or value == b"y"
        self._entries = entries
        return entries

    def _looks_opaque(self) -> bool:
        """Return whether this unreadable directory has an opaque mark. A mark whose value cannot be read counts."""
        policy = self.layer.policy
        marked = policy.overlay and first_xattr(self.proc_path(), OPAQUE_XATTRS, unreadable=b"y") == b"y"
        return marked or (policy.aufs and self._has(WH_OPAQUE))

    def _has(self, name: bytes) -> bool:
        try:
            os.stat(name, dir_fd=self.fd(), follow_symlinks=False)
        except (FileNotFoundError, PermissionError):
            return False
        return True

    def _probe(self, name: bytes) -> Mark | None:
        """Return the mark of one name in a directory that may be searched but not read (mode --x).

        Without a listing, each possible mark of the name has to be looked up separately.
        """
        policy = self.layer.policy
        if is_reserved_name(name, policy):
            return None
        hidden = policy.aufs and len(name) <= NAME_MAX - len(WH_PREFIX) and self._has(WH_PREFIX + name)
        try:
            info = os.stat(name, dir_fd=self.fd(), follow_symlinks=False)
        except FileNotFoundError:
            return Mark.WHITEOUT if hidden else None
        if stat.S_ISDIR(info.st_mode):
            return Mark.OPAQUE_DIRECTORY if hidden else Mark.DIRECTORY
        return Mark.WHITEOUT if policy.overlay and is_null_device(info) else Mark.OTHER

    def child(self, name: bytes) -> LayerDir:
        """Return the directory *name*: the same object as long as a reference to it exists."""
        children = self._children
        if children is None:
            children = self._children = WeakValueDictionary()
        child = children.get(name)
        if child is None:
            child = children[name] = LayerDir(self.layer, self, name)
        return child

    # -- the Ref of the directory itself -----------------------------------------------------------

    def stat(self) -> os.stat_result:
        """Return the attributes of the directory."""
        if self.parent is not None and self.shown_empty:
            return _libc.stat_cached(self.parent.fd(), self.name)
        if self.parent is not None and self._fd < 0:
            info = os.stat(self.name, dir_fd=self.parent.fd(), follow_symlinks=False)
        else:
            info = os.fstat(self.fd())
        return overridden(info, self) if self.layer.policy.override_stat else info

    def info(self) -> os.stat_result:
        """Return the attributes; subclasses that know them need no system call."""
        return self.stat()

    def proc_path(self) -> bytes:
        """Return a path of the directory for calls that take no O_PATH descriptor. They must follow links in it."""
        return b"/proc/self/fd/%d" % self.fd()

    def birth_time_ns(self) -> int | None:
        """Return the birth time in nanoseconds since the epoch, or None if the file system did not record it."""
        return _libc.birth_time_ns(self.fd())

    def list_xattrs(self) -> list[str]:
        """Return the names of all extended attributes, as listxattr(2) does."""
        return os.listxattr(self.proc_path())

    def get_xattr(self, name: str) -> bytes:
        """Return an extended attribute, as getxattr(2) does."""
        return os.getxattr(self.proc_path(), name)

    # -- bookkeeping for the writable layer, after the change on disk ------------------------------

    def note(self, name: bytes, mark: Mark | None) -> None:
        """Record that *name* now has *mark* in this directory; None: the name is gone."""
        if self._entries is not None:
            if mark is None:
                self._entries.pop(name, None)
            else:
                self._entries[name] = mark
        if mark is not Mark.DIRECTORY and self._children is not None:
            self._children.pop(name, None)

    def note_new(self, *, opaque: bool) -> None:
        """Record that this directory has just been created: it is empty, and nothing needs to be read."""
        self._entries, self._opaque, self._redirect = {}, opaque, b""

    def note_opaque(self) -> None:
        """Record that this directory has been made opaque."""
        self._opaque = True

    def note_redirect(self, redirect: bytes) -> None:
        """Record that *redirect* is the redirect of this directory to the layers below."""
        self._redirect = redirect

    def note_moved(self, parent: LayerDir, name: bytes) -> None:
        """Record that this directory is now *name* of *parent*. The directories below it move along."""
        children = self.parent._children if self.parent is not None else None
        if children is not None and children.get(self.name) is self:
            del children[self.name]
        self.parent, self.name = parent, name
        if parent._children is None:
            parent._children = WeakValueDictionary()
        parent._children[name] = self


#: A reference to one object on disk.
Ref = LayerDir | PathRef | DescriptorRef
