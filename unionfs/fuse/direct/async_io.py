"""What would make the server wait is done by threads and answered later, so that no request waits for another's disk.

Contents are read at once if they are in memory (RWF_NOWAIT, preadv2(2)). If they are not, asking has begun to fetch them: a
disk that is fast has them before a thread could have been woken, so that the server looks for them as long as it looks
for the next request, and leaves to a thread what did not come. fsync(2), and the contents of a large file that is
copied up, always go to a thread. A thread answers what only moves bytes itself. A request that needed the bytes first is
parked, and asked again.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator

from unionfs import _libc
from unionfs.copyup.background_copy import CopyPending
from unionfs.fuse.busy_poll import BusyPoll
from unionfs.fuse.direct.worker_pool import MOST, WorkerPool
from unionfs.inode.handles import FileHandle
from unionfs.layer.directory import Layer
from unionfs.types import Ino
from unionfs.vfs.filesystem import UnionFs

#: The largest answer that the kernel takes: as many pages as were agreed on (FUSE_MAX_PAGES).
_ROOM = 1 << 20
#: File systems that do not say whether they would wait, and may do so for somebody else (statfs(2)): FUSE, NFS, SMB, CIFS,
#: 9P, Ceph, AFS. One that does not say it and is none of these has its files in memory, or is stacked on others.
_REMOTE = frozenset((0x65735546, 0x6969, 0xFE534D42, 0xFF534D42, 0x01021997, 0x00C36400, 0x5346414F))

#: Times to look for contents before a thread waits for them: some 150 microseconds.
LOOKS = 100

#: Answers the request of that number, from any thread.
Say = Callable[[int, bytes | memoryview | int], None]


class PendingRead:
    """A read whose contents are on their way to memory."""

    __slots__ = ("done", "fd", "looks", "offset", "room", "unique")

    def __init__(self, fd: int, unique: int, offset: int, room: memoryview, done: int, looks: int) -> None:
        """Answer *unique* with *room*, filled from *offset* of *fd* on, which is taken over; *done* bytes are there,
        and *looks* are left to be taken.
        """
        self.fd = fd
        self.unique = unique
        self.offset = offset
        self.room = room
        self.done = done
        self.looks = looks


class AsyncIo:
    """The work of one mount that is not done at once."""

    def __init__(self, fs: UnionFs, say: Say, wake: Callable[[], None], *, looks: int = 0) -> None:
        """Have requests answered by *say*; *wake* the server when some are to be asked again.

        *looks*: how many times the server looks for contents that are not in memory, if it calls :meth:`look`.
        """
        self._worker_pool = WorkerPool()
        self._background = fs.copy_ahead()
        self._say = say
        self._wake = wake
        self._parked: dict[Ino, list[bytes]] = {}
        #: What to do in the server's own thread now that another has done its part; each gives requests to ask again.
        self.ready: deque[Callable[[], Iterable[bytes]]] = deque()
        #: Whether a layer's files are read by threads, where the kernel cannot tell whether they are in memory.
        self._waits: dict[Layer, bool] = {}
        self._room = memoryview(bytearray(_ROOM))
        self._busy_poll = BusyPoll(looks)
        #: Reads that :meth:`look` is to be called for.
        self.coming: list[PendingRead] = []
        #: How many requests threads have done, and how many reads came while the server looked for them.
        self.count = self.came = 0

    def read(self, handle: FileHandle, offset: int, size: int, unique: int) -> bytes | memoryview | None:
        """Return up to *size* bytes at *offset*, good until the next call; None if *unique* will be answered later."""
        waits = self._waits.get(handle.node.layer) if handle.node.data is None else None
        done, looks = 0, 0
        if waits is None or size > _ROOM:
            size = min(size, _ROOM)
            done, whole = self._read_from_memory(handle, offset, size)
            if whole:
                return self._room[:done]
            waits = True
            if done < 0:
                done = 0
            elif len(self.coming) < MOST:
                looks = self._busy_poll.times()
        if not waits:
            done = os.preadv(handle.fd, (self._room[:size],), offset)
            return self._room[:done]
        room = memoryview(bytearray(size if looks else 0))
        try:
            fd = os.dup(handle.fd)
        except OSError:  # as many descriptors as there may be
            return os.pread(handle.fd, size, offset)
        if looks:
            room[:done] = self._room[:done]
            self.coming.append(PendingRead(fd, unique, offset, room, done, looks))
            return None
        return self._leave(fd, unique, lambda fd: os.pread(fd, size, offset))

    def _read_from_memory(self, handle: FileHandle, offset: int, size: int) -> tuple[int, bool]:
        """Fill the room with what is in memory; returns how many bytes that is, -1 if nobody can tell, and whether it is all
        that there is.
        """
        room = self._room[:size]
        try:
            return _fill(handle.fd, room, 0, offset)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            remote = _libc.file_system_type(handle.fd) in _REMOTE
            if handle.node.data is None:
                self._waits[handle.node.layer] = remote
            if remote:
                return -1, False
            return os.preadv(handle.fd, (room,), offset), True

    def look(self) -> bool:
        """Look for the contents that are on their way; returns whether a read has been answered."""
        answered = False
        for coming in self.coming[:]:
            try:
                coming.done, whole = _fill(coming.fd, coming.room, coming.done, coming.offset)
            except OSError as error:
                self._end(coming, -(error.errno or errno.EIO))
                answered = True
                continue
            coming.looks -= 1
            if whole:
                self.came += 1
                self._busy_poll.judge(hit=True)
                self._end(coming, coming.room[: coming.done])
                answered = True
            elif not coming.looks:
                self._busy_poll.judge(hit=False)
                self._wait_for(coming)
        return answered

    def stop_looking(self) -> None:
        """Leave all contents that are on their way to threads: the server is going to sleep."""
        while self.coming:
            self._wait_for(self.coming[-1])

    def _end(self, coming: PendingRead, reply: memoryview | int) -> None:
        self.coming.remove(coming)
        os.close(coming.fd)
        self._say(coming.unique, reply)

    def _wait_for(self, coming: PendingRead) -> None:
        """Have a thread wait for the contents."""
        self.coming.remove(coming)
        size, offset, unique = len(coming.room), coming.offset, coming.unique
        try:
            reply: bytes | int | None = self._leave(coming.fd, unique, lambda fd: os.pread(fd, size, offset))
        except OSError as error:
            reply = -(error.errno or errno.EIO)
        if reply is not None:
            self._say(unique, reply)

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

    def park(self, async_io: CopyPending, request: bytes) -> None:
        """Keep *request* until what it needs has been copied.

        Raises:
            OSError: that cannot begin.
        """
        assert self._background is not None
        ino = async_io.ino
        work = self._background.begin(ino)
        self._parked.setdefault(ino, []).append(request)
        if work is None:
            return

        def copy() -> None:
            try:
                work()
            finally:
                self.ready.append(lambda: self._parked_for(ino))
                self._wake()

        if not self._do(copy):
            copy()

    def resume(self) -> Iterator[bytes]:
        """Give the requests that can be asked again now, one after the other."""
        while self.ready:
            yield from self.ready.popleft()()

    def _parked_for(self, ino: Ino) -> Iterator[bytes]:
        yield from self._parked.pop(ino, ())
        assert self._background is not None
        self._background.drop(ino)

    def run(self, unique: int, work: Callable[[], None], finish: Callable[[], bytes]) -> bool:
        """Run *work* in a thread, and then answer *unique* with what *finish* returns or raises (OSError) in the server's own.

        Returns False, and does nothing, where no thread can be started.
        """

        def answer() -> Iterable[bytes]:
            reply: bytes | int = -errno.EIO
            try:
                reply = finish()
            except OSError as error:
                reply = -(error.errno or errno.EIO)
            finally:
                self._say(unique, reply)
            return ()

        def act() -> None:
            try:
                work()
            finally:
                self.ready.append(answer)
                self._wake()

        return self._do(act)

    def close(self) -> None:
        """Throw away what has been copied and is copied; who waits for it is not answered any more."""
        self._parked.clear()
        for coming in self.coming:
            os.close(coming.fd)
        self.coming.clear()
        if self._background is not None:
            self._background.close()

    def _do(self, work: Callable[[], None]) -> bool:
        if not self._worker_pool.run(work):
            return False
        self.count += 1
        return True


def _fill(fd: int, room: memoryview, done: int, offset: int) -> tuple[int, bool]:
    """Fill *room*, of which *done* bytes are there, with what is in memory of *fd* from *offset* on.

    Returns:
        How many bytes are there then, and whether that is all of the room or of the file.
    """
    try:
        while done < len(room):
            more = os.preadv(fd, (room[done:],), offset + done, os.RWF_NOWAIT)
            if not more:
                break
            done += more
    except BlockingIOError:
        return done, False
    return done, True
