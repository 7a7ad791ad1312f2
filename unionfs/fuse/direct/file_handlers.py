"""Handlers of the requests about open files."""

from __future__ import annotations

import os
from collections.abc import Callable

from unionfs.copyup.background_copy import LARGE
from unionfs.fuse.direct.replies import BODY, Replies, Reply, position, signed
from unionfs.fuse.protocol import (
    COPY_FILE_RANGE_IN,
    COPY_FILE_RANGE_OUT,
    CREATE_IN,
    FALLOCATE_IN,
    FSYNC_FDATASYNC,
    FSYNC_IN,
    IOCTL_DIR,
    IOCTL_IN,
    IOCTL_OUT,
    LSEEK_IN,
    LSEEK_OUT,
    NOT_SERVED,
    OPEN_IN,
    OPEN_KILL_SUIDGID,
    OPEN_OUT,
    READ_IN,
    RELEASE_IN,
    WRITE_IN,
    WRITE_KILL_SUIDGID,
    WRITE_OUT,
)
from unionfs.vfs.file_ranges import RangeAllocation, RangeChange, RangeCopy, seek
from unionfs.vfs.inode_flags import inode_flags, require_flags, require_readable


class FileHandlers(Replies):
    """Handlers of file requests. :class:`~unionfs.fuse.direct.handlers.Handlers` finds them by their names."""

    def _open(self, ino: int, end: int) -> Reply:
        if self._files is not None:
            return NOT_SERVED
        flags, open_flags = OPEN_IN.unpack_from(self._view, BODY)
        number = self.fs.files.open(ino, flags, kill_suidgid=self._kills(open_flags & OPEN_KILL_SUIDGID))
        # The kernel's cached contents stay valid (FOPEN_KEEP_CACHE): this server is the only writer.
        return OPEN_OUT.pack(number, self._keeps, 0)

    def _create(self, ino: int, end: int) -> Reply:
        if self._files is not None:
            return NOT_SERVED  # the kernel sends MKNOD instead, and no RELEASE
        flags, mode, umask, _ = CREATE_IN.unpack_from(self._view, BODY)
        mode = self._masked(self._inode_table.directory(ino), mode, umask)
        number, made = self.fs.files.create(
            ino, self._name(BODY + CREATE_IN.size, end), mode, flags, self._owner()
        )
        return self._known(made) + OPEN_OUT.pack(number, self._keeps, 0)

    def _tmpfile(self, ino: int, end: int) -> Reply:
        flags, mode, umask, _ = CREATE_IN.unpack_from(self._view, BODY)
        directory = self._inode_table.directory(ino)
        mode = self._masked(directory, mode, umask)
        if self._files is not None:
            # The kernel sends a RELEASE for this file if it has not sent any OPEN yet. Handle 0: there is nothing to close.
            return self._known(self._files.make_unnamed(directory, mode, self._owner())) + OPEN_OUT.pack(
                0, self._keeps, 0
            )
        number, made = self.fs.files.create_unnamed(directory, mode, flags, self._owner())
        return self._known(made) + OPEN_OUT.pack(number, self._keeps, 0)

    def _kills(self, reported: int) -> bool:
        """Return whether to clear set-id bits, given the KILL_SUIDGID flag of the request."""
        return bool(reported) or not self._reports_fsetid

    def _read(self, ino: int, end: int) -> Reply:
        fh, offset, size, _, _, _, _ = READ_IN.unpack_from(self._view, BODY)
        if self._files is not None:
            fh = self._files.reading(ino)
        if self.async_io is None:
            return self.fs.files.read(fh, position(offset), size)
        return self.async_io.read(self.fs.files.readable(fh), position(offset), size, self._unique())

    def _write(self, ino: int, end: int) -> Reply:
        fh, offset, size, write_flags, _, flags, _ = WRITE_IN.unpack_from(self._view, BODY)
        start = BODY + WRITE_IN.size
        data = self._view[start : start + size]
        if self._files is not None:
            fh = self._files.writing(ino)
        kills = self._kills(write_flags & WRITE_KILL_SUIDGID)
        done = self.fs.files.write(fh, position(offset), data, kill_suidgid=kills)
        if self._files is None:
            return WRITE_OUT.pack(done, 0)
        if flags & os.O_DSYNC:  # O_SYNC is O_DSYNC and one more bit
            self.fs.files.fsync(fh, data_only=flags & os.O_SYNC != os.O_SYNC)
        return WRITE_OUT.pack(done, 0)

    def _flush(self, ino: int, end: int) -> Reply:
        return self._flushed

    def _release(self, ino: int, end: int) -> Reply:
        if self._files is not None:
            return b""
        fh, _, _, _ = RELEASE_IN.unpack_from(self._view, BODY)
        self.fs.handles.close_file(fh)
        return b""

    def _fsync(self, ino: int, end: int) -> Reply:
        if self.fs.volatile:
            return NOT_SERVED  # nothing to do; the kernel will not send it again
        fh, flags, _ = FSYNC_IN.unpack_from(self._view, BODY)
        if self._files is not None:
            layer = self._inode_table.file(ino).layer
            if not (layer.writable or layer.frozen):
                return b""
            fh = self._files.reading(ino)
        if self.fs.handles.file(fh).contents is not None:
            return b""  # a file of an archive, which never changes
        data_only = bool(flags & FSYNC_FDATASYNC)
        if self.async_io is None:
            self.fs.files.fsync(fh, data_only=data_only)
            return b""
        try:
            fd = os.dup(self.fs.handles.file(fh).fd)
        except OSError:  # the limit of descriptors is reached
            self.fs.files.fsync(fh, data_only=data_only)
            return b""
        return self.async_io.sync([fd], self._unique(), data_only=data_only)

    # -- ranges ------------------------------------------------------------------------------------

    def _fallocate(self, ino: int, end: int) -> Reply:
        fh, offset, length, mode, _ = FALLOCATE_IN.unpack_from(self._view, BODY)
        if self._files is not None:
            fh = self._files.writing(ino)
        change = RangeAllocation(
            self.fs,
            self.fs.files.writable_handle(fh),
            mode,
            position(offset),
            position(length),
            # The kernel holds the inode's lock from the announcing SETATTR on.
            kill_suidgid=self._announced.pop(ino, None) == self._pid() or self._fallocate_kills,
        )
        return self._changed(change, lambda: b"")

    def _lseek(self, ino: int, end: int) -> Reply:
        fh, offset, whence, _ = LSEEK_IN.unpack_from(self._view, BODY)
        if self._files is not None:
            fh = self._files.reading(ino)
        # The kernel passes negative offsets on. lseek(2) on the lower file returns the right errno for them.
        return LSEEK_OUT.pack(seek(self.fs, fh, signed(offset), whence))

    def _copy_file_range(self, ino: int, end: int) -> Reply:
        return self._copied(ino, lambda done: WRITE_OUT.pack(done, 0))

    def _copy_file_range_64(self, ino: int, end: int) -> Reply:
        return self._copied(ino, COPY_FILE_RANGE_OUT.pack)

    def _copied(self, ino: int, packed: Callable[[int], bytes]) -> Reply:
        fh, offset, target, target_fh, at, length, _ = COPY_FILE_RANGE_IN.unpack_from(self._view, BODY)
        if self._files is not None:
            # Open for writing first: that replaces the descriptor of a file that is open for reading only.
            target_fh = self._files.writing(target)
            fh = self._files.reading(ino)
        source, to = self.fs.handles.file(fh), self.fs.files.writable_handle(target_fh)
        copy = RangeCopy(self.fs, source, position(offset), to, position(at), length)

        return self._changed(copy, lambda: packed(copy.done))

    def _changed(self, change: RangeChange, packed: Callable[[], bytes]) -> Reply:
        """Apply *change*, in a thread if it may take long, and reply with what *packed* returns."""

        def finish() -> bytes:
            change.finish()
            return packed()

        if (
            self.async_io is not None
            and change.length >= LARGE
            and change.detach()
            and self.async_io.run(self._unique(), change.run, finish)
        ):
            return None
        change.run()
        return finish()

    # -- inode flags -------------------------------------------------------------------------------

    def _ioctl(self, ino: int, end: int) -> Reply:
        fh, flags, command, _, _, _ = IOCTL_IN.unpack_from(self._view, BODY)
        require_readable(command)
        if flags & IOCTL_DIR:
            found = self._inode_table.directory(ino)
            require_flags(archived=found.layer.lasting_name is not None)
            fd = os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=found.parts[0].fd())
            try:
                data = inode_flags(fd, command, writable=found.layer.writable)
            finally:
                os.close(fd)
        else:
            if self._files is not None:
                fh = self._files.reading(ino)
            handle = self.fs.handles.file(fh)
            require_flags(archived=handle.contents is not None)
            data = inode_flags(handle.fd, command, writable=handle.inode.layer.writable)
        return IOCTL_OUT.pack(0, 0, 0, 0) + data
