"""The contents of a layer that is fetched in parts: a sparse file, whose chunks are there once the launcher's process says so.

Only that process knows which chunks of the file are valid, because an earlier run may have been killed. So each chunk is
requested once in each run, also if it was fetched before.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Sequence
from threading import Lock, Semaphore

from unionfs.layer.contents import Fetch
from unionfs.layer_index.archive_chunks import ChunkTable
from unionfs.layer_index.archived_contents import PlainData, truncated
from unionfs.layer_index.fetcher import Done, Fetcher

_LONGEST = 16
"""The most chunks of one request: a large file is copied up by many, so that each brings an answer soon."""


class FetchedData:
    """The bytes of one layer (implements `ArchiveData`). It borrows the descriptor. Threads may share it."""

    def __init__(self, fd: int, table: ChunkTable, number: int, fetcher: Fetcher) -> None:
        """Read the file *fd*, whose chunks *table* describes. The layer has *number* for *fetcher*."""
        self._plain = PlainData(fd, table.size)
        self._table = table
        self._number = number
        self._fetcher = fetcher
        self.size = table.size
        #: 1 for each chunk that is there.
        self._there = bytearray(len(table))
        #: The functions to call once a chunk is there, or cannot be fetched.
        self._waiting: dict[int, list[Done]] = {}
        self._lock = Lock()

    def missing(self, position: int, length: int) -> Sequence[int]:
        """Return the numbers of the chunks with the *length* bytes at *position* that have yet to be requested or fetched."""
        there = self._there
        return [number for number in self._table.within(position, length) if not there[number]]

    def fetch(self, chunks: Iterable[int], done: Done) -> None:
        """Have *chunks* fetched; *done* is called as for `Fetcher.request`, when all are there or one cannot be fetched."""
        wanted = sorted(set(chunks))
        countdown = _Countdown(len(wanted), done)
        with self._lock:
            left = [number for number in wanted if not self._there[number]]
            new = [number for number in left if number not in self._waiting]
            for number in left:
                self._waiting.setdefault(number, []).append(countdown)
        for _ in range(len(wanted) - len(left)):
            countdown(0)
        for first, count in _runs(new):
            self._fetcher.request(self._number, first, count, self._received(first, count))

    def _received(self, first: int, count: int) -> Done:
        def received(failure: int) -> None:
            waiting: list[Done] = []
            with self._lock:
                for number in range(first, first + count):
                    if not failure:
                        self._there[number] = 1
                    waiting += self._waiting.pop(number, ())
            for done in waiting:
                done(failure)

        return received

    def read(self, room: memoryview, position: int, *, cached: bool) -> bool:
        """Read as `PlainData` does. Without *cached*, missing chunks are waited for."""
        missing = self.missing(position, len(room))
        if missing:
            if cached:
                return False
            self._wait(missing)
        return self._plain.read(room, position, cached=cached)

    def copy(self, position: int, length: int, to: int, offset: int) -> None:
        """Copy as `PlainData` does; missing chunks are waited for."""
        if position + length > self.size:
            raise truncated()
        self._wait(self.missing(position, length))
        self._plain.copy(position, length, to, offset)

    def _wait(self, missing: Sequence[int]) -> None:
        """Have the chunks *missing* fetched, and wait for them. The server calls it in threads that may wait.

        Raises:
            OSError: one cannot be fetched.
        """
        if not missing:
            return
        found: list[int] = []
        ended = Semaphore(0)

        def done(failure: int) -> None:
            found.append(failure)
            ended.release()

        Fetch(self.fetch, missing).begin(done)
        ended.acquire()
        if found[0]:
            raise OSError(found[0], os.strerror(found[0]))


class _Countdown:
    """Calls a function once: after a number of successes, or at the first failure."""

    def __init__(self, count: int, done: Callable[[int], None]) -> None:
        self._left = count
        self._done = done
        self._lock = Lock()
        if not count:
            done(0)

    def __call__(self, failure: int) -> None:
        with self._lock:
            if self._left <= 0:
                return  # it has failed
            self._left = 0 if failure else self._left - 1
            if self._left:
                return
        self._done(failure and (failure if failure > 0 else errno.EIO))


def _runs(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Return *numbers*, which ascend, as runs of at most _LONGEST: the first number and the length of each."""
    runs: list[tuple[int, int]] = []
    for number in numbers:
        if runs and sum(runs[-1]) == number and runs[-1][1] < _LONGEST:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((number, 1))
    return runs
