"""Bring up the loopback interface of a new network namespace; netdevice(7).

The module uses an ioctl instead of netlink: importing a netlink library takes longer than the whole start of a sandbox.
"""

from __future__ import annotations

import fcntl

# Imported at module level: after pivot_root an import would find modules in the sandbox's files and execute them.
import socket
import struct

_SIOCGIFFLAGS = 0x8913
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 0x1
_IFREQ = struct.Struct("16sh22x")  # struct ifreq: the name, the flags, the rest of the union


def interface_flags(name: str) -> int:
    """Return the IFF_* flags of the interface *name* of this network namespace.

    Raises:
        OSError: ENODEV if there is no such interface.
    """
    return _flags_ioctl(_SIOCGIFFLAGS, name, 0)


def loopback_up() -> None:
    """Bring up ``lo`` of this network namespace; the kernel then assigns 127.0.0.1 and ::1.

    Raises:
        OSError: EPERM without CAP_NET_ADMIN over the network namespace.
    """
    _flags_ioctl(_SIOCSIFFLAGS, "lo", interface_flags("lo") | _IFF_UP)


def _flags_ioctl(request: int, name: str, flags: int) -> int:
    # A unix socket supports interface ioctls too, and works if the kernel has no IPv4 or a filter forbids it.
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        try:
            answer = fcntl.ioctl(channel, request, _IFREQ.pack(name.encode(), flags))
        except OSError as error:
            raise OSError(error.errno, error.strerror, name) from None
    result: int = _IFREQ.unpack(answer)[1]
    return result
