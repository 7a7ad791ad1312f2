"""Making indexes beside the serving, in a process of its own and of the lowest priority: the next mount uses them."""

from __future__ import annotations

import os
import select
import signal
import socket
from collections.abc import Callable
from contextlib import suppress

from unionfs._stdlib.typing import NoReturn
from unionfs.assemble import StackSource, build_indexes, lacks_indexes

#: Seconds that the end of a mount waits for indexes that are nearly made: else short mounts would never have any.
PATIENCE = 3.0
_LOWEST = 19


class Building:
    """A process that makes indexes, if any is missing."""

    def __init__(self, source: StackSource, confine: Callable[[], None] = lambda: None) -> None:
        """Start to make those that *source* lacks; its descriptors stay the caller's.

        From now on this process is told of no child's end (SIGCHLD is ignored), so that the builder leaves nothing behind
        where wait4(2) is denied.

        Args:
            source: what is being mounted.
            confine: what the process does before it looks at the layers.
        """
        self._channel: socket.socket | None = None
        try:
            if not lacks_indexes(source):
                return
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        except OSError:
            return  # no more descriptors: the mount does without
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        try:
            if os.fork() == 0:
                _build(source, confine, theirs.fileno())
        except OSError:
            ours.close()  # no more processes: the mount does without
            return
        finally:
            theirs.close()
        self._channel = ours

    def finish(self, patience: float = PATIENCE) -> None:
        """Wait *patience* seconds for the process to end, and tell it to."""
        if self._channel is None:
            return
        with suppress(OSError):
            select.select([self._channel], [], [], patience)
        self._channel.close()
        self._channel = None


def _build(source: StackSource, confine: Callable[[], None], lifeline: int) -> NoReturn:
    """Be the process: hold nothing but the layers, and end with whoever started it."""
    status = 1
    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        kept = {lower.fd for lower in source.lowers} | {lifeline}
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
        pass  # the layers are read as they are; what is half made is removed by the next who makes one
    finally:
        os._exit(status)


def _close_others(kept: set[int]) -> None:
    """Close all descriptors but standard error and *kept*: the connection to the kernel among them, which would keep
    the mount.
    """
    start = 0
    for fd in sorted(kept | {2}):
        os.closerange(start, fd)
        start = fd + 1
    os.closerange(start, 1 + max(int(name) for name in os.listdir("/proc/self/fd")))
