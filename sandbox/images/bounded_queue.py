"""Hand pieces of data from one thread to another, in bounded memory, until either side ends."""

from __future__ import annotations

import threading
from collections import deque

from unionfs._stdlib.typing import Generic, TypeVar

T = TypeVar("T")


class ConsumerGoneError(Exception):
    """The consumer of a queue has closed it, so nothing more is wanted."""


class BoundedQueue(Generic[T]):
    """A queue with one producer and one consumer. Whoever starts their threads creates it; nothing has to be freed.

    Its items together have a limited size, so the faster side waits for the slower one.
    """

    def __init__(self, limit: int) -> None:
        """Accept items until they have *limit* bytes together: the last one may exceed it."""
        self._limit = limit
        self._items: deque[tuple[T, int]] = deque()
        self._size = 0
        self._ended = False
        self._closed = False
        self._error: BaseException | None = None
        self._changed = threading.Condition(threading.Lock())

    def put(self, item: T, size: int) -> None:
        """Add *item* of *size* bytes, when there is room for it.

        Raises:
            ConsumerGoneError: the consumer has closed the queue.
        """
        with self._changed:
            while self._size >= self._limit and not self._closed:
                self._changed.wait()
            if self._closed:
                raise ConsumerGoneError
            self._items.append((item, size))
            self._size += size
            self._changed.notify()

    def end(self, error: BaseException | None = None) -> None:
        """Add nothing more; *error* is raised to the consumer once it has taken all items. Only the first call counts."""
        with self._changed:
            if not self._ended:
                self._ended, self._error = True, error
            self._changed.notify()

    def get(self) -> T | None:
        """Return the next item, when there is one; None at the end.

        Raises:
            BaseException: the error with which the producer has ended.
        """
        with self._changed:
            while not self._items:
                if self._error is not None:
                    raise self._error
                if self._ended or self._closed:
                    return None
                self._changed.wait()
            item, size = self._items.popleft()
            self._size -= size
            self._changed.notify()
            return item

    def close(self) -> None:
        """Discard all items and accept none any more."""
        with self._changed:
            self._closed = True
            self._items.clear()
            self._changed.notify()
