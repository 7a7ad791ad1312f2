"""Which of the two servers serves, imported only if it does: pyfuse3 and trio take a tenth of a second."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from unionfs._stdlib.dataclasses import dataclass
from unionfs.fuse.protocol import IN_HEADER, INIT_IN, Opcode, too_old
from unionfs.options import Server, Serving, Trick
from unionfs.vfs.filesystem import UnionFs

#: Signals that ask for the end.
ENDING = frozenset((signal.SIGTERM, signal.SIGINT, signal.SIGHUP))
#: FUSE_MIN_READ_BUFFER, what the kernel wants to be read with; INIT is far shorter.
_BUFFER = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Who serves one mount."""

    #: DIRECT or PYFUSE3.
    server: Server
    #: Be told of each open(2) and opendir(3).
    open_requests: bool
    #: What the direct server does without.
    without: frozenset[Trick] = frozenset()
    #: The kernel's first request, where it has been read.
    first: bytes = b""
    #: Why it is PYFUSE3 although nobody asked for that; empty otherwise.
    reason: str = ""


def load(server: Server) -> None:
    """Import what *server* needs, of AUTO what is needed as a rule: before it is known what is to be served, and before
    a process loses the right to read it.
    """
    if server is Server.PYFUSE3:
        from unionfs.fuse.libfuse import loop as _pyfuse3  # noqa: F401
    else:
        from unionfs.fuse.direct import loop as _direct  # noqa: F401


def choose(serving: Serving, fuse_fd: int) -> Choice:
    """Choose who serves *fuse_fd*, a /dev/fuse that has been mounted, and import what that needs.

    For AUTO the kernel's first request is read, which tells how old it is.

    Raises:
        ImportError: it cannot be loaded.
    """
    server, first, reason = serving.server, b"", ""
    if server is Server.AUTO:
        try:
            first = os.read(fuse_fd, _BUFFER)
        except OSError:  # whoever serves is told the same
            pass
        reason = _too_old(first) or ""
        server = Server.PYFUSE3 if reason else Server.DIRECT
    load(server)
    return Choice(
        server=server,
        open_requests=serving.open_requests or bool(reason),
        without=serving.without,
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
    lifeline: int | None = None,
    callers_visible: bool = True,
) -> int:
    """Serve *fs* until it is unmounted or a signal asks for the end.

    Args:
        choice: how.
        fs: closed at the end.
        fuse_fd: a /dev/fuse that has been mounted; taken over.
        on_ready: called when the mount can be used.
        lifeline: a socket whose other end's closing ends the serving, too.
        callers_visible: process ids in requests are of this process's own pid namespace.

    Returns:
        The exit status: 0, or 1 if the loop had to be given up.

    Raises:
        OSError: the descriptor is of no mount, or the kernel could not be answered.
        UnionError: the kernel is too old for the direct server, which was asked for.
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
            without=choice.without,
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
