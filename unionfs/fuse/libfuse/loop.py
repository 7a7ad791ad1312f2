"""The serving loop: from a :class:`~unionfs.vfs.filesystem.UnionFs` and a mounted /dev/fuse to the end of the mount."""

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
from unionfs.fuse.protocol import CONNECTION_ENDED
from unionfs.fuse.statistics import figures, report
from unionfs.vfs.filesystem import UnionFs

log = logging.getLogger(__name__)

#: An exception that gets out of pyfuse3's loop is a bug; after this many the mount is given up rather than
#: served by luck.
_MAX_RESTARTS = 100


def serve(
    fs: UnionFs,
    fuse_fd: int,
    *,
    ending: frozenset[signal.Signals],
    on_ready: Callable[[], None],
    lifeline: int | None = None,
    callers_visible: bool = True,
    first: bytes = b"",
) -> int:
    """Serve *fs* until it is unmounted or one of the signals *ending* asks for the end.

    Args:
        fs: closed at the end.
        fuse_fd: a /dev/fuse that has been mounted; taken over.
        ending: blocked until served, and from the end on.
        on_ready: called when the mount can be used.
        lifeline: a socket whose other end's closing ends the serving, too.
        callers_visible: process ids in requests are of this process's own pid namespace.
        first: the kernel's first request, where it has been read.

    Returns:
        The exit status: 0, or 1 if the loop had to be given up.

    Raises:
        OSError: the descriptor is of no mount, or the kernel could not be answered.
    """
    try:
        connection = begin(fuse_fd, first)
    except OSError as error:
        fs.close()
        if error.errno in CONNECTION_ENDED:  # unmounted before it was served
            return 0
        raise
    operations = UnionOperations(
        fs,
        masks=bool(connection.agreed & FUSE_DONT_MASK),
        connection=connection.fd,
        callers_visible=callers_visible,
    )

    refused: list[OSError] = []

    def introduced() -> None:
        try:
            connection.finish()
        except OSError as error:
            # Nobody would ask us anything: the kernel waits for this answer first.
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
        # ENOENT: the kernel has dropped its first request, as it was unmounted meanwhile.
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
    lifeline: int | None,
    refused: list[OSError],
) -> int:
    signal.signal(signal.SIGALRM, ignore_tick)
    pyfuse3.trio = TrioForPyfuse3(introduced)  # type: ignore[attr-defined]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_handle_signals, operations, ending)
        if lifeline is not None:
            nursery.start_soon(_end_with, lifeline)
        status = await _serve_until_unmounted(refused)
        nursery.cancel_scope.cancel()
    return status


async def _serve_until_unmounted(refused: list[OSError]) -> int:
    for _ in range(_MAX_RESTARTS):
        try:
            # One worker: handlers never wait, so a second one would only be scheduled in between.
            await pyfuse3.main(max_tasks=1)
        except Exception as error:
            if refused:
                return 1
            if _says_ended(error):
                return 0
            log.exception("the serving loop failed; going on")
        else:
            return 0
    return 1


def _says_ended(error: BaseException) -> bool:
    """Tell whether *error*, or each error of a group, is a read of the connection that failed because that has ended."""
    if isinstance(error, BaseExceptionGroup):
        return all(map(_says_ended, error.exceptions))
    return isinstance(error, OSError) and error.errno in CONNECTION_ENDED


async def _handle_signals(operations: UnionOperations, ending: frozenset[signal.Signals]) -> None:
    with trio.open_signal_receiver(*ending, signal.SIGUSR1) as signals:
        # Whoever mounted held them back: to die of one would leave a dead mount behind.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ending)
        try:
            async for number in signals:
                if number == signal.SIGUSR1:
                    report(figures(operations.fs, operations.requests), operations.fs)
                else:
                    pyfuse3.terminate()
        finally:
            signal.pthread_sigmask(signal.SIG_BLOCK, ending)


async def _end_with(lifeline: int) -> None:
    # Nothing is ever sent on it after the start, so that it is readable means that the other end is gone.
    await trio.lowlevel.wait_readable(lifeline)
    pyfuse3.terminate()
