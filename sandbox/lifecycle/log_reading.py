"""Read the log of a sandbox in the background, also while it grows and is rotated."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress

from sandbox.errors import StateError
from sandbox.lifecycle.running import supervisor_of
from sandbox.state.log_files import LogLine, decode, log_paths
from sandbox.state.runs import Run

_READ = 1 << 18
_PAUSE = 0.05
"""Seconds between two looks at a log that is followed."""


def read_log(
    run: Run, wanted: Callable[[LogLine], bool], *, tail: int | None = None, follow: bool = False
) -> Iterator[LogLine]:
    """Yield the lines of the log of *run*, oldest first.

    Args:
        run: a run in the background.
        wanted: whether a line is to be yielded.
        tail: begin with this number of wanted lines; None for all.
        follow: wait for further lines until the run ends.

    Raises:
        StateError: the run has no log.
    """
    if run.record is None or not run.record.background:
        raise StateError(
            f"sandbox {run.shown()} has no log: its output went to the terminal that started it",
            hint="`sandbox up --detach` starts a sandbox with a log",
        )
    files = _Files(run.path)
    supervisor = supervisor_of(run) if follow else None
    try:
        lines = (line for line in files.lines() if wanted(line))
        yield from lines if tail is None else _last(lines, tail)
        while supervisor is not None:
            ended = supervisor.ends_within(0)
            yield from (line for line in files.lines() if wanted(line))
            if ended:
                break
            time.sleep(_PAUSE)
    finally:
        files.close()
        if supervisor is not None:
            supervisor.close()


def _last(lines: Iterator[LogLine], count: int) -> Iterator[LogLine]:
    """Return the last *count* whole lines of *lines*, with their parts."""
    kept: deque[list[LogLine]] = deque(maxlen=count or 1)
    parts: dict[str, list[LogLine]] = {}
    for line in lines:
        together = parts.setdefault(line.stream, [])
        if not together:
            kept.append(together)
        together.append(line)
        if line.whole:
            del parts[line.stream]
    return iter([line for together in kept for line in together] if count else [])


class _Files:
    """The files of one log, read one after the other. A rotation renames a file, so the present one is known by its inode.

    No other file gets that while it is open.
    """

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._fd = -1
        self._rest = b""

    def lines(self) -> Iterator[LogLine]:
        """Yield the lines that have come since the last call."""
        while True:
            yield from self._read()
            following = self._next()
            if following is None:
                return
            yield from self._read()  # what was written before the rotation
            if self._fd >= 0:
                os.close(self._fd)
            self._fd, self._rest = following, b""

    def _read(self) -> Iterator[LogLine]:
        while self._fd >= 0 and (data := os.read(self._fd, _READ)):
            *lines, self._rest = (self._rest + data).split(b"\n")
            for line in lines:
                found = decode(line)
                if found is not None:
                    yield found

    def _next(self) -> int | None:
        """Open the file behind the present one; None if that is the newest.

        A file that is not there any more is older than all others.
        """
        current = None if self._fd < 0 else _inode(os.fstat(self._fd))
        while True:
            inodes = self._inodes()
            following = inodes[inodes.index(current) + 1 :] if current in inodes else inodes
            if not following:
                return None
            fd = self._open(following[0])
            # A rotation between the looks could hide a file.
            if fd is not None and self._inodes() == inodes:
                return fd
            if fd is not None:
                os.close(fd)

    def _inodes(self) -> list[tuple[int, int]]:
        found = []
        for path in log_paths(self._directory):
            with suppress(FileNotFoundError):
                found.append(_inode(os.lstat(path)))
        return found

    def _open(self, inode: tuple[int, int]) -> int | None:
        for path in log_paths(self._directory):
            try:
                fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            if _inode(os.fstat(fd)) == inode:
                return fd
            os.close(fd)
        return None

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _inode(info: os.stat_result) -> tuple[int, int]:
    return info.st_dev, info.st_ino
