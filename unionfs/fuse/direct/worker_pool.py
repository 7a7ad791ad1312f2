"""Threads for bytes: what may have to wait for a disk, so that the server goes on answering meanwhile.

Metadata is never touched in one. They are made when the first of them is needed, and no more than a few: a disk serves no
faster when more wait for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from threading import Lock, Semaphore, Thread

from unionfs._stdlib.logging import Complaints

log = Complaints(__name__)

#: How many wait at once.
MOST = 4

Work = Callable[[], None]


class WorkerPool:
    """Does work in the order in which it comes, up to *most* pieces of it at once."""

    def __init__(self, most: int = MOST) -> None:
        """Start no thread yet."""
        # No queue.SimpleQueue: a server that is confined may import nothing any more, and most mounts need none.
        self._queue: deque[Work] = deque()
        self._queued = Semaphore(0)
        self._lock = Lock()
        self._most = most
        #: Threads, and pieces of work that are done or wait to be.
        self._count = self._pending = 0

    def run(self, work: Work) -> bool:
        """Have *work* done; False if no thread can be had for it, and nothing was done.

        *work* deals with its errors: nobody hears of what it raises but the log.
        """
        with self._lock:
            self._pending += 1
            if self._pending > self._count and self._count < self._most:
                try:
                    Thread(target=self._serve, name="bytes", daemon=True).start()
                except (RuntimeError, MemoryError):  # no more threads are allowed
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
            # It holds descriptors and buffers of a mount that may be gone before the next comes.
            del work
            with self._lock:
                self._pending -= 1
