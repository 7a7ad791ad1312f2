"""What would make the server wait is done by threads and answered later, so that no request waits for another's disk.

Contents are read at once if they are in memory (RWF_NOWAIT, preadv2(2)); fsync(2), and the contents of a large file that is
copied up, always go to a thread. A thread answers what only moves bytes itself. A request that needed the bytes first is
parked, and asked again.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Callable, Iterator

from unionfs import _libc
from unionfs.ahead import NotYet
from unionfs.core import UnionFs
from unionfs.fuse.threads import Threads
from unionfs.handles import FileHandle
from unionfs.layer import Layer
from unionfs.types import Ino

#: The largest answer that the kernel takes: as many pages as were agreed on (FUSE_MAX_PAGES).
_ROOM = 1 << 20
#: File systems that do not say whether they would wait, and may do so for somebody else (statfs(2)): FUSE, NFS, SMB, CIFS,
#: 9P, Ceph, AFS. One that does not say it and is none of these has its files in memory, or is stacked on others.
_REMOTE = frozenset((0x65735546, 0x6969, 0xFE534D42, 0xFF534D42, 0x01021997, 0x00C36400, 0x5346414F))

#: Answers the request of that number, from any thread.
Say = Callable[[int, bytes | int], None]


class Later:
    """The work of one mount that is left to threads."""

    def __init__(self, fs: UnionFs, say: Say, wake: Callable[[], None]) -> None:
        """Have requests answered by *say*; *wake* the server when some are to be asked again."""
        self._threads = Threads()
        self._ahead = fs.copy_ahead()
        self._say = say
        self._wake = wake
        self._parked: dict[Ino, list[bytes]] = {}
        #: The nodes whose requests can be asked again.
        self.ready: deque[Ino] = deque()
        #: Whether a layer's files are read by threads, where the kernel cannot tell whether they are in memory.
        self._waits: dict[Layer, bool] = {}
        self._room = memoryview(bytearray(_ROOM))
        #: How many requests threads have done.
        self.count = 0

    def read(self, handle: FileHandle, offset: int, size: int, unique: int) -> bytes | memoryview | None:
        """Return up to *size* bytes at *offset*, good until the next call; None if a thread will answer *unique*."""
        waits = self._waits.get(handle.node.layer) if handle.node.data is None else None
        if waits is None or size > _ROOM:
            found = self._read_from_memory(handle, offset, min(size, _ROOM))
            if found is not None:
                return found
            waits = True
        if not waits:
            done = os.preadv(handle.fd, (self._room[:size],), offset)
            return self._room[:done]
        try:
            fd = os.dup(handle.fd)
        except OSError:  # as many descriptors as there may be
            return os.pread(handle.fd, size, offset)

        return self._leave(fd, unique, lambda fd: os.pread(fd, size, offset))

    def _read_from_memory(self, handle: FileHandle, offset: int, size: int) -> memoryview | None:
        room, done = self._room[:size], 0
        try:
            while done < size:
                more = os.preadv(handle.fd, (room[done:],), offset + done, os.RWF_NOWAIT)
                if not more:
                    break
                done += more
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            remote = _libc.file_system_type(handle.fd) in _REMOTE
            if handle.node.data is None:
                self._waits[handle.node.layer] = remote
            if remote:
                return None
            done = os.preadv(handle.fd, (room,), offset)
        return room[:done]

    def sync(self, fd: int, unique: int, *, data_only: bool) -> bytes | None:
        """Sync the descriptor *fd*, which is taken over; None if a thread will answer *unique*."""

        def sync(fd: int) -> bytes:
            (os.fdatasync if data_only else os.fsync)(fd)
            return b""

        return self._leave(fd, unique, sync)

    def _leave(self, fd: int, unique: int, act: Callable[[int], bytes]) -> bytes | None:
        """Have a thread do *act* with the descriptor *fd*, which is taken over, and answer *unique* with what it gives;
        without a thread that is done and returned.
        """

        def work() -> None:
            reply: bytes | int = -errno.EIO
            try:
                reply = act(fd)
            except OSError as error:
                reply = -(error.errno or errno.EIO)
            except MemoryError:
                reply = -errno.ENOMEM
            finally:
                # Whatever was raised: who asked can only be killed with the server while there is no answer.
                os.close(fd)
                self._say(unique, reply)

        if self._do(work):
            return None
        try:
            return act(fd)
        finally:
            os.close(fd)

    def park(self, later: NotYet, request: bytes) -> None:
        """Keep *request* until what it needs has been copied.

        Raises:
            OSError: that cannot begin.
        """
        assert self._ahead is not None
        ino = later.ino
        work = self._ahead.begin(ino)
        self._parked.setdefault(ino, []).append(request)
        if work is None:
            return

        def copy() -> None:
            try:
                work()
            finally:
                self.ready.append(ino)
                self._wake()

        if not self._do(copy):
            copy()

    def resume(self) -> Iterator[bytes]:
        """Give the requests that can be asked again now, one after the other."""
        while self.ready:
            ino = self.ready.popleft()
            yield from self._parked.pop(ino, ())
            assert self._ahead is not None
            self._ahead.drop(ino)

    def close(self) -> None:
        """Throw away what has been copied and is copied; who waits for it is not answered any more."""
        self._parked.clear()
        if self._ahead is not None:
            self._ahead.close()

    def _do(self, work: Callable[[], None]) -> bool:
        if not self._threads.run(work):
            return False
        self.count += 1
        return True
