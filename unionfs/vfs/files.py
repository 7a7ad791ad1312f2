"""Open, create, read, write and sync files."""

from __future__ import annotations

import errno
import os
import stat

from unionfs.copyup.background_copy import BackgroundCopies
from unionfs.copyup.plan import Contents
from unionfs.inode.handles import FileHandle
from unionfs.inode.inode import DirectoryInode, FileInode
from unionfs.upper.quota import counted
from unionfs.vfs.privileges import kill_privileges
from unionfs.vfs.unnamed_files import create_unnamed
from unionfs.vfs.xattrs import NO_XATTRS, listed_xattrs

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from unionfs.vfs.filesystem import UnionFs

#: Flags of open(2) that are not passed on to the underlying file: the kernel handles them, or each request has an offset.
_NOT_PASSED = os.O_CREAT | os.O_EXCL | os.O_NOCTTY | os.O_APPEND | os.O_DIRECT | os.O_TRUNC | os.O_NOFOLLOW


class Files:
    """Opens, reads and writes files. The facade creates it; open files are in its handle table."""

    def __init__(self, fs: UnionFs) -> None:
        """Serve *fs*."""
        self._fs = fs
        self._inode_table = fs.inode_table
        self._handles = fs.handles
        self._quota = fs.quota
        #: Whether the underlying file system creates files without extended attributes, such as the label of a security
        #: module; None until a file has been created.
        self._new_files_have_no_xattrs: bool | None = None

    def mode_when_emptied(self, inode: FileInode, kill_suidgid: bool) -> int | None:
        """Return the mode of an empty copy of *inode*; None: the mode of the original without set-id bits."""
        if kill_suidgid or inode.layer.writable:
            return None
        return self._fs.ownership.for_copy(self._fs.attributes.info(inode), inode.layer)[2]

    def open(self, ino: int, flags: int, *, kill_suidgid: bool = True) -> int:
        """Open a file, and return the number of the handle. Opening for writing or with O_TRUNC copies the file up.

        *kill_suidgid*: O_TRUNC clears set-id bits, because the caller has no CAP_FSETID.
        """
        inode = self.regular_file(ino)
        writing = flags & os.O_ACCMODE != os.O_RDONLY or flags & os.O_TRUNC
        passed = flags & ~_NOT_PASSED
        emptied = False
        kept: list[int] = []
        if writing:
            mode = None
            if flags & os.O_TRUNC and inode.layer.writable:
                kill_privileges(self._fs, inode, kill_suidgid=kill_suidgid)
            elif flags & os.O_TRUNC:
                mode = self.mode_when_emptied(inode, kill_suidgid)
            contents = Contents.NONE if flags & os.O_TRUNC else Contents.COPY
            try:
                keep = kept if passed == os.O_RDWR else None
                emptied = self._fs.parts().copy_up.file(inode, contents, keep, mode, finishes=False)
            except OSError:
                for fd in kept:
                    os.close(fd)
                raise
            if emptied:
                inode.privileged = inode.xattrs = None  # the copy was created without capabilities
        if kept:
            fd = kept[0]
        elif inode.is_mount_point and not inode.layer.writable:
            fd = os.memfd_create("unionfs-mount-point")
        else:
            # Never open a lower file for writing, even if the contents of a metadata copy are there.
            source = inode.ref if writing else inode.contents
            truncates = bool(flags & os.O_TRUNC) and not emptied
            blocks = source.stat().st_blocks if truncates and self._quota is not None else 0
            archived = source.archived()
            if archived is not None:
                return self._handles.add_file(FileHandle(inode, -1, passed, archived))
            fd = source.open(passed | (os.O_TRUNC if truncates else 0))
            if blocks and self._quota is not None:
                self._quota.changed(blocks, os.fstat(fd).st_blocks)
        if flags & os.O_TRUNC:
            inode.touch()
        return self._handles.add_file(FileHandle(inode, fd, passed))

    def open_late(self, ino: int, flags: int) -> int:
        """Open a file as :meth:`open` does, for a client that may have opened it before a chmod(2) forbade that.

        A server without CAP_DAC_OVERRIDE temporarily grants itself owner read and write.
        """
        try:
            return self.open(ino, flags)
        except PermissionError:
            inode = self._inode_table.file(ino)
            if not inode.layer.writable:
                raise
            path, mode = inode.ref.proc_path(), stat.S_IMODE(inode.ref.stat().st_mode)
            os.chmod(path, mode | stat.S_IRUSR | stat.S_IWUSR)
            try:
                return self.open(ino, flags)
            finally:
                os.chmod(path, mode)
                inode.touch()

    def regular_file(self, ino: int) -> FileInode:
        # The kernel handles FIFOs, sockets and devices itself. Opening one here could block, or have an effect on the
        # device.
        inode = self._inode_table.file(ino)
        if not stat.S_ISREG(inode.kind):
            raise OSError(errno.EINVAL, "not a regular file")
        return inode

    def create(
        self, parent: int, name: bytes, mode: int, flags: int, owner: tuple[int, int]
    ) -> tuple[int, FileInode]:
        """Create a file and open it. Return the number of the handle and the inode."""
        passed = flags & ~_NOT_PASSED
        directory = self._inode_table.directory(parent)
        inode, fd = self._fs.names.create(directory, name, mode, passed, owner)
        number = self._handles.add_file(FileHandle(inode, fd, passed))
        if self._new_files_have_no_xattrs is None:
            self._new_files_have_no_xattrs = not listed_xattrs(inode) and not inode.layer.policy.override_stat
        if self._new_files_have_no_xattrs and not self._fs.xattrs.has_default_acl(directory):
            inode.xattrs = NO_XATTRS
            inode.privileged = bool(mode & (stat.S_ISUID | stat.S_ISGID))
        return number, inode

    def create_unnamed(
        self, parent: DirectoryInode, mode: int, flags: int, owner: tuple[int, int]
    ) -> tuple[int, FileInode]:
        """Create a file without a name (O_TMPFILE) and open it. Return the number of the handle and the inode."""
        return create_unnamed(self._fs, parent, mode, flags & ~(_NOT_PASSED | os.O_TMPFILE), owner)

    def read(self, number: int, offset: int, size: int) -> bytes:
        """Read up to *size* bytes at *offset*."""
        return self.readable(number).read(size, offset)

    def readable(self, number: int) -> FileHandle:
        """Return the handle *number*, from which the caller is about to read."""
        handle = self._handles.file(number)
        if handle.inode.layer.writable:
            handle.inode.touch()  # the read changes the access time; for a lower layer, the change is not shown
        return handle

    def writable_handle(self, number: int) -> FileHandle:
        """Return the handle *number*, whose file the caller is about to change.

        If its layer was frozen after open(2), the file is copied up first, which moves the handle to the copy.
        """
        handle = self._handles.file(number)
        if not handle.inode.layer.writable:
            self._fs.parts().copy_up.file(handle.inode)
        return handle

    def write(self, number: int, offset: int, data: bytes | memoryview, *, kill_suidgid: bool = True) -> int:
        """Write *data* at *offset*, and return the number of bytes written. It is less than all only if space runs out.

        *kill_suidgid*: the write clears set-id bits, because the caller has no CAP_FSETID.
        """
        handle = self._handles.file(number)
        inode = handle.inode
        if not inode.layer.writable:
            self.writable_handle(number)
        if inode.privileged is not False:
            kill_privileges(self._fs, inode, kill_suidgid=kill_suidgid)
        inode.touch()
        quota = self._quota
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

    def resize(self, fd: int, size: int) -> None:
        with counted(self._quota, lambda: os.fstat(fd)):
            os.ftruncate(fd, size)

    def fsync(self, number: int, *, data_only: bool) -> None:
        """Sync the contents and, unless *data_only*, the attributes. A volatile mount does nothing."""
        handle = self._handles.file(number)
        if not self._fs.volatile and handle.contents is None:
            (os.fdatasync if data_only else os.fsync)(handle.fd)

    def copy_in_background(self) -> BackgroundCopies | None:
        """Let a copy-up of a large file raise CopyPending, and return the copies that the caller then has to run.

        None if the mount is read-only.
        """
        if self._fs.writable is None:
            return None
        background = self._fs.writable.copy_up.background = BackgroundCopies(
            self._fs.writable.upper.workdir, durable=not self._fs.volatile, quota=self._quota
        )
        return background

    def readlink(self, ino: int) -> bytes:
        """Return the target of a symbolic link."""
        return self._inode_table.file(ino).ref.readlink()
