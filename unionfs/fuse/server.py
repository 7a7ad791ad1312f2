"""The serving loop: from a :class:`~unionfs.core.UnionFs` and a mount point, or an open /dev/fuse, to the end
of the mount.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable

import pyfuse3
import trio

from unionfs.core import UnionFs
from unionfs.fuse.operations import UnionOperations
from unionfs.fuse.waiting import TrioForPyfuse3, ignore_tick

log = logging.getLogger(__name__)

#: An exception that gets out of pyfuse3's loop is a bug; after this many the mount is given up rather than
#: served by luck.
_MAX_RESTARTS = 100


def serve(
    fs: UnionFs,
    mountpoint: str,
    options: set[str],
    *,
    on_ready: Callable[[], None],
    mounted_here: bool,
    lifeline: int | None = None,
) -> int:
    """Serve *fs* until it is unmounted or a signal asks for the end.

    Args:
        fs: closed at the end.
        mountpoint: a directory, or ``/dev/fd/N`` for a /dev/fuse that somebody has mounted already.
        options: for libfuse.
        on_ready: called when the mount can be used.
        mounted_here: unmount at the end.
        lifeline: a socket whose other end's closing ends the serving, too.

    Returns:
        The exit status: 0, or 1 if the loop had to be given up.

    Raises:
        RuntimeError: libfuse could not mount; it says why on standard error.
    """
    operations = UnionOperations(fs, on_ready)
    pyfuse3.init(operations, mountpoint, options)
    try:
        return trio.run(_main, operations, lifeline)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        pyfuse3.close(unmount=mounted_here)
        fs.close()


async def _main(operations: UnionOperations, lifeline: int | None) -> int:
    signal.signal(signal.SIGALRM, ignore_tick)
    pyfuse3.trio = TrioForPyfuse3()  # type: ignore[attr-defined]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_handle_signals, operations)
        if lifeline is not None:
            nursery.start_soon(_end_with, lifeline)
        status = await _serve_until_unmounted()
        nursery.cancel_scope.cancel()
    return status


async def _serve_until_unmounted() -> int:
    for _ in range(_MAX_RESTARTS):
        try:
            # One worker: handlers never wait, so a second one would only be scheduled in between.
            await pyfuse3.main(max_tasks=1)
        except Exception:
            log.exception("the serving loop failed; going on")
        else:
            return 0
    return 1


async def _handle_signals(operations: UnionOperations) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1) as signals:
        async for number in signals:
            if number == signal.SIGUSR1:
                log.warning("statistics: %s", statistics(operations))
            else:
                pyfuse3.terminate()


async def _end_with(lifeline: int) -> None:
    # Nothing is ever sent on it after the start, so that it is readable means that the other end is gone.
    await trio.lowlevel.wait_readable(lifeline)
    pyfuse3.terminate()


def statistics(operations: UnionOperations) -> str:
    """Return one line of figures: nodes, handles, descriptors, copies and requests by kind."""
    fs = operations.fs
    fields = [
        f"nodes={len(fs.tree)}",
        f"handles={len(fs.handles)}",
        f"directory-fds={len(fs.tree.layers[0].fds)}",
    ]
    if fs.writable is not None:
        fields += [f"copies={fs.writable.copy_up.copies}", f"copied-bytes={fs.writable.copy_up.bytes}"]
    fields += [f"{kind}={count}" for kind, count in sorted(operations.requests.items())]
    return " ".join([*fields, f"pid={os.getpid()}"])
