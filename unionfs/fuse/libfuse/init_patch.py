"""The first exchange on a connection, in which kernel and server agree on what they can do.

libfuse answers it, and pyfuse3 has no say in most of what is agreed on. So the two are introduced by us: pyfuse3
gets a socket in the place of /dev/fuse; the kernel's INIT is forwarded, libfuse's answer completed and sent on, and
then the real descriptor takes the socket's place under the same number (Corrections 1). The layouts are those of
linux/fuse.h: ``fuse_in_header`` (40 bytes) before ``fuse_init_in``, ``fuse_out_header`` (16 bytes) before
``fuse_init_out``; ``flags`` is the fourth number of both.
"""

from __future__ import annotations

import os
import socket
import struct

from unionfs._stdlib.dataclasses import dataclass

#: The umask is ours to apply: a default ACL takes its place (acl(5), "OBJECT CREATION AND DEFAULT ACLs").
FUSE_DONT_MASK = 1 << 6
#: The targets of symbolic links may be kept.
FUSE_CACHE_SYMLINKS = 1 << 23
#: Set-id bits and capabilities go by themselves when contents change, so that the kernel need not ask before each
#: write whether there are any.
FUSE_HANDLE_KILLPRIV_V2 = 1 << 28

WANTED = FUSE_DONT_MASK | FUSE_CACHE_SYMLINKS | FUSE_HANDLE_KILLPRIV_V2

#: FUSE_MIN_READ_BUFFER, what the kernel wants to be read with; INIT is far shorter.
_BUFFER = 8192
_FLAGS_OF_REQUEST = 40 + 12
_FLAGS_OF_REPLY = 16 + 12


@dataclass(slots=True)
class InitExchange:
    """One connection between its first request and the answer to it."""

    #: What pyfuse3 is to serve; later the connection itself.
    fd: int
    _fuse_fd: int
    _far_end: socket.socket
    _offered: int

    @property
    def agreed(self) -> int:
        """Which of WANTED this kernel knows."""
        return self._offered & WANTED

    def finish(self) -> None:
        """Send the answer on. To be called when libfuse has given it; what comes after goes past us."""
        reply = bytearray(self._far_end.recv(_BUFFER))
        if len(reply) >= _FLAGS_OF_REPLY + 4:  # else it is an error, which has no flags
            (flags,) = struct.unpack_from("=I", reply, _FLAGS_OF_REPLY)
            struct.pack_into("=I", reply, _FLAGS_OF_REPLY, flags | self.agreed)
        os.write(self._fuse_fd, reply)
        os.dup2(self._fuse_fd, self.fd, inheritable=False)
        self.close()

    def close(self) -> None:
        """Let go of what only the exchange needed."""
        self._far_end.close()
        if self._fuse_fd >= 0:
            os.close(self._fuse_fd)
            self._fuse_fd = -1


def begin(fuse_fd: int, request: bytes = b"") -> InitExchange:
    """Take over the mounted *fuse_fd* and wait for the kernel's first request, which the mount has already caused.

    *request* is that, where it has been read.

    Raises:
        OSError: ENODEV if it has been unmounted in the meantime.
    """
    try:
        request = request or os.read(fuse_fd, _BUFFER)
    except OSError:
        os.close(fuse_fd)
        raise
    near_end, far_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    far_end.send(request)
    offered = (
        struct.unpack_from("=I", request, _FLAGS_OF_REQUEST)[0]
        if len(request) >= _FLAGS_OF_REQUEST + 4
        else 0
    )
    return InitExchange(near_end.detach(), fuse_fd, far_end, offered)
