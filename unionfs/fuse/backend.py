"""Choose the FUSE server (direct or pyfuse3), import it and run it.

Only the chosen server is imported: importing pyfuse3 and trio takes 0.1 s.
"""

from __future__ import annotations

import signal
from collections.abc import Callable

from unionfs._stdlib.dataclasses import dataclass
from unionfs.fuse.lifeline import Lifeline
from unionfs.options import Optimization, Server, Serving
from unionfs.vfs.filesystem import UnionFs

#: Signals that end the server.
ENDING = frozenset((signal.SIGTERM, signal.SIGINT, signal.SIGHUP))


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The server chosen for one mount, and its options."""

    #: DIRECT or PYFUSE3.
    server: Server
    #: The kernel sends OPEN and OPENDIR for each open(2) and opendir(3).
    open_requests: bool
    #: Optimizations that the direct server leaves out.
    disabled: frozenset[Optimization] = frozenset()


def load(server: Server) -> None:
    """Import the modules of *server*; for AUTO, those of the direct server.

    The caller does this before it drops the right to read these modules, and before it knows what it serves.
    """
    if server is Server.PYFUSE3:
        from unionfs.fuse.libfuse import loop as _pyfuse3  # noqa: F401
    else:
        from unionfs.fuse.direct import loop as _direct  # noqa: F401


def choose(serving: Serving) -> Choice:
    """Choose the server, and import it. AUTO is the direct server, which supports every kernel since Linux 4.2 (FUSE 7.23).

    Raises:
        ImportError: the server cannot be imported.
    """
    server = Server.DIRECT if serving.server is Server.AUTO else serving.server
    load(server)
    return Choice(server=server, open_requests=serving.open_requests, disabled=serving.disabled)


def serve(
    choice: Choice,
    fs: UnionFs,
    fuse_fd: int,
    *,
    on_ready: Callable[[], None],
    lifeline: Lifeline | None = None,
    callers_visible: bool = True,
) -> int:
    """Serve *fs* until it is unmounted or a signal ends the server.

    Args:
        choice: the server and its options.
        fs: closed at the end.
        fuse_fd: a mounted /dev/fuse; taken over.
        on_ready: called when the mount can be used.
        lifeline: handled when it can be read; the server also ends when its other end is closed.
        callers_visible: process ids in requests belong to this process's own pid namespace.

    Returns:
        The exit status: 0, or 1 if the server gave up after repeated failures of its loop.

    Raises:
        OSError: the descriptor belongs to no mount, or the reply to the kernel could not be written.
        UnionError: the direct server was requested, but the kernel is too old for it.
    """
    if choice.server is Server.DIRECT:
        from unionfs.fuse.direct import loop

        return loop.serve(
            fs,
            fuse_fd,
            ending=ENDING,
            on_ready=on_ready,
            lifeline=lifeline,
            callers_visible=callers_visible,
            unopened=not choice.open_requests,
            disabled=choice.disabled,
        )
    from unionfs.fuse.libfuse import loop as pyfuse3

    return pyfuse3.serve(
        fs,
        fuse_fd,
        ending=ENDING,
        on_ready=on_ready,
        lifeline=lifeline,
        callers_visible=callers_visible,
    )
