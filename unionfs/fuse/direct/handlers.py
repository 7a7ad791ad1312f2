"""Handlers of FUSE requests in binary form: decode a request, call :class:`UnionFs`, encode the reply.

No request may end the mount: an OSError is replied as its errno, any other exception as EIO and logged. ENOSYS would switch
an operation off for the life of the mount (fs/fuse), so only unsupported operations reply it.

``unionfs/fuse/libfuse/handlers.py`` does the same over pyfuse3.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable

from unionfs._stdlib.logging import LazyLogger
from unionfs.copyup.background_copy import CopyPending, FetchPendingError
from unionfs.fuse.direct.descriptor_by_inode import DescriptorsByInode
from unionfs.fuse.direct.file_handlers import FileHandlers
from unionfs.fuse.direct.replies import BODY, NS, U64, Reply, errno_of, position
from unionfs.fuse.notify import KernelNotifier
from unionfs.fuse.protocol import (
    BATCH_FORGET_IN,
    DIRENT,
    ENTRY_OUT,
    FATTR_ATIME,
    FATTR_ATIME_NOW,
    FATTR_FH,
    FATTR_GID,
    FATTR_KILL_SUIDGID,
    FATTR_MODE,
    FATTR_MTIME,
    FATTR_MTIME_NOW,
    FATTR_SIZE,
    FATTR_UID,
    FORGET_IN,
    FORGET_ONE,
    FSYNC_IN,
    GETXATTR_IN,
    GETXATTR_OUT,
    IN_HEADER,
    LINK_IN,
    MKDIR_IN,
    MKNOD_IN,
    MODE,
    MODE_IN_ENTRY,
    NOT_SERVED,
    OPEN_OUT,
    READ_IN,
    RELEASE_IN,
    RENAME2_IN,
    RENAME_IN,
    SETATTR_IN,
    SETXATTR_ACL_KILL_SGID,
    SETXATTR_IN,
    SETXATTR_IN_EXT,
    STATFS_OUT,
    STATX,
    STATX_BASIC_STATS,
    STATX_BTIME,
    STATX_OUT_HEAD,
    Init,
    Opcode,
    counted,
    dirent_size,
    negotiate,
)
from unionfs.fuse.umask import ACCESS_ACL, drop_foreign_sgid, drop_sgid
from unionfs.inode.birth_times import birth_time_ns
from unionfs.inode.inode import Inode
from unionfs.options import Optimization
from unionfs.vfs.attributes import Change
from unionfs.vfs.filesystem import UnionFs

log = LazyLogger(__name__)

#: The INIT flag of each optimization that depends on one.
_NEGOTIATED = {
    Optimization.SYMLINKS: Init.CACHE_SYMLINKS,
    Optimization.KILLPRIV: Init.HANDLE_KILLPRIV_V2,
    Optimization.READDIRPLUS: Init.DO_READDIRPLUS,
}
#: The attributes in a READDIRPLUS entry that has none: only the name is reported.
_NO_ATTRIBUTES = bytes(ENTRY_OUT.size)
#: The changes in a SETATTR mask; its other bits describe the caller.
_CHANGES = (
    FATTR_MODE | FATTR_UID | FATTR_GID | FATTR_SIZE
    | FATTR_ATIME | FATTR_MTIME | FATTR_ATIME_NOW | FATTR_MTIME_NOW
)  # fmt: skip
#: From this minor version of FUSE on, a SETATTR that changes nothing also precedes FALLOCATE (Linux 6.1).
_FALLOCATE_ANNOUNCED = 37
_SET_ID = stat.S_ISUID | stat.S_ISGID
_DT_SHIFT = 12  # the DT_ type of readdir(3) is the S_IFMT of stat(2), shifted (IFTODT)


class Handlers(FileHandlers):
    """Handles the requests of one mount. Only these methods increase lookup counts, when a reply names an inode.

    The loop creates it. It owns the descriptors by inode, and uses the UnionFs and the buffer of the loop.
    """

    def __init__(
        self,
        fs: UnionFs,
        view: memoryview,
        *,
        connection: int | None = None,
        callers_visible: bool = True,
        unopened: bool = False,
        disabled: frozenset[Optimization] = frozenset(),
    ) -> None:
        """Serve *fs*.

        Args:
            fs: the file system.
            view: the buffer; each request is at its beginning.
            connection: the /dev/fuse of the mount, for notifications; None if there is none.
            callers_visible: process ids in requests belong to this process's own pid namespace.
            unopened: do without OPEN and OPENDIR if the kernel supports that.
            disabled: optimizations to leave out.
        """
        super().__init__(fs, view, disabled)
        self._wants_unopened = unopened
        self._disabled_flags = Init(0)
        for optimization, flags in _NEGOTIATED.items():
            if optimization in disabled:
                self._disabled_flags |= flags
        #: Reply that there is no such name, which the kernel caches: an entry with inode number 0 (struct fuse_entry_out).
        self._no_entry: Reply = ENTRY_OUT.pack(0, 0, self._validity, *(0,) * 19)
        if Optimization.NEGATIVE in disabled:
            self._no_entry = -errno.ENOENT
        self._extended_setxattr = False
        self._notifier = KernelNotifier(fs.inode_table, connection)
        self._callers_visible = callers_visible
        #: Number of requests by opcode.
        self._counts = [0] * 64
        names = {opcode: getattr(self, f"_{opcode.name.lower()}", None) for opcode in Opcode}
        self._handlers: dict[int, Callable[[int, int], Reply]] = {
            int(opcode): handler for opcode, handler in names.items() if handler is not None
        }

    @property
    def requests(self) -> dict[str, int]:
        """Number of requests by kind."""
        return {opcode.name.lower(): self._counts[opcode] for opcode in Opcode if self._counts[opcode]}

    def answer(self, opcode: int, ino: int, end: int) -> Reply:
        """Return the reply to the request *opcode* about the inode number *ino*, which ends at *end* in the buffer.

        The caller calls :meth:`answered` after it has sent the reply.
        """
        handler = self._handlers.get(opcode)
        if handler is None:
            return None if opcode == Opcode.NOTIFY_REPLY else NOT_SERVED
        self._counts[opcode] += 1
        try:
            return handler(ino, end)
        except OSError as error:
            return errno_of(error)
        except (CopyPending, FetchPendingError) as pending:
            return self._park(opcode, pending, end)
        except Exception:
            log.exception("request %s failed", Opcode(opcode).name.lower())
            return -errno.EIO

    def answered(self) -> None:
        """Do the work that can be deferred until a reply has been sent."""
        self.fs.trim()
        self._notifier.check()

    def _park(self, opcode: int, pending: CopyPending | FetchPendingError, end: int) -> Reply:
        assert self.async_io is not None
        self._counts[opcode] -= 1
        try:
            request = bytes(self._view[:end])
            if isinstance(pending, CopyPending):
                self.async_io.park(pending, request)
            else:
                self.async_io.park_fetch(pending.fetch, request, self._unique())
        except OSError as error:
            return errno_of(error)
        except Exception:
            log.exception("request %s failed", Opcode(opcode).name.lower())
            return -errno.EIO
        return None

    def take_back(self, opcode: int, reply: Reply) -> None:
        """Undo the lookups and the open handle that *reply* to *opcode* contains; called if the kernel did not accept the
        reply.
        """
        if not isinstance(reply, bytes):
            return
        for ino in counted(opcode, reply):
            self._forgotten(ino, 1)
        if self._files is None and opcode in (Opcode.OPEN, Opcode.CREATE, Opcode.TMPFILE):
            self.fs.handles.close_file(OPEN_OUT.unpack_from(reply, len(reply) - OPEN_OUT.size)[0])
        elif self._files is None and opcode == Opcode.OPENDIR:
            self.fs.handles.close_directory(OPEN_OUT.unpack(reply)[0])
        self.fs.trim()

    # -- the connection ----------------------------------------------------------------------------

    def _init(self, ino: int, end: int) -> Reply:
        init_reply = negotiate(
            self._view[BODY:end],
            acls=self.fs.acls,
            unopened=self._wants_unopened,
            left_out=self._disabled_flags,
        )
        if init_reply.flags is not None:
            self._masks = bool(init_reply.flags & Init.DONT_MASK)
            self._reports_fsetid = bool(init_reply.flags & Init.HANDLE_KILLPRIV_V2)
            self._fallocate_kills = not self._reports_fsetid or init_reply.minor < _FALLOCATE_ANNOUNCED
            self._extended_setxattr = bool(init_reply.flags & Init.SETXATTR_EXT)
            self._files = DescriptorsByInode(self.fs) if init_reply.unopened else None
        return init_reply.data

    def _destroy(self, ino: int, end: int) -> Reply:
        return b""

    def _interrupt(self, ino: int, end: int) -> Reply:
        # The interrupted request has been answered already: no request waits for another.
        return NOT_SERVED

    # -- names -------------------------------------------------------------------------------------

    def _lookup(self, ino: int, end: int) -> Reply:
        inode_table = self._inode_table
        try:
            found = inode_table.lookup(inode_table.directory(ino), bytes(self._view[BODY : end - 1]))
        except FileNotFoundError:
            return self._no_entry
        return self._known(found)

    def _forget(self, ino: int, end: int) -> Reply:
        (count,) = FORGET_IN.unpack_from(self._view, BODY)
        self._forgotten(ino, count)
        return None

    def _batch_forget(self, ino: int, end: int) -> Reply:
        number, _ = BATCH_FORGET_IN.unpack_from(self._view, BODY)
        start = BODY + BATCH_FORGET_IN.size
        for forgotten, count in FORGET_ONE.iter_unpack(self._view[start : start + number * FORGET_ONE.size]):
            self._forgotten(forgotten, count)
        return None

    def _forgotten(self, ino: int, count: int) -> None:
        if self._inode_table.forget(ino, count):
            self._announced.pop(ino, None)
            if self._files is not None:
                self._files.close(ino)

    def _mknod(self, ino: int, end: int) -> Reply:
        mode, rdev, umask, _ = MKNOD_IN.unpack_from(self._view, BODY)
        directory = self._inode_table.directory(ino)
        mode = self._masked(directory, mode, umask)
        name = self._name(BODY + MKNOD_IN.size, end)
        if self._files is not None and stat.S_ISREG(mode):
            # Usually from open(2) with O_CREAT: keep the descriptor for the writes that follow.
            return self._known(self._files.make(ino, name, mode, self._owner()))
        return self._known(self.fs.names.mknod(directory, name, mode, rdev, self._owner()))

    def _mkdir(self, ino: int, end: int) -> Reply:
        mode, umask = MKDIR_IN.unpack_from(self._view, BODY)
        directory = self._inode_table.directory(ino)
        mode = self._masked(directory, mode, umask)
        name = self._name(BODY + MKDIR_IN.size, end)
        return self._known(self.fs.names.mkdir(directory, name, mode, self._owner()))

    def _symlink(self, ino: int, end: int) -> Reply:
        name, target = self._names(BODY, end)
        directory = self._inode_table.directory(ino)
        return self._known(self.fs.names.symlink(directory, name, target, self._owner()))

    def _link(self, ino: int, end: int) -> Reply:
        (old,) = LINK_IN.unpack_from(self._view, BODY)
        directory = self._inode_table.directory(ino)
        name = self._name(BODY + LINK_IN.size, end)
        return self._known(self.fs.names.link(self._inode_table.file(old), directory, name))

    def _unlink(self, ino: int, end: int) -> Reply:
        self.fs.names.unlink(self._inode_table.directory(ino), self._name(BODY, end))
        return b""

    def _rmdir(self, ino: int, end: int) -> Reply:
        self.fs.names.rmdir(self._inode_table.directory(ino), self._name(BODY, end))
        return b""

    def _rename(self, ino: int, end: int) -> Reply:
        (new,) = RENAME_IN.unpack_from(self._view, BODY)
        return self._renamed(ino, new, self._names(BODY + RENAME_IN.size, end), 0)

    def _rename2(self, ino: int, end: int) -> Reply:
        new, flags, _ = RENAME2_IN.unpack_from(self._view, BODY)
        return self._renamed(ino, new, self._names(BODY + RENAME2_IN.size, end), flags)

    def _renamed(self, old: int, new: int, names: tuple[bytes, bytes], flags: int) -> Reply:
        source, target = self._inode_table.directory(old), self._inode_table.directory(new)
        self.fs.names.rename(source, names[0], target, names[1], flags)
        return b""

    # -- attributes --------------------------------------------------------------------------------

    def _getattr(self, ino: int, end: int) -> Reply:
        return self._attributes(self._inode_table.inode(ino))

    def _statx(self, ino: int, end: int) -> Reply:
        found = self._inode_table.inode(ino)
        (
            _, _, _, _, _, _, shown_ino, size, blocks, atime, mtime, ctime, atime_ns, mtime_ns, ctime_ns,
            mode, nlink, uid, gid, rdev, blksize, _,
        ) = ENTRY_OUT.unpack(self._entry(found))  # fmt: skip
        born = birth_time_ns(self.fs.inode_table, found)
        mask = STATX_BASIC_STATS | (0 if born is None else STATX_BTIME)
        born = born or 0
        return STATX_OUT_HEAD.pack(self._validity, 0, 0) + STATX.pack(
            mask, blksize, 0, nlink, uid, gid, mode, shown_ino, size, blocks, 0,
            atime, atime_ns, born // NS & U64, born % NS, ctime, ctime_ns, mtime, mtime_ns,
            os.major(rdev), os.minor(rdev),
        )  # fmt: skip

    def _setattr(self, ino: int, end: int) -> Reply:
        (
            valid, _, fh, size, _, atime, mtime, _, atime_ns, mtime_ns, _, mode, _, uid, gid, _,
        ) = SETATTR_IN.unpack_from(self._view, BODY)  # fmt: skip
        # From the kernel's coarse clock, which dates writes: a time of the precise clock would be later than that of the
        # next write.
        now = time.clock_gettime_ns(_COARSE) if valid & (FATTR_ATIME_NOW | FATTR_MTIME_NOW) else 0
        atime, mtime = atime * NS + atime_ns, mtime * NS + mtime_ns
        files = self._files
        if not valid & _CHANGES:
            return self._attributes(self._without_set_id_bits(ino))
        change = Change(
            mode if valid & FATTR_MODE else None,
            uid if valid & FATTR_UID else None,
            gid if valid & FATTR_GID else None,
            position(size) if valid & FATTR_SIZE else None,
            None if not valid & FATTR_ATIME else now if valid & FATTR_ATIME_NOW else atime,
            None if not valid & FATTR_MTIME else now if valid & FATTR_MTIME_NOW else mtime,
            # Without OPEN, the server cannot distinguish open(2) with O_TRUNC from truncate(2) to 0 bytes.
            opening=files is not None and not size and not valid & FATTR_FH,
            kill_suidgid=self._kills(valid & FATTR_KILL_SUIDGID),
        )
        handle: int | None = fh if valid & FATTR_FH else None
        if files is not None:
            handle = None
            if valid & FATTR_FH and valid & FATTR_SIZE and self._inode_table.file(ino).layer.writable:
                handle = files.writing(ino)
        return self._attributes(self.fs.attributes.change(ino, change, handle))

    def _without_set_id_bits(self, ino: int) -> Inode:
        """Handle a SETATTR that changes nothing, which the kernel sends in two cases (file_remove_privs, fs/inode.c).

        First, a caller without CAP_FSETID is about to change contents. Second, chown(2) changes neither owner nor group,
        which any user may call. Only for the owner and root may this request clear the bits. For other callers WRITE,
        COPY_FILE_RANGE or FALLOCATE clears them. FALLOCATE does not report CAP_FSETID, so the thread of the caller is
        recorded.
        """
        inode = self._inode_table.inode(ino)
        shown = self.fs.attributes.of(inode)
        if stat.S_ISREG(shown.mode) and shown.mode & _SET_ID:
            uid, _ = self._owner()
            if uid in (0, shown.uid):
                self.fs.attributes.change(ino, Change(mode=stat.S_IMODE(shown.mode) & ~_SET_ID), None)
            else:
                self._announced[ino] = self._pid()
        return inode

    def _readlink(self, ino: int, end: int) -> Reply:
        return self.fs.files.readlink(ino)

    def _statfs(self, ino: int, end: int) -> Reply:
        info = self.fs.statfs()
        return STATFS_OUT.pack(
            info.f_blocks, info.f_bfree, info.f_bavail, info.f_files, info.f_ffree,
            info.f_bsize, info.f_namemax, info.f_frsize,
        )  # fmt: skip

    def _setxattr(self, ino: int, end: int) -> Reply:
        extended = self._extended_setxattr
        if extended:
            size, flags, acl_flags, _ = SETXATTR_IN_EXT.unpack_from(self._view, BODY)
        else:
            (size, flags), acl_flags = SETXATTR_IN.unpack_from(self._view, BODY), 0
        start = BODY + (SETXATTR_IN_EXT if extended else SETXATTR_IN).size
        name = self._name(start, end - size)
        self.fs.xattrs.set(ino, os.fsdecode(name), bytes(self._view[end - size : end]), flags)
        if acl_flags & SETXATTR_ACL_KILL_SGID:
            drop_sgid(self.fs, ino)
        elif not extended and name == ACCESS_ACL:
            _, _, _, _, uid, gid, pid, _, _ = IN_HEADER.unpack_from(self._view)
            if uid:
                drop_foreign_sgid(self.fs, ino, gid, pid if self._callers_visible else None)
        return b""

    def _getxattr(self, ino: int, end: int) -> Reply:
        name = self._name(BODY + GETXATTR_IN.size, end)
        return self._sized(self.fs.xattrs.get(ino, os.fsdecode(name)))

    def _listxattr(self, ino: int, end: int) -> Reply:
        return self._sized(b"".join(os.fsencode(name) + b"\0" for name in self.fs.xattrs.list(ino)))

    def _sized(self, value: bytes) -> Reply:
        """Reply with *value*, with its size if the request asks for that, or with ERANGE if *value* exceeds the request's
        buffer.
        """
        size, _ = GETXATTR_IN.unpack_from(self._view, BODY)
        if not size:
            return GETXATTR_OUT.pack(len(value), 0)
        return value if len(value) <= size else -errno.ERANGE

    def _removexattr(self, ino: int, end: int) -> Reply:
        self.fs.xattrs.remove(ino, os.fsdecode(self._name(BODY, end)))
        return b""

    # -- directories -------------------------------------------------------------------------------

    def _opendir(self, ino: int, end: int) -> Reply:
        if self._files is not None:
            return NOT_SERVED
        return OPEN_OUT.pack(self.fs.directories.open(ino), 0, 0)

    def _readdir(self, ino: int, end: int) -> Reply:
        return self._listed(ino, plus=False)

    def _readdirplus(self, ino: int, end: int) -> Reply:
        """Also increases the lookup count of each inode in the reply, except those of ``.`` and ``..``."""
        return self._listed(ino, plus=True)

    def _listed(self, ino: int, *, plus: bool) -> bytes:
        fh, start, size, _, _, _, _ = READ_IN.unpack_from(self._view, BODY)
        entries = (
            self.fs.directories.entries(fh, start)
            if self._files is None
            else self.fs.directories.entries_of(ino, start)
        )
        parts: list[bytes] = []
        room = size
        while True:
            try:
                found = next(entries, None)
                if found is None:
                    break
                name, inode, after = found
                entry: bytes = inode.reply or self._entry(inode)  # type: ignore[assignment]
            except FileNotFoundError:  # another process changed the layer; leave the entry out
                continue
            except OSError:
                # Lookups of these entries have been counted, so they have to be sent. The next request starts at this entry
                # and gets the error.
                if parts:
                    break
                raise
            room -= dirent_size(name) + (ENTRY_OUT.size if plus else 0)
            if room < 0:
                self._inode_table.drop_if_unused(inode)
                break
            if plus and after > 2:
                parts.append(entry)
                inode.lookups += 1
            elif plus:
                parts.append(_NO_ATTRIBUTES)
            (mode,) = MODE.unpack_from(entry, MODE_IN_ENTRY)
            length = len(name)
            parts.append(DIRENT.pack(inode.ino, after, length, mode >> _DT_SHIFT))
            parts.append(name + bytes(-length % 8))
        return b"".join(parts)

    def _releasedir(self, ino: int, end: int) -> Reply:
        fh, _, _, _ = RELEASE_IN.unpack_from(self._view, BODY)
        self.fs.handles.close_directory(fh)
        return b""

    def _fsyncdir(self, ino: int, end: int) -> Reply:
        if self.fs.volatile:
            return NOT_SERVED
        fh, _, _ = FSYNC_IN.unpack_from(self._view, BODY)
        directory = self.fs.handles.directory(fh) if self._files is None else self._inode_table.directory(ino)
        if self.async_io is None:
            self.fs.directories.sync(directory)
            return b""
        fds = self.fs.directories.descriptors_to_sync(directory)
        return self.async_io.sync(fds, self._unique(), data_only=False) if fds else b""


#: CLOCK_REALTIME_COARSE (linux/time.h), which the time module does not define.
_COARSE = 5
