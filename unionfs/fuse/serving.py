"""Which of the two servers serves, imported only if it does: pyfuse3 and trio take a tenth of a second."""

from __future__ import annotations

import signal
from collections.abc import Callable

from unionfs.core import UnionFs
from unionfs.options import Server, Serving

#: Signals that ask for the end.
ENDING = frozenset((signal.SIGTERM, signal.SIGINT, signal.SIGHUP))


def load(server: Server) -> None:
    """Import what *server* needs: a process that is about to lose the right to read it does so first."""
    if server is Server.PYFUSE3:
        from unionfs.fuse import server as _pyfuse3  # noqa: F401
    else:
        from unionfs.fuse import direct as _direct  # noqa: F401


def serve(
    serving: Serving,
    fs: UnionFs,
    fuse_fd: int,
    *,
    on_ready: Callable[[], None],
    lifeline: int | None = None,
) -> int:
    """Serve *fs* until it is unmounted or a signal asks for the end.

    Args:
        serving: how.
        fs: closed at the end.
        fuse_fd: a /dev/fuse that has been mounted; taken over.
        on_ready: called when the mount can be used.
        lifeline: a socket whose other end's closing ends the serving, too.

    Returns:
        The exit status: 0, or 1 if the loop had to be given up.

    Raises:
        OSError: the descriptor is of no mount, or the kernel could not be answered.
        UnionError: the kernel is too old.
    """
    if serving.server is Server.DIRECT:
        from unionfs.fuse import direct

        return direct.serve(
            fs,
            fuse_fd,
            ending=ENDING,
            on_ready=on_ready,
            lifeline=lifeline,
            unopened=not serving.open_requests,
        )
    from unionfs.fuse import server as pyfuse3

    return pyfuse3.serve(fs, fuse_fd, ending=ENDING, on_ready=on_ready, lifeline=lifeline)
