"""Choose the FUSE server (direct or pyfuse3), import it and run it.

Only the chosen server is imported: importing pyfuse3 and trio takes 0.1 s.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from unionfs._stdlib.dataclasses import dataclass
from unionfs.fuse.lifeline import Lifeline
from unionfs.fuse.protocol import IN_HEADER, INIT_IN, Opcode, too_old
from unionfs.options import Optimization, Server, Serving
from unionfs.vfs.filesystem import UnionFs

#: Signals that end the server.
ENDING = frozenset((signal.SIGTERM, signal.SIGINT, signal.SIGHUP))
#: FUSE_MIN_READ_BUFFER: the kernel refuses reads with a smaller buffer. INIT is far shorter.
_BUFFER = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The server chosen for one mount, and its options."""

    #: DIRECT or PYFUSE3.
    server: Server
    #: The kernel sends OPEN and OPENDIR for each open(2) and opendir(3).
    open_requests: bool
    #: Optimizations that the direct server leaves out.
    disabled: frozenset[Optimization] = frozenset()
    #: The kernel's first request (INIT), if it has been read already.
    first: bytes = b""
    #: Why PYFUSE3 was chosen for AUTO; empty if the caller chose the server.
    reason: str = ""


def load(server: Server) -> None:
    """Import the modules of *server*; for AUTO, those of the direct server.

    The caller does this before it drops the right to read these modules, and before it knows what it serves.
    """
    if server is Server.PYFUSE3:
        from unionfs.fuse.libfuse import loop as _pyfuse3  # noqa: F401
    else:
        from unionfs.fuse.direct import loop as _direct  # noqa: F401


def choose(serving: Serving, fuse_fd: int) -> Choice:
    """Choose the server for *fuse_fd*, a mounted /dev/fuse, and import it.

    For AUTO, this reads the kernel's first request, which contains the kernel's FUSE version.

    Raises:
        ImportError: the server cannot be imported.
    """
    server, first, reason = serving.server, b"", ""
    if server is Server.AUTO:
        try:
            first = os.read(fuse_fd, _BUFFER)
        except OSError:  # the server's own read will fail with the same error
            pass
        reason = _too_old(first) or ""
        server = Server.PYFUSE3 if reason else Server.DIRECT
    load(server)
    return Choice(
        server=server,
        open_requests=serving.open_requests or bool(reason),
        disabled=serving.disabled,
        first=first,
        reason=reason,
    )


def _too_old(request: bytes) -> str | None:
    if len(request) < IN_HEADER.size + INIT_IN.size:
        return None
    _, opcode, _, _, _, _, _, _, _ = IN_HEADER.unpack_from(request)
    return too_old(request[IN_HEADER.size :]) if opcode == Opcode.INIT else None


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
            first=choice.first,
        )
    from unionfs.fuse.libfuse import loop as pyfuse3

    return pyfuse3.serve(
        fs,
        fuse_fd,
        ending=ENDING,
        on_ready=on_ready,
        lifeline=lifeline,
        callers_visible=callers_visible,
        first=choice.first,
    )
