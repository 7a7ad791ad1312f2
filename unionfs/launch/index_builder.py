"""Builds layer indexes beside the server, in a process of the lowest priority. The next mount uses them."""

from __future__ import annotations

import os
import select
import signal
import socket
from collections.abc import Callable
from contextlib import suppress

from unionfs._stdlib.typing import NoReturn
from unionfs.assemble import StackSource, build_indexes, lacks_indexes

#: Seconds that the end of a mount waits for an unfinished index. Without this, short mounts would never get an index.
PATIENCE = 3.0
_LOWEST = 19


class IndexBuilder:
    """The process that builds missing indexes, if any is missing. The server creates it, and calls `finish` after serving."""

    def __init__(self, source: StackSource, confine: Callable[[], None] = lambda: None) -> None:
        """Start to build the indexes that *source* lacks. The caller keeps its descriptors.

        From now on, this process ignores SIGCHLD, so the kernel reaps the builder. No zombie is left where wait4(2) is denied.

        Args:
            source: the stack that is being mounted.
            confine: called in the builder before it reads the layers.
        """
        self._channel: socket.socket | None = None
        try:
            if not lacks_indexes(source):
                return
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        except OSError:
            return  # no descriptors left: the mount works without indexes
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        try:
            if os.fork() == 0:
                _build(source, confine, theirs.fileno())
        except OSError:
            ours.close()  # no processes left: the mount works without indexes
            return
        finally:
            theirs.close()
        self._channel = ours

    def finish(self, patience: float = PATIENCE) -> None:
        """Wait up to *patience* seconds for the builder to end, then close its channel, which makes it exit."""
        if self._channel is None:
            return
        with suppress(OSError):
            select.select([self._channel], [], [], patience)
        self._channel.close()
        self._channel = None


def _build(source: StackSource, confine: Callable[[], None], lifeline: int) -> NoReturn:
    """Run the builder: keep open only the layers, the index directory and *lifeline*, and exit when the parent closes its end."""
    status = 1
    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        fds = [fd for lower in source.lowers for fd in (lower.fd, lower.archive_index_fd, lower.chunks_fd)]
        kept = {fd for fd in fds if fd is not None} | {lifeline}
        assert source.index_fd is not None
        _close_others(kept | {source.index_fd})
        os.nice(_LOWEST)
        confine()
        poll = select.poll()
        poll.register(lifeline, 0)

        def go_on() -> None:
            if poll.poll(0):
                os._exit(1)

        build_indexes(source, wait=False, go_on=go_on)
        status = 0
    except (OSError, MemoryError):
        pass  # the next mount reads the layers directly, and the next builder removes the unfinished file
    finally:
        os._exit(status)


def _close_others(kept: set[int]) -> None:
    """Close all descriptors except standard error and *kept*. An open /dev/fuse in this process would keep the mount alive."""
    start = 0
    for fd in sorted(kept | {2}):
        os.closerange(start, fd)
        start = fd + 1
    os.closerange(start, 1 + max(int(name) for name in os.listdir("/proc/self/fd")))
