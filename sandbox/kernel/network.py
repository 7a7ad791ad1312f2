"""Bringing up the loopback interface of a new network namespace; netdevice(7).

One ioctl instead of netlink, because importing a netlink library costs more than a whole start (see DESIGN, 23).
"""

from __future__ import annotations

import fcntl

# Here and not in the function: after pivot_root an import would look for modules in the sandbox's files, and run them.
import socket
import struct

_SIOCGIFFLAGS = 0x8913
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 0x1
_IFREQ = struct.Struct("16sh22x")  # struct ifreq: the name, the flags, the rest of the union


def interface_flags(name: str) -> int:
    """Return the IFF_* flags of the interface *name* of this network namespace.

    Raises:
        OSError: ENODEV when there is no such interface.
    """
    return _flags_ioctl(_SIOCGIFFLAGS, name, 0)


def loopback_up() -> None:
    """Bring up ``lo`` of this network namespace; the kernel then gives it 127.0.0.1 and ::1 itself.

    Raises:
        OSError: EPERM without CAP_NET_ADMIN over the network namespace.
    """
    _flags_ioctl(_SIOCSIFFLAGS, "lo", interface_flags("lo") | _IFF_UP)


def _flags_ioctl(request: int, name: str, flags: int) -> int:
    # A unix socket carries interface ioctls as well, and exists where a kernel or a filter has no IPv4.
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        try:
            answer = fcntl.ioctl(channel, request, _IFREQ.pack(name.encode(), flags))
        except OSError as error:
            raise OSError(error.errno, error.strerror, name) from None
    result: int = _IFREQ.unpack(answer)[1]
    return result
