"""The whole file system in terms of inode numbers, synchronous. Raises OSError; knows neither pyfuse3 nor
trio.

Every method is atomic to every other: nothing in here waits for another request.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator

from unionfs._stdlib.dataclasses import dataclass
from unionfs._stdlib.typing import NamedTuple
from unionfs.copyup.background_copy import BackgroundCopies
from unionfs.copyup.copyup import CopyUp
from unionfs.copyup.plan import Contents
from unionfs.formats import acl
from unionfs.formats.xattrs import shown_name, stored_name
from unionfs.inode.directory_offsets import DirectoryOffsets
from unionfs.inode.handles import FileHandle, HandleTable
from unionfs.inode.inode import DirectoryInode, FileInode, Inode
from unionfs.inode.numbers import Identity
from unionfs.inode.table import InodeTable
from unionfs.layer.objects import NO_XATTR, PathRef, follows
from unionfs.layer.ownership import Ownership
from unionfs.types import Ino
from unionfs.upper.link_index import LinkIndex
from unionfs.upper.permissions import Permissions
from unionfs.upper.quota import FileSystemFigures, Quota, counted
from unionfs.upper.upper import Upper
from unionfs.vfs.names import Names
from unionfs.vfs.privileges import kill_privileges
from unionfs.vfs.unnamed_files import create_unnamed

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from unionfs.layer_index.store import Store

NO_XATTRS: frozenset[str] = frozenset()
_ACLS = frozenset((acl.ACCESS, acl.DEFAULT))
#: Flags of open(2) that are the kernel's business or done by position: never passed on to the file below.
_NOT_PASSED = os.O_CREAT | os.O_EXCL | os.O_NOCTTY | os.O_APPEND | os.O_DIRECT | os.O_TRUNC | os.O_NOFOLLOW


class Change(NamedTuple):
    """What setattr is to change; None leaves a value alone. Times in nanoseconds since the epoch, size in
    bytes.
    """

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None
    #: The size is that of open(2) with O_TRUNC, which sets the time of an empty file, too.
    opening: bool = False
    #: The change of the size clears set-id bits: the caller has no CAP_FSETID, or it is not known whether it has.
    kill_suidgid: bool = True


class Attributes(NamedTuple):
    """What the mount shows of a node."""

    ino: Ino
    mode: int
    nlink: int
    uid: int
    gid: int
    rdev: int
    size: int
    blocks: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int


class UnionFs:
    """One union, mounted or not."""

    def __init__(
        self,
        inode_table: InodeTable,
        ownership: Ownership,
        writable: WritableParts | None,
        *,
        volatile: bool = False,
        static_nlink: bool = False,
        acls: bool = False,
        layer_indexes: Store | None = None,
    ) -> None:
        """Join the parts; without *writable* the file system is read-only.

        Args:
            inode_table: the inodes.
            ownership: how owners are shown.
            writable: what a writable mount has besides.
            volatile: nothing is ever synced.
            static_nlink: every directory has a link count of 1.
            acls: POSIX access control lists are shown and can be set; who asks honours them.
            layer_indexes: what the indexes of layers come from, to be closed with them.
        """
        self.inode_table = inode_table
        self.handles = HandleTable()
        self.writable = writable
        self.quota = writable.quota if writable is not None else None
        self._ownership = ownership
        self._volatile = volatile
        self._static_nlink = static_nlink
        self.acls = acls
        #: Whether the file system below gives new files no attributes of its own accord, such as the label of a
        #: security module; None until one has been made.
        self._bare: bool | None = None
        self._layer_indexes = layer_indexes

    @property
    def names(self) -> Names:
        """The changes of names; EROFS where there is no writable layer."""
        return self.parts().names

    def parts(self) -> WritableParts:
        """Return what a writable mount has; EROFS where this is none."""
        if self.writable is None:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return self.writable

    def trim(self) -> None:
        """Let go of what no reply has told the kernel of, and of descriptors over the limit; do what of a copy-up could
        wait. Called between requests.
        """
        if self.writable is not None:
            self.writable.copy_up.finish()
        self.inode_table.settle()
        self.inode_table.layers[0].fds.trim()

    def prepare_copies(self) -> None:
        """Begin each copy-up before it is needed, where copies come in a row: for whoever calls :meth:`trim` when a request
        has been answered, and :meth:`make_room` before one that there was no room for is tried again.
        """
        if self.writable is not None:
            self.writable.copy_up.prepares = True

    def make_room(self) -> None:
        """Take no room in the writable layer, where there is none, but for what is in it."""
        if self.writable is not None:
            self.writable.copy_up.make_room()

    def close(self) -> None:
        """Close every descriptor."""
        if self.writable is not None:
            self.writable.copy_up.close()
        self.handles.close()
        self.inode_table.close()
        fds = self.inode_table.layers[0].fds
        fds.capacity = 0
        fds.trim()
        for layer in self.inode_table.layers:
            layer.close()
        if self.writable is not None:
            self.writable.index.close()
            self.writable.upper.close()
        if self._layer_indexes is not None:
            self._layer_indexes.close()

    # -- attributes --------------------------------------------------------------------------------

    def attributes(self, node: Inode) -> Attributes:
        """Return what the mount shows of *node*."""
        info = self._info(node)
        uid, gid, mode = self._ownership.visible(info, node.layer)
        size, blocks, rdev = info.st_size, info.st_blocks, info.st_rdev
        if node.foreign:
            size = blocks = 0
        elif isinstance(node, FileInode) and node.data is not None:
            blocks = node.data.info().st_blocks
        return Attributes(
            node.ino, mode, self._links(node, info), uid, gid, rdev, size, blocks,
            info.st_atime_ns, info.st_mtime_ns, info.st_ctime_ns,
        )  # fmt: skip

    def _info(self, node: Inode) -> os.stat_result:
        info = node.info
        if info is None:
            info = node.info = node.ref.info()
        return info

    def _links(self, node: Inode, info: os.stat_result) -> int:
        if isinstance(node, DirectoryInode):
            # As kernel OverlayFS: a merged directory has 1, which find(1) and fts(3) take for "unknown"
            # (Corrections 12).
            return 0 if node.removed else 1 if node.merged or self._static_nlink else info.st_nlink
        if self.writable is None:
            return info.st_nlink
        if node.indexed:
            return info.st_nlink - 1 + self.writable.index.lower_names(node.ino)
        if node.layer.writable:
            return info.st_nlink
        # The lower file keeps its names; those deleted in the union are counted apart.
        if info.st_nlink > 1 and node.names:
            return max(1, info.st_nlink - self.writable.index.lost_names(node.ino))
        return 1 if node.names else 0

    def setattr(self, ino: int, change: Change, handle_number: int | None) -> Inode:
        """Apply *change*: owner before mode, as a change of owner clears set-id bits; size first; times last."""
        node, mode = self.inode_table.node(ino), change.mode
        if isinstance(node, DirectoryInode):
            if change.size is not None:
                raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
            if node.removed and node.upper is None:
                raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
            self.parts().copy_up.directory(node)
        else:
            resized = False
            if change.size is not None:
                self._regular_file(ino)
                resized = change.opening or change.size != self._info(node).st_size
            contents = {None: Contents.LATER, 0: Contents.NONE}.get(change.size, Contents.COPY)
            if change.size is not None and node.layer.writable:
                kill_privileges(self, node, kill_suidgid=change.kill_suidgid)
            if mode is not None and stat.S_ISLNK(node.kind):
                raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
            made_with = None if change.size is None else self._mode_when_emptied(node, change.kill_suidgid)
            if not node.layer.writable and change.uid is None and change.gid is None and change.size is None:
                made_with, mode = mode, None
            emptied = self.parts().copy_up.file(node, contents, mode=made_with, finishes=False)
            if change.size is not None and not emptied:
                kill_privileges(self, node, kill_suidgid=change.kill_suidgid)
                self._truncate(node, change.size, handle_number, changes=resized)
        if change.uid is not None or change.gid is not None:
            self._chown(node, change.uid, change.gid)
        if mode is not None:
            fd = None
            if isinstance(node, FileInode) and node.handles and not node.metacopy:
                fd = node.handles[0].fd
            self.parts().permissions.chmod(node.ref, mode, fd)
        if change.atime_ns is not None or change.mtime_ns is not None:
            _set_times(node, change.atime_ns, change.mtime_ns)
        node.touch()
        if isinstance(node, FileInode):
            node.privileged = None
            if node.xattrs:  # none of this gives a file its first one
                node.xattrs = None
        return node

    def _chown(self, node: Inode, uid: int | None, gid: int | None) -> None:
        parts = self.parts()
        uid, gid = self._ownership.on_disk(uid, gid)
        if isinstance(node, FileInode) and not parts.permissions.holds_any_owner(node.ref, node.kind):
            info = self._info(node)
            wanted = (info.st_uid if uid is None else uid, info.st_gid if gid is None else gid)
            if not parts.permissions.holds_owner(node.ref, node.kind, *wanted):
                parts.copy_up.remake(node, wanted)
                return
        parts.permissions.chown(node.ref, -1 if uid is None else uid, -1 if gid is None else gid)

    def _truncate(self, node: FileInode, size: int, handle_number: int | None, *, changes: bool) -> None:
        if handle_number is not None:
            handle = self.handles.file(handle_number)
            if handle.flags & os.O_ACCMODE != os.O_RDONLY:
                self._resize(handle.fd, size)
                return
        fd = node.ref.open(os.O_WRONLY | os.O_NONBLOCK)
        try:
            if changes:
                self._resize(fd, size)  # sets the modification time, also of a copy that was made empty
            else:
                os.truncate(b"/proc/self/fd/%d" % fd, size)  # leaves it alone
        finally:
            os.close(fd)

    def _resize(self, fd: int, size: int) -> None:
        with counted(self.quota, lambda: os.fstat(fd)):
            os.ftruncate(fd, size)

    # -- files -------------------------------------------------------------------------------------

    def _mode_when_emptied(self, node: FileInode, kill_suidgid: bool) -> int | None:
        """Return the mode of a copy of *node* that is made empty; None for the original's without set-id bits."""
        if kill_suidgid or node.layer.writable:
            return None
        return self._ownership.for_copy(self._info(node), node.layer)[2]

    def open(self, ino: int, flags: int, *, kill_suidgid: bool = True) -> int:
        """Open a file; returns the number of the handle. Opening for writing, or with O_TRUNC, copies up.

        *kill_suidgid*: O_TRUNC clears set-id bits, as the caller has no CAP_FSETID.
        """
        node = self._regular_file(ino)
        writing = flags & os.O_ACCMODE != os.O_RDONLY or flags & os.O_TRUNC
        passed = flags & ~_NOT_PASSED
        emptied = False
        kept: list[int] = []
        if writing:
            mode = None
            if flags & os.O_TRUNC and node.layer.writable:
                kill_privileges(self, node, kill_suidgid=kill_suidgid)
            elif flags & os.O_TRUNC:
                mode = self._mode_when_emptied(node, kill_suidgid)
            contents = Contents.NONE if flags & os.O_TRUNC else Contents.COPY
            try:
                keep = kept if passed == os.O_RDWR else None
                emptied = self.parts().copy_up.file(node, contents, keep, mode, finishes=False)
            except OSError:
                for fd in kept:
                    os.close(fd)
                raise
            if emptied:
                node.privileged = node.xattrs = None  # it has been made without capabilities
        if kept:
            fd = kept[0]
        elif node.foreign and not node.layer.writable:
            fd = os.memfd_create("unionfs-foreign")
        else:
            # What is written never goes to a layer below, whatever a copy says of its contents.
            source = node.ref if writing else node.contents
            truncates = bool(flags & os.O_TRUNC) and not emptied
            blocks = source.stat().st_blocks if truncates and self.quota is not None else 0
            fd = source.open(passed | (os.O_TRUNC if truncates else 0))
            if blocks and self.quota is not None:
                self.quota.changed(blocks, os.fstat(fd).st_blocks)
        if flags & os.O_TRUNC:
            node.touch()
        return self.handles.add_file(FileHandle(node, fd, passed))

    def open_late(self, ino: int, flags: int) -> int:
        """Open a file as :meth:`open` does, for somebody who may have opened it before its mode forbade that: a
        server that may not pass by modes lends itself the owner's for a moment.
        """
        try:
            return self.open(ino, flags)
        except PermissionError:
            node = self.inode_table.file(ino)
            if not node.layer.writable:
                raise
            path, mode = node.ref.proc_path(), stat.S_IMODE(node.ref.stat().st_mode)
            os.chmod(path, mode | stat.S_IRUSR | stat.S_IWUSR)
            try:
                return self.open(ino, flags)
            finally:
                os.chmod(path, mode)
                node.touch()

    def _regular_file(self, ino: int) -> FileInode:
        # The kernel deals with FIFOs, sockets and devices itself. To open one here could wait for another process, or
        # do what the device does when it is opened.
        node = self.inode_table.file(ino)
        if not stat.S_ISREG(node.kind):
            raise OSError(errno.EINVAL, "not a regular file")
        return node

    def create(
        self, parent: int, name: bytes, mode: int, flags: int, owner: tuple[int, int]
    ) -> tuple[int, FileInode]:
        """Make a file and open it; returns the number of the handle and the node."""
        passed = flags & ~_NOT_PASSED
        directory = self.inode_table.directory(parent)
        node, fd = self.names.create(directory, name, mode, passed, owner)
        number = self.handles.add_file(FileHandle(node, fd, passed))
        if self._bare is None:
            self._bare = not self._listed_xattrs(node) and not node.layer.policy.override_stat
        if self._bare and not self.has_default_acl(directory):
            node.xattrs = NO_XATTRS
            node.privileged = bool(mode & (stat.S_ISUID | stat.S_ISGID))
        return number, node

    def create_unnamed(
        self, parent: DirectoryInode, mode: int, flags: int, owner: tuple[int, int]
    ) -> tuple[int, FileInode]:
        """Make a file without a name (O_TMPFILE) and open it; returns the number of the handle and the node."""
        return create_unnamed(self, parent, mode, flags & ~(_NOT_PASSED | os.O_TMPFILE), owner)

    def read(self, number: int, offset: int, size: int) -> bytes:
        """Read up to *size* bytes at *offset*."""
        return os.pread(self.readable(number).fd, size, offset)

    def readable(self, number: int) -> FileHandle:
        """Return the handle of that number, which is about to be read."""
        handle = self.handles.file(number)
        if handle.node.layer.writable:
            handle.node.touch()  # the access time; that of an immutable layer is not shown to change
        return handle

    def write(self, number: int, offset: int, data: bytes | memoryview, *, kill_suidgid: bool = True) -> int:
        """Write *data* at *offset*; returns how much of it was written, all unless space ran out in between.

        *kill_suidgid*: this clears set-id bits, as the caller has no CAP_FSETID.
        """
        handle = self.handles.file(number)
        node = handle.node
        if node.privileged is not False:
            kill_privileges(self, node, kill_suidgid=kill_suidgid)
        node.touch()
        quota = self.quota
        if quota is not None:
            data = data[: quota.writable(handle.fd, offset, len(data))]
            with counted(quota, lambda: os.fstat(handle.fd)):
                return self._write_all(handle.fd, offset, data)
        return self._write_all(handle.fd, offset, data)

    @staticmethod
    def _write_all(fd: int, offset: int, data: bytes | memoryview) -> int:
        done = os.pwrite(fd, data, offset)
        if done < len(data):
            view = memoryview(data)
            while done < len(data):
                try:
                    more = os.pwrite(fd, view[done:], offset + done)
                except OSError:
                    break
                if more == 0:
                    break
                done += more
        return done

    def fsync(self, number: int, *, data_only: bool) -> None:
        """Bring the contents, and unless *data_only* the attributes, to disk. A volatile mount promises
        nothing and does nothing.
        """
        handle = self.handles.file(number)
        if not self._volatile:
            (os.fdatasync if data_only else os.fsync)(handle.fd)

    @property
    def volatile(self) -> bool:
        """Whether nothing is ever synced."""
        return self._volatile

    def copy_ahead(self) -> BackgroundCopies | None:
        """Have large files copied before the copy-up that needs them, by whoever calls this; None if nothing is copied."""
        if self.writable is None:
            return None
        background = self.writable.copy_up.background = BackgroundCopies(
            self.writable.upper, durable=not self._volatile, quota=self.quota
        )
        return background

    def readlink(self, ino: int) -> bytes:
        """Return the target of a symbolic link."""
        return self.inode_table.file(ino).ref.readlink()

    # -- directories -------------------------------------------------------------------------------

    def opendir(self, ino: int) -> int:
        """Open a directory stream and return the number of its handle.

        Raises:
            OSError: EACCES where a layer's directory may not be read.
        """
        node = self.inode_table.directory(ino)
        if not node.removed:
            for part in node.parts:
                part.names()
        return self.handles.add_directory(node)

    def entries(self, number: int, start: int) -> Iterator[tuple[bytes, Inode, int]]:
        """Return the entries of the stream *number* as :meth:`entries_of` does; EBADF where no such stream is open."""
        return self._entries_from(self.handles.directory(number), start)

    def entries_of(self, ino: int, start: int) -> Iterator[tuple[bytes, Inode, int]]:
        """Yield name, node and next offset of the entries of the directory *ino* from *start* on, ``.`` and ``..`` first.

        A read from offset 0 lists the directory anew if it has changed. An entry that has gone since is left out. All
        streams of a directory share one list, which belongs to the node: a stream costs no memory by entry. Offsets stay
        valid for as long as the kernel knows the directory (positions.py), which it does while a stream is open.

        Raises:
            OSError: EACCES where a layer's directory may not be read.
        """
        return self._entries_from(self.inode_table.directory(ino), start)

    def _entries_from(self, node: DirectoryInode, start: int) -> Iterator[tuple[bytes, Inode, int]]:
        positions = node.positions
        if positions is None:
            positions = node.positions = DirectoryOffsets()
            node.listed = None
        if start <= 0 and (node.info is None or node.info is not node.listed):
            positions.update(() if node.removed else self.inode_table.listing(node))
            node.listed = self._info(node)
        return self._entries(node, start, positions.since(max(0, start - 2)))

    def _entries(
        self, node: DirectoryInode, start: int, numbered: Iterable[tuple[bytes, int]]
    ) -> Iterator[tuple[bytes, Inode, int]]:
        if start <= 0:
            yield b".", node, 1
        if start <= 1:
            yield b"..", node.parent or node, 2
        for name, number in numbered:
            self.trim()  # nothing is in use between two, and a reply may hold many
            try:
                child = self.inode_table.lookup(node, name)
            except FileNotFoundError:
                continue
            yield name, child, number + 3

    def fsyncdir(self, number: int) -> None:
        """Bring a directory of the upper layer to disk."""
        self.sync_directory(self.handles.directory(number))

    def sync_directory(self, node: DirectoryInode) -> None:
        """Bring what the upper layer has of *node* to disk."""
        fd = self.directory_to_sync(node)
        if fd is not None:
            try:
                os.fsync(fd)
            finally:
                os.close(fd)

    def directory_to_sync(self, node: DirectoryInode) -> int | None:
        """Return a new descriptor of what is to be synced for *node*; None where that is nothing."""
        upper = node.upper
        if upper is None or self._volatile:
            return None
        return os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=upper.fd())

    def statfs(self) -> FileSystemFigures:
        """Return the figures of the file system below the top layer, within the bounds of the layer's own."""
        info = os.fstatvfs(self.inode_table.root.parts[0].fd())
        found = FileSystemFigures(
            f_bsize=info.f_bsize,
            f_frsize=info.f_frsize,
            f_blocks=info.f_blocks,
            f_bfree=info.f_bfree,
            f_bavail=info.f_bavail,
            f_files=info.f_files,
            f_ffree=info.f_ffree,
            f_favail=info.f_favail,
            f_namemax=info.f_namemax,
        )
        return found if self.quota is None else self.quota.within(found)

    def tell_when_full(self, tell: Callable[[str], None]) -> None:
        """Have *tell* called once for each bound of the writable layer that is reached: "size" or "inodes"."""
        if self.quota is not None:
            self.quota.on_full = tell

    def report_closed_directories(self, report: Callable[[bytes], None], *, host_root: Identity) -> None:
        """Call *report* with the path of each directory of a layer that a request needs and the server may not search, once.

        *host_root* is the root of this machine. Its directories as a layer are closed to the user as they are outside.
        """
        for part in self.inode_table.root.parts:
            info = os.fstat(part.fd())
            if (info.st_dev, info.st_ino) != host_root:
                part.layer.closed.report = report

    # -- extended attributes -----------------------------------------------------------------------

    def _has_no_contents(self, node: Inode) -> bool:
        return node.foreign or (isinstance(node, DirectoryInode) and node.parts[0].foreign)

    def _xattr_names(self, node: Inode) -> frozenset[str]:
        names = node.xattrs
        if names is None:
            if self._has_no_contents(node):
                return frozenset()
            found = [] if node.ref.bare else self._listed_xattrs(node)
            override = node.layer.policy.override_stat
            shown = (shown_name(name, override=override) for name in found)
            names = frozenset(filter(None, shown)) if found else NO_XATTRS
            node.xattrs = names = names if self.acls else names - _ACLS
        return names

    @staticmethod
    def _listed_xattrs(node: Inode) -> list[str]:
        path, follow = node.ref.proc_path(), follows(node.ref)
        try:
            return os.listxattr(path, follow_symlinks=follow)
        except OSError as error:
            if error.errno not in NO_XATTR:
                raise
            return []

    def has_default_acl(self, node: DirectoryInode) -> bool:
        """Tell whether what is made in *node* gets its permissions from a list rather than from the umask."""
        return self.acls and acl.DEFAULT in self._xattr_names(node)

    def listxattr(self, ino: int) -> list[str]:
        """Return the names of the extended attributes, without those of union file systems."""
        return sorted(self._xattr_names(self.inode_table.node(ino)))

    def getxattr(self, ino: int, name: str) -> bytes:
        """Return an extended attribute; ENODATA where there is none, asked from memory."""
        self._refuse_acl(name)
        node = self.inode_table.node(ino)
        if name not in self._xattr_names(node):
            raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))
        path, follow = node.ref.proc_path(), follows(node.ref)
        value = os.getxattr(path, _stored_name(node, name), follow_symlinks=follow)
        return acl.mapped(value) if name in _ACLS else value

    def setxattr(self, ino: int, name: str, value: bytes, flags: int = 0) -> None:
        """Set an extended attribute; those of union file systems are kept apart from our own (xattrs.py).

        *flags*: XATTR_CREATE or XATTR_REPLACE of setxattr(2).
        """
        self._refuse_acl(name)
        if flags:
            there = name in self._xattr_names(self.inode_table.node(ino))
            if flags & os.XATTR_CREATE and there:
                raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))
            if flags & os.XATTR_REPLACE and not there:
                raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))
        node = self._for_xattr_change(ino)
        path, follow = node.ref.proc_path(), follows(node.ref)
        if self.quota is not None:
            self.quota.require(1)
        with counted(self.quota, node.ref.stat):
            os.setxattr(path, _stored_name(node, name), value, follow_symlinks=follow)
        self._changed_xattrs(node)

    def _refuse_acl(self, name: str) -> None:
        if name in _ACLS and not self.acls:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP), name)

    def removexattr(self, ino: int, name: str) -> None:
        """Remove an extended attribute; ENODATA where there is none, before anything is copied up."""
        if name not in self._xattr_names(self.inode_table.node(ino)):
            raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))
        node = self._for_xattr_change(ino)
        path, follow = node.ref.proc_path(), follows(node.ref)
        os.removexattr(path, _stored_name(node, name), follow_symlinks=follow)
        self._changed_xattrs(node)

    def _for_xattr_change(self, ino: int) -> Inode:
        node = self.inode_table.node(ino)
        copy_up = self.parts().copy_up
        if isinstance(node, DirectoryInode):
            copy_up.directory(node)
        else:
            copy_up.file(node, Contents.LATER)
        return node

    @staticmethod
    def _changed_xattrs(node: Inode) -> None:
        node.xattrs = None
        node.touch()
        if isinstance(node, FileInode):
            node.privileged = None


def _set_times(node: Inode, atime_ns: int | None, mtime_ns: int | None) -> None:
    ref = node.ref
    if atime_ns is None or mtime_ns is None:
        now = os.stat(ref.proc_path(), follow_symlinks=follows(ref))
        atime_ns = now.st_atime_ns if atime_ns is None else atime_ns
        mtime_ns = now.st_mtime_ns if mtime_ns is None else mtime_ns
    if isinstance(ref, PathRef):
        os.utime(ref.name, ns=(atime_ns, mtime_ns), dir_fd=ref.directory.fd(), follow_symlinks=False)
    else:
        os.utime(ref.proc_path(), ns=(atime_ns, mtime_ns))


def _stored_name(node: Inode, name: str) -> str:
    return stored_name(name, override=node.layer.policy.override_stat)


@dataclass(frozen=True, slots=True, kw_only=True)
class WritableParts:
    """What a writable mount has and a read-only one has not."""

    upper: Upper
    index: LinkIndex
    copy_up: CopyUp
    names: Names
    permissions: Permissions
    quota: Quota | None = None
