"""A layer: a directory tree reached by descriptors, one component at a time, never through a symbolic link of
its own.

``LayerDir`` is one directory of one layer. It knows its parent and name, keeps a descriptor only as long as
the shared ``FdCache`` (fd_cache.py) lets it, reads its names once and answers for them from memory. The server is the only
writer of the upper layer and the lower ones are immutable, so what was read stays true; a lower directory
that somebody changes all the same yields short reads or ENOENT, no more.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from weakref import WeakValueDictionary

from unionfs import _libc
from unionfs.formats.whiteout import (
    NAME_MAX,
    NO_MARKS,
    WH_OPAQUE,
    WH_PREFIX,
    MarkPolicy,
    Raw,
    decode,
    is_reserved_name,
)
from unionfs.formats.xattrs import OPAQUE_XATTRS, REDIRECT_XATTRS, WHITEOUT_XATTRS, readable
from unionfs.inode.numbers import Identity
from unionfs.layer.closed_directories import ClosedDirectories
from unionfs.layer.fd_cache import FdCache
from unionfs.layer.objects import DescriptorRef, PathRef, at_path, first_xattr, is_null_device, overridden
from unionfs.types import Mark

#: What stat reports for an id that the server's user namespace does not map (/proc/sys/kernel/overflowuid).
OVERFLOW_ID = 65534

_OPEN_DIR = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LIST_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_RESOLVE = _libc.RESOLVE_BENEATH | _libc.RESOLVE_NO_SYMLINKS | _libc.RESOLVE_NO_MAGICLINKS
#: For a last component that may be a symbolic link, which O_PATH | O_NOFOLLOW opens itself.
_RESOLVE_NO_XDEV_LAST = _libc.RESOLVE_BENEATH | _libc.RESOLVE_NO_MAGICLINKS | _libc.RESOLVE_NO_XDEV


class Layer:
    """One layer of the stack: its root and how it is to be read."""

    __slots__ = (
        "below",
        "closed",
        "cross",
        "device",
        "fds",
        "hidden",
        "policy",
        "root",
        "skeleton",
        "squash",
        "writable",
    )

    def __init__(
        self,
        root_fd: int,
        fds: FdCache,
        *,
        policy: MarkPolicy = NO_MARKS,
        writable: bool = False,
        squash: bool = False,
        skeleton: bool = False,
        cross: Iterable[bytes] = (),
        hidden: Iterable[Identity] = (),
    ) -> None:
        """Take over *root_fd*, a descriptor of the layer's root directory.

        Args:
            root_fd: closed with the layer.
            fds: where descriptors of its directories are kept.
            policy: which whiteouts and opaque marks are honoured.
            writable: this is the upper layer.
            squash: show owners that the server's user namespace does not map as 0, without set-id bits
                (Corrections 16).
            skeleton: the generated layer at the bottom that holds mount points; no mark of another layer hides it.
            cross: paths relative to the root, without slashes at the ends, where other file systems mounted
                inside are entered.
            hidden: directories that appear empty, by identity, wherever they are met (our own state
                directory).
        """
        self.fds = fds
        self.policy = policy
        self.writable = writable
        self.squash = squash
        self.skeleton = skeleton
        self.cross = frozenset(cross)
        self.hidden = frozenset(hidden)
        self.closed = ClosedDirectories()
        #: The roots of the layers below this one that take part in the union, top first, without the skeleton; set by the tree.
        self.below: tuple[LayerDir, ...] = ()
        self.root = LayerDir(self, None, b"")
        self.root.adopt(root_fd)
        self.device: int = self.root.device

    def close(self) -> None:
        """Close the root; directories below are closed by the cache."""
        self.root.close()


class LayerDir:
    """One directory of one layer. It is also the :class:`Ref` of itself."""

    __slots__ = (
        "__weakref__",
        "_entries",
        "_fd",
        "_kids",
        "_opaque",
        "_redirect",
        "_xwhiteouts",
        "device",
        "foreign",
        "layer",
        "name",
        "parent",
    )

    def __init__(self, layer: Layer, parent: LayerDir | None, name: bytes) -> None:
        """Describe the directory *name* of *parent*; nothing is opened yet."""
        self.layer = layer
        self.parent = parent
        self.name = name
        #: A mount point of another file system, or a hidden directory: shown, but empty.
        self.foreign = False
        self.device: int = parent.device if parent is not None else 0
        self._fd = -1
        self._entries: dict[bytes, Mark] | None = None
        self._opaque: bool | None = None
        #: b"" for none; None while nobody has looked.
        self._redirect: bytes | None = None
        self._xwhiteouts = False
        #: None while there is none: most directories hold no others.
        self._kids: WeakValueDictionary[bytes, LayerDir] | None = None

    # -- descriptors -------------------------------------------------------------------------------

    @property
    def merged(self) -> bool:
        """Tell whether more than one layer contributes: of one layer's own directory, no."""
        return False

    @property
    def bare(self) -> bool:
        """Tell whether it is known, without asking, that the directory has no extended attributes."""
        return False

    def entry(self, name: bytes) -> PathRef:
        """Return the reference to *name*, which is no directory."""
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
        """Keep the descriptor open whatever the cache does: the directory is about to lose its name."""
        self.fd()
        self.layer.fds.release(self)

    def unpin(self) -> None:
        """Give the descriptor back to the cache: the directory has kept its name after all."""
        if self._fd >= 0 and self.parent is not None:
            self.layer.fds.add(self)

    def fd(self) -> int:
        """Return an O_PATH descriptor of this directory, valid until the cache is next trimmed.

        Raises:
            OSError: it cannot be reached any more; ESTALE if it is a mount point of another file system.
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
                # Nobody else has it in use yet, and the path may be deeper than there are descriptors.
                self.layer.fds.drop(opened)
            opened = directory
        return self._fd

    def _open(self) -> None:
        assert self.parent is not None
        if self.foreign:
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
                self.foreign = True
                raise OSError(errno.ESTALE, "mount point inside a layer", self.name) from None
        # A file system may have several devices without a mount (Btrfs subvolumes): only openat2 knows mounts.
        try:
            info = os.fstat(fd)
        except OSError:
            os.close(fd)
            raise
        if (info.st_dev, info.st_ino) in self.layer.hidden or not (
            entered or info.st_dev == self.parent.device
        ):
            os.close(fd)
            self.foreign = True
            raise OSError(errno.ESTALE, "hidden directory inside a layer", self.name)
        self.device = info.st_dev
        self._fd = fd
        self.layer.fds.add(self)

    def reachable(self) -> bool:
        """Open the directory unless it is; False for one that only shows as an empty directory.

        Raises:
            OSError: as :meth:`fd`, but for ESTALE.
        """
        try:
            self.fd()
        except OSError as error:
            if self.foreign:
                return False
            # No search permission on it: it still has a name, attributes and no contents for us; say so when
            # they are wanted.
            if error.errno == errno.EACCES:
                return True
            raise
        return True

    def path(self) -> bytes:
        """Return the path from the layer's root, without a leading slash. For messages and comparison only,
        never for opening.
        """
        parts: list[bytes] = []
        at: LayerDir | None = self
        while at is not None and at.parent is not None:
            parts.append(at.name)
            at = at.parent
        return b"/".join(reversed(parts))

    def is_mount_point(self, name: bytes) -> bool:
        """Tell whether something is mounted on the non-directory *name*, whose device is not this directory's."""
        try:
            os.close(_libc.openat2(self.fd(), name, os.O_PATH | os.O_NOFOLLOW, _RESOLVE_NO_XDEV_LAST))
        except OSError as error:
            # Before Linux 5.6 the device is all that can be asked for.
            return error.errno in (errno.EXDEV, errno.ENOSYS)
        return False

    # -- names: the View that resolve() works on ---------------------------------------------------

    @property
    def skeleton(self) -> bool:
        """Whether the layer is the skeleton."""
        return self.layer.skeleton

    def mark(self, name: bytes) -> Mark | None:
        """Say what this layer has under *name* here."""
        entries = self._entries
        if entries is None:
            entries = self._load()
            if entries is None:
                return self._probe(name)
        return entries.get(name)

    def names(self) -> Iterable[bytes]:
        """List the names that have a mark.

        Raises:
            OSError: EACCES where the server may not read the directory.
        """
        entries = self._entries if self._entries is not None else self._load()
        if entries is None:
            raise OSError(errno.EACCES, os.strerror(errno.EACCES), self.name)
        return entries

    def opaque(self, name: bytes) -> bool:
        """Tell whether the directory *name* hides those of lower layers."""
        return self.layer.policy.any and self.child(name).is_opaque()

    def redirect(self, name: bytes) -> bytes | None:
        """Return where the layers below have the directory *name*, if not under its own name."""
        return self.child(name).redirected() if self.layer.policy.redirect else None

    def redirected(self) -> bytes | None:
        """Return where the layers below have this directory, if not under its own name.

        Raises:
            OSError: EACCES where its attributes may not be read: without them, wrong contents would show.
        """
        # Below the bottom there is nothing to be redirected to. What another file system has mounted here is not asked:
        # it may be a union that waits for us.
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
        """List the roots of the layers below this one's, top first."""
        return self.layer.below

    def hides_below(self) -> bool:
        """Tell whether this directory, the root of a layer, hides those of the layers below."""
        return self.layer.policy.any and self.is_opaque()

    def is_opaque(self) -> bool:
        """Tell whether this directory hides those of its name in lower layers."""
        if self._opaque is None:
            self._load()
        return bool(self._opaque)

    def _load(self) -> dict[bytes, Mark] | None:
        """Read the names and the opaque mark; None (and no cache) where the directory may be searched but not
        read.
        """
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
            entries, opaque = decode(self._scan(fd), policy)
        finally:
            os.close(fd)
        self._opaque = opaque or value == b"y"
        self._entries = entries
        return entries

    def _scan(self, fd: int) -> Iterator[tuple[bytes, Raw]]:
        devices = self.layer.policy.overlay
        with os.scandir(fd) as entries:
            for entry in entries:
                name = os.fsencode(entry.name)
                if entry.is_dir(follow_symlinks=False):
                    yield name, Raw.DIRECTORY
                elif not devices or entry.is_symlink():
                    yield name, Raw.OTHER
                elif entry.is_file(follow_symlinks=False):
                    if (
                        self._xwhiteouts
                        and first_xattr(at_path(fd, name), WHITEOUT_XATTRS, follow=False) is not None
                    ):
                        yield name, Raw.NULL_DEVICE
                    else:
                        yield name, Raw.OTHER
                else:
                    yield (
                        name,
                        Raw.NULL_DEVICE if is_null_device(entry.stat(follow_symlinks=False)) else Raw.OTHER,
                    )

    def _looks_opaque(self) -> bool:
        """Look for an opaque mark on a directory that cannot be read; one whose value cannot be read counts."""
        policy = self.layer.policy
        if policy.overlay and first_xattr(self.proc_path(), OPAQUE_XATTRS, unreadable=b"y") == b"y":
            return True
        return policy.aufs and self._has(WH_OPAQUE)

    def _has(self, name: bytes) -> bool:
        try:
            os.stat(name, dir_fd=self.fd(), follow_symlinks=False)
        except (FileNotFoundError, PermissionError):
            return False
        return True

    def _probe(self, name: bytes) -> Mark | None:
        """Ask for one name of a directory that may be searched but not read (mode --x).

        The marks of the name are asked for one by one, as there is no listing to take them from.
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
        """Return the directory *name*, the same object for as long as somebody holds it."""
        kids = self._kids
        if kids is None:
            kids = self._kids = WeakValueDictionary()
        kid = kids.get(name)
        if kid is None:
            kid = kids[name] = LayerDir(self.layer, self, name)
        return kid

    # -- the Ref of the directory itself -----------------------------------------------------------

    def stat(self) -> os.stat_result:
        """Return the attributes of the directory."""
        if self.parent is not None and self.foreign:
            return _libc.stat_cached(self.parent.fd(), self.name)
        if self.parent is not None and self._fd < 0:
            info = os.stat(self.name, dir_fd=self.parent.fd(), follow_symlinks=False)
        else:
            info = os.fstat(self.fd())
        return overridden(info, self) if self.layer.policy.override_stat else info

    def info(self) -> os.stat_result:
        """Return the attributes without asking for them, where they are known."""
        return self.stat()

    def proc_path(self) -> bytes:
        """Return a path of the directory itself for calls that take no descriptor (or no O_PATH one). Links
        in it are to be followed.
        """
        return b"/proc/self/fd/%d" % self.fd()

    # -- bookkeeping for the writable layer: called after the change on disk succeeded -------------

    def note(self, name: bytes, mark: Mark | None) -> None:
        """Record that *name* is now *mark* here, None for gone."""
        if self._entries is not None:
            if mark is None:
                self._entries.pop(name, None)
            else:
                self._entries[name] = mark
        if mark is not Mark.DIRECTORY and self._kids is not None:
            self._kids.pop(name, None)

    def note_new(self, *, opaque: bool) -> None:
        """Record that this directory was made just now: empty, and nothing needs to be read."""
        self._entries, self._opaque, self._redirect = {}, opaque, b""

    def note_opaque(self) -> None:
        """Record that this directory has been made opaque."""
        self._opaque = True

    def note_redirect(self, redirect: bytes) -> None:
        """Record that the layers below have this directory at *redirect*."""
        self._redirect = redirect

    def note_moved(self, parent: LayerDir, name: bytes) -> None:
        """Record that this directory is now *name* of *parent*; what is below it moved along."""
        kids = self.parent._kids if self.parent is not None else None
        if kids is not None and kids.get(self.name) is self:
            del kids[self.name]
        self.parent, self.name = parent, name
        if parent._kids is None:
            parent._kids = WeakValueDictionary()
        parent._kids[name] = self


#: What reaches one object on disk.
Ref = LayerDir | PathRef | DescriptorRef
