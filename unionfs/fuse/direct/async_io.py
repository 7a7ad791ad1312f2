"""Run blocking I/O in worker threads, and send these replies asynchronously.

So no request waits for the disk accesses of another one.

A read first tries the page cache (RWF_NOWAIT, preadv2(2)). If that does not have all of the data, a thread reads it. fsync(2)
and the copy-up of a large file always run in a thread.

If a request consists of I/O alone, the thread sends the reply itself. If a request needs a large copy first, the request is
parked, and handled again after the copy.
"""

from __future__ import annotations

import errno
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from threading import Semaphore

from unionfs.copyup.background_copy import CopyPending, FetchPendingError
from unionfs.fuse.direct.worker_pool import WorkerPool
from unionfs.inode.handles import FileHandle
from unionfs.layer.directory import Layer
from unionfs.layer.file_systems import is_remote
from unionfs.types import Ino
from unionfs.vfs.filesystem import UnionFs

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from unionfs.layer.contents import Fetch, FileContents

#: The largest reply that the kernel accepts: as many pages as were negotiated (FUSE_MAX_PAGES).
_ROOM = 1 << 20
#: Seconds to wait for threads that change files, while no request is answered.
_LONG = 0.5

#: Sends the reply to the request with that number; callable from any thread.
Send = Callable[[int, bytes | memoryview | int], None]


class AsyncIo:
    """The asynchronous I/O of one mount. It owns the worker threads and the parked requests.

    The loop of the mount creates and closes it.
    """

    def __init__(self, fs: UnionFs, send: Send, wake: Callable[[], None]) -> None:
        """Send replies with *send*, and call *wake* to wake the server when parked requests can be handled again."""
        self._worker_pool = WorkerPool()
        self._background = fs.files.copy_in_background()
        self._send = send
        self._wake = wake
        self._parked: dict[Ino, list[bytes]] = {}
        #: One for each call of :meth:`run` whose result has not been sent; released when its thread is done.
        self._running: list[Semaphore] = []
        fs.before_freeze.append(self.wait_for_changes)
        #: Calls to run in the server's own thread after a thread has finished; each returns requests to handle again.
        self.ready: deque[Callable[[], Iterable[bytes]]] = deque()
        #: For layers without RWF_NOWAIT: whether threads read their files.
        self._waits: dict[Layer, bool] = {}
        self._room = memoryview(bytearray(_ROOM))
        #: How many requests threads have handled.
        self.count = 0

    def read(self, handle: FileHandle, offset: int, size: int, unique: int) -> bytes | memoryview | None:
        """Read up to *size* bytes at *offset*; None if the reply to *unique* is sent later.

        The returned memory is valid until the next call.
        """
        if handle.contents is not None:
            return self._read_archived(handle.contents, offset, size, unique)
        waits = self._waits.get(handle.inode.layer) if handle.inode.data is None else None
        if waits is None or size > _ROOM:
            size = min(size, _ROOM)
            done = self._read_from_memory(handle, offset, size)
            if done is not None:
                return self._room[:done]
            waits = True
        if not waits:
            done = os.preadv(handle.fd, (self._room[:size],), offset)
            return self._room[:done]
        try:
            fd = os.dup(handle.fd)
        except OSError:  # the limit of descriptors is reached
            return os.pread(handle.fd, size, offset)
        return self._leave(fd, unique, lambda fd: os.pread(fd, size, offset))

    def _read_archived(
        self, contents: FileContents, offset: int, size: int, unique: int
    ) -> bytes | memoryview | None:
        """Read from a file of an archive as :meth:`read` does."""
        room = self._room[: min(size, _ROOM)]
        done = contents.read_cached(room, offset)
        if done is not None:
            return room[:done]
        fetch = contents.pending(offset, size)
        if fetch is not None:
            raise FetchPendingError(fetch)
        # The thread needs no descriptor of its own: the archive stays open as long as the mount.
        return self._leave(-1, unique, lambda _: contents.read(size, offset))

    def _read_from_memory(self, handle: FileHandle, offset: int, size: int) -> int | None:
        """Read into the buffer, if the page cache has all of the data or the file system cannot tell and is local.

        Returns:
            The number of bytes; None if a thread has to read.
        """
        room = self._room[:size]
        try:
            return _read_cached(handle.fd, room, offset)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            remote = is_remote(handle.fd)
            if handle.inode.data is None:
                self._waits[handle.inode.layer] = remote
            return None if remote else os.preadv(handle.fd, (room,), offset)

    def sync(self, fds: Sequence[int], unique: int, *, data_only: bool) -> bytes | None:
        """Sync the descriptors *fds*, which are taken over; None if a thread sends the reply to *unique*."""

        def sync(fd: int) -> bytes:
            try:
                for each in (*fds[1:], fd):
                    (os.fdatasync if data_only else os.fsync)(each)
            finally:
                for each in fds[1:]:
                    os.close(each)
            return b""

        return self._leave(fds[0], unique, sync)

    def _leave(self, fd: int, unique: int, act: Callable[[int], bytes]) -> bytes | None:
        """Run *act* on the descriptor *fd* in a thread, which sends the result as the reply to *unique*; return None.

        If no thread can be started, run *act* here and return its result. *fd* is taken over; -1: there is none.
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
                # Reply after any exception: without a reply, the client hangs until the server ends.
                if fd >= 0:
                    os.close(fd)
                self._send(unique, reply)

        if self._do(work):
            return None
        try:
            return act(fd)
        finally:
            if fd >= 0:
                os.close(fd)

    def park(self, pending: CopyPending, request: bytes) -> None:
        """Park *request* until the contents that it needs have been copied.

        Raises:
            OSError: the copy cannot begin.
        """
        assert self._background is not None
        ino = pending.ino
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

    def park_fetch(self, fetch: Fetch, request: bytes, unique: int) -> None:
        """Park *request* until *fetch* has ended, without a thread. If it fails, that is the reply to *unique*."""

        def done(failure: int) -> None:
            if failure:
                self._send(unique, -failure)
                return
            self.ready.append(lambda: (request,))
            self._wake()

        fetch.begin(done)

    def resume(self) -> Iterator[bytes]:
        """Yield the parked requests that can be handled now."""
        while self.ready:
            yield from self.ready.popleft()()

    def _parked_for(self, ino: Ino) -> Iterator[bytes]:
        yield from self._parked.pop(ino, ())
        assert self._background is not None
        self._background.drop(ino)

    def run(self, unique: int, work: Callable[[], None], finish: Callable[[], bytes]) -> bool:
        """Run *work* in a thread, then *finish* in the server's thread, and send its result or OSError as the reply to *unique*.

        Return False, and run neither, if no thread can be started.
        """
        done = Semaphore(0)

        def answer() -> Iterable[bytes]:
            reply: bytes | int = -errno.EIO
            self._running.remove(done)
            try:
                reply = finish()
            except OSError as error:
                reply = -(error.errno or errno.EIO)
            finally:
                self._send(unique, reply)
            return ()

        def act() -> None:
            try:
                work()
            finally:
                done.release()
                self.ready.append(answer)
                self._wake()

        if not self._do(act):
            return False
        self._running.append(done)
        return True

    def wait_for_changes(self) -> None:
        """Wait until no thread changes a file, because the file's layer is going to be frozen.

        Raises:
            OSError: EBUSY if that takes long.
        """
        deadline = time.monotonic() + _LONG
        for done in self._running:
            if not done.acquire(timeout=max(0.0, deadline - time.monotonic())):
                raise OSError(errno.EBUSY, "a change of a large range of a file takes long")
            done.release()

    def close(self) -> None:
        """Discard all copies. Clients that wait for them get no reply."""
        self._parked.clear()
        if self._background is not None:
            self._background.close()

    def _do(self, work: Callable[[], None]) -> bool:
        if not self._worker_pool.run(work):
            return False
        self.count += 1
        return True


def _read_cached(fd: int, room: memoryview, offset: int) -> int | None:
    """Read into *room* what *fd* has at *offset* in the page cache.

    Returns:
        The number of bytes, fewer than the room at the end of the file; None if the page cache lacks some.
    """
    done = 0
    try:
        while done < len(room):
            more = os.preadv(fd, (room[done:],), offset + done, os.RWF_NOWAIT)
            if not more:
                break
            done += more
    except BlockingIOError:
        return None
    return done
