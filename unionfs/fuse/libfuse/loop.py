"""The pyfuse3 server's loop: serves a :class:`~unionfs.vfs.filesystem.UnionFs` over a mounted /dev/fuse until the unmount."""

from __future__ import annotations

import errno
import logging
import signal
from collections.abc import Callable

import pyfuse3
import trio

from unionfs.fuse.libfuse.handlers import UnionOperations
from unionfs.fuse.libfuse.init_patch import FUSE_DONT_MASK, begin
from unionfs.fuse.libfuse.wait_readable import TrioForPyfuse3, ignore_tick
from unionfs.fuse.lifeline import Lifeline
from unionfs.fuse.protocol import CONNECTION_ENDED
from unionfs.fuse.statistics import counters, report
from unionfs.vfs.filesystem import UnionFs

log = logging.getLogger(__name__)

#: An exception from pyfuse3's loop is a bug. After this many, the server gives up the mount.
_MAX_RESTARTS = 100


def serve(
    fs: UnionFs,
    fuse_fd: int,
    *,
    ending: frozenset[signal.Signals],
    on_ready: Callable[[], None],
    lifeline: Lifeline | None = None,
    callers_visible: bool = True,
) -> int:
    """Serve *fs* until it is unmounted or one of the signals *ending* arrives.

    Args:
        fs: closed at the end.
        fuse_fd: a mounted /dev/fuse; taken over.
        ending: signals that end the server; blocked before and after it serves.
        on_ready: called when the mount can be used.
        lifeline: handled when it can be read; the server also ends when its other end is closed.
        callers_visible: process ids in requests belong to this process's own pid namespace.

    Returns:
        The exit status: 0, or 1 if the server gave up after repeated failures of its loop.

    Raises:
        OSError: the descriptor belongs to no mount, or the reply to the kernel could not be written.
    """
    try:
        connection = begin(fuse_fd)
    except OSError as error:
        fs.close()
        if error.errno in CONNECTION_ENDED:  # unmounted before it was served
            return 0
        raise
    operations = UnionOperations(
        fs,
        masks=bool(connection.negotiated & FUSE_DONT_MASK),
        connection=connection.fd,
        callers_visible=callers_visible,
    )

    refused: list[OSError] = []

    def introduced() -> None:
        try:
            connection.finish()
        except OSError as error:
            # The kernel waits for this reply and would send no request, so give up.
            refused.append(error)
            raise
        on_ready()

    try:
        pyfuse3.init(operations, f"/dev/fd/{connection.fd}", set())
    except BaseException:
        connection.close()
        fs.close()
        raise
    try:
        status = trio.run(_main, operations, ending, introduced, lifeline, refused)
        # ENOENT: the file system was unmounted meanwhile, so the kernel has dropped its INIT request.
        if refused and refused[0].errno not in CONNECTION_ENDED | {errno.ENOENT}:
            raise refused[0]
        return 0 if refused else status
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        pyfuse3.close(unmount=False)
        connection.close()
        fs.close()


async def _main(
    operations: UnionOperations,
    ending: frozenset[signal.Signals],
    introduced: Callable[[], None],
    lifeline: Lifeline | None,
    refused: list[OSError],
) -> int:
    signal.signal(signal.SIGALRM, ignore_tick)
    pyfuse3.trio = TrioForPyfuse3(introduced)  # type: ignore[attr-defined]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_handle_signals, operations, ending)
        if lifeline is not None:
            nursery.start_soon(_watch, lifeline)
        status = await _serve_until_unmounted(refused)
        nursery.cancel_scope.cancel()
    return status


async def _serve_until_unmounted(refused: list[OSError]) -> int:
    for _ in range(_MAX_RESTARTS):
        try:
            # One worker: handlers never wait, so a second one would only add scheduling.
            await pyfuse3.main(max_tasks=1)
        except Exception as error:
            if refused:
                return 1
            if _is_end_of_connection(error):
                return 0
            log.exception("the serving loop failed; it continues")
        else:
            return 0
    return 1


def _is_end_of_connection(error: BaseException) -> bool:
    """Return whether *error*, or each error of an exception group, is a read that failed because the connection has ended."""
    if isinstance(error, BaseExceptionGroup):
        return all(map(_is_end_of_connection, error.exceptions))
    return isinstance(error, OSError) and error.errno in CONNECTION_ENDED


async def _handle_signals(operations: UnionOperations, ending: frozenset[signal.Signals]) -> None:
    with trio.open_signal_receiver(*ending, signal.SIGUSR1) as signals:
        # The mounting process blocked these signals: a signal that kills the server would leave a dead mount behind.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ending)
        try:
            async for number in signals:
                if number == signal.SIGUSR1:
                    report(counters(operations.fs, operations.requests), operations.fs)
                else:
                    pyfuse3.terminate()
        finally:
            signal.pthread_sigmask(signal.SIG_BLOCK, ending)


async def _watch(lifeline: Lifeline) -> None:
    """Handle *lifeline* until its other end is closed, then end the server. Handlers of requests never wait, so none is active."""
    while True:
        await trio.lowlevel.wait_readable(lifeline.fileno())
        if not lifeline.handle():
            pyfuse3.terminate()
            return
