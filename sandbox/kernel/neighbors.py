"""Enter the hardware addresses of neighbors, so that no program can announce others; rtnetlink(7), linux/neighbour.h."""

from __future__ import annotations

import socket
import struct

from sandbox.kernel import netlink

_NEW_NEIGHBOR = 28  # RTM_NEWNEIGH
_DESTINATION, _HARDWARE_ADDRESS = 1, 2  # NDA_*
_STATIC, _PERMANENT = 0x40, 0x80  # NUD_NOARP, NUD_PERMANENT
_OF_BRIDGE = 0x04  # NTF_MASTER
_HEADER = struct.Struct("=BxxxiHBB")  # struct ndmsg: family, index, state, flags, type


def add_neighbor(sock: socket.socket, index: int, address: str, hardware: bytes) -> None:
    """Enter that the IPv4 *address* on the interface *index* is at *hardware*; the kernel sends no ARP request for it then.

    Raises:
        OSError: EPERM without CAP_NET_ADMIN; ENETDOWN if the interface is not up.
    """
    payload = _HEADER.pack(socket.AF_INET, index, _PERMANENT, 0, 0)
    payload += netlink.attribute(_DESTINATION, socket.inet_aton(address))
    payload += netlink.attribute(_HARDWARE_ADDRESS, hardware)
    netlink.change(sock, _NEW_NEIGHBOR, payload, netlink.CREATE | netlink.REPLACE)


def add_forwarding(sock: socket.socket, port: int, hardware: bytes) -> None:
    """Enter in the forwarding database of a bridge that *hardware* is at its port with the index *port*; bridge(8).

    Raises:
        OSError: EPERM without CAP_NET_ADMIN; EINVAL if the interface is no port.
    """
    payload = _HEADER.pack(socket.AF_BRIDGE, port, _STATIC, _OF_BRIDGE, 0)
    payload += netlink.attribute(_HARDWARE_ADDRESS, hardware)
    netlink.change(sock, _NEW_NEIGHBOR, payload, netlink.CREATE | netlink.REPLACE)
