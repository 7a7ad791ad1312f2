"""Threads for bytes: what may have to wait for a disk, so that the server goes on answering meanwhile.

Metadata is never touched in one. They are made when the first of them is needed, and no more than a few: a disk serves no
faster when more wait for it.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock, Thread
from typing import TYPE_CHECKING

from unionfs.complaints import Complaints

if TYPE_CHECKING:
    from queue import SimpleQueue

log = Complaints(__name__)

#: How many wait at once.
MOST = 4

Work = Callable[[], None]


class Threads:
    """Does work in the order in which it comes, up to *most* pieces of it at once."""

    def __init__(self, most: int = MOST) -> None:
        """Start no thread yet."""
        self._queue: SimpleQueue[Work] | None = None
        self._lock = Lock()
        self._most = most
        self._count = self._waiting = 0

    def run(self, work: Work) -> bool:
        """Have *work* done; False if no thread can be had for it, and nothing was done.

        *work* deals with its errors: nobody hears of what it raises but the log.
        """
        queue = self._queue
        if queue is None:
            from queue import SimpleQueue  # not needed to mount, and by many mounts never

            queue = self._queue = SimpleQueue()
        with self._lock:
            if not self._waiting and self._count < self._most:
                try:
                    Thread(target=self._serve, args=(queue,), name="bytes", daemon=True).start()
                except RuntimeError:  # no more threads are allowed
                    if not self._count:
                        return False
                else:
                    self._count += 1
            else:
                self._waiting = max(0, self._waiting - 1)
        queue.put(work)
        return True

    def _serve(self, queue: SimpleQueue[Work]) -> None:
        while True:
            work = queue.get()
            try:
                work()
            except Exception:
                log.exception("work in a thread failed")
            # It holds descriptors and buffers of a mount that may be gone before the next comes.
            del work
            with self._lock:
                self._waiting += 1
