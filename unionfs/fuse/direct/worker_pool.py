"""Worker threads for blocking I/O, so that the server answers other requests meanwhile.

Threads only move file contents and never touch metadata. The pool starts threads when work arrives, up to a small limit: a
disk is not faster if more threads wait for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from threading import Lock, Semaphore, Thread

from unionfs._stdlib.logging import LazyLogger

log = LazyLogger(__name__)

#: Limit of threads.
MOST = 4

Work = Callable[[], None]


class WorkerPool:
    """Runs work in the order of arrival, at most *most* pieces of it at once. It owns daemon threads, which live as long as
    the process.
    """

    def __init__(self, most: int = MOST) -> None:
        """Create a pool without threads."""
        # No queue.SimpleQueue: a confined server can import no more modules, and most mounts do not need the pool.
        self._queue: deque[Work] = deque()
        self._queued = Semaphore(0)
        self._lock = Lock()
        self._most = most
        #: Number of threads, and of pieces of work that run or wait.
        self._count = self._pending = 0

    def run(self, work: Work) -> bool:
        """Queue *work*; return False, and do nothing, if no thread can be started for it.

        *work* handles its own errors: an exception is only logged.
        """
        with self._lock:
            self._pending += 1
            if self._pending > self._count and self._count < self._most:
                try:
                    Thread(target=self._serve, name="bytes", daemon=True).start()
                except (RuntimeError, MemoryError):  # the limit of threads or memory is reached
                    if not self._count:
                        self._pending -= 1
                        return False
                else:
                    self._count += 1
        self._queue.append(work)
        self._queued.release()
        return True

    def _serve(self) -> None:
        while True:
            self._queued.acquire()
            work = self._queue.popleft()
            try:
                work()
            except Exception:
                log.exception("work in a thread failed")
            # Free the descriptors and buffers of a mount that may end before the next work arrives.
            del work
            with self._lock:
                self._pending -= 1
