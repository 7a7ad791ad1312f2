"""Patch the reply to INIT, with which kernel and server negotiate their features.

libfuse sends this reply, and pyfuse3 does not expose most of its flags. So pyfuse3 gets a socket in place of /dev/fuse. The
kernel's INIT is forwarded to the socket. Flags are added to libfuse's reply, which is then sent to the kernel. At last
dup2(2) replaces the socket by the /dev/fuse descriptor, under the same number.

The layouts are those of linux/fuse.h: ``fuse_in_header`` (40 bytes) precedes ``fuse_init_in``, and ``fuse_out_header`` (16
bytes) precedes ``fuse_init_out``; ``flags`` is the fourth integer of both.
"""

from __future__ import annotations

import os
import socket
import struct

from unionfs._stdlib.dataclasses import dataclass

#: The server applies the umask, because a default ACL replaces it (acl(5), "OBJECT CREATION AND DEFAULT ACLs").
FUSE_DONT_MASK = 1 << 6
#: The kernel may cache the targets of symbolic links.
FUSE_CACHE_SYMLINKS = 1 << 23
#: The server clears set-id bits and capabilities when contents change. So the kernel need not look for them before each write.
FUSE_HANDLE_KILLPRIV_V2 = 1 << 28

WANTED = FUSE_DONT_MASK | FUSE_CACHE_SYMLINKS | FUSE_HANDLE_KILLPRIV_V2

#: FUSE_MIN_READ_BUFFER: the kernel refuses reads with a smaller buffer. INIT is far shorter.
_BUFFER = 8192
_FLAGS_OF_REQUEST = 40 + 12
_FLAGS_OF_REPLY = 16 + 12


@dataclass(slots=True)
class InitExchange:
    """A connection between the kernel's INIT and the reply.

    It owns /dev/fuse and the far end of the socket pair until :meth:`finish` or :meth:`close`.
    """

    #: The descriptor that pyfuse3 serves: a socket first, /dev/fuse after :meth:`finish`.
    fd: int
    _fuse_fd: int
    _far_end: socket.socket
    _offered: int

    @property
    def negotiated(self) -> int:
        """The flags of WANTED that the kernel supports."""
        return self._offered & WANTED

    def finish(self) -> None:
        """Send libfuse's reply to the kernel with the additional flags, and put /dev/fuse in the socket's place.

        To be called after libfuse has written its reply. Later requests go to libfuse directly.
        """
        reply = bytearray(self._far_end.recv(_BUFFER))
        if len(reply) >= _FLAGS_OF_REPLY + 4:  # a shorter reply is an error and has no flags
            (flags,) = struct.unpack_from("=I", reply, _FLAGS_OF_REPLY)
            struct.pack_into("=I", reply, _FLAGS_OF_REPLY, flags | self.negotiated)
        os.write(self._fuse_fd, reply)
        os.dup2(self._fuse_fd, self.fd, inheritable=False)
        self.close()

    def close(self) -> None:
        """Close the descriptors that only the exchange needs."""
        self._far_end.close()
        if self._fuse_fd >= 0:
            os.close(self._fuse_fd)
            self._fuse_fd = -1


def begin(fuse_fd: int) -> InitExchange:
    """Take over the mounted *fuse_fd*, and wait for INIT, which the kernel sends at the mount.

    Raises:
        OSError: ENODEV if the file system has been unmounted meanwhile.
    """
    try:
        request = os.read(fuse_fd, _BUFFER)
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
