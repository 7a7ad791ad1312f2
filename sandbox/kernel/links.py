"""Make and configure network interfaces; rtnetlink(7), linux/if_link.h, linux/if_addr.h."""

from __future__ import annotations

import errno
import fcntl
import socket
import struct

from sandbox.kernel import netlink

_NEW_LINK, _DELETE_LINK, _NEW_ADDRESS = 16, 17, 20  # RTM_*
_HARDWARE_ADDRESS, _NAME, _MASTER = 1, 3, 10  # IFLA_ADDRESS, IFLA_IFNAME, IFLA_MASTER
_LINK_INFO, _FAMILIES, _NAMESPACE = 18, 26, 28  # IFLA_LINKINFO, IFLA_AF_SPEC, IFLA_NET_NS_FD
_KIND, _DATA, _PEER = 1, 2, 1  # IFLA_INFO_KIND, IFLA_INFO_DATA, VETH_INFO_PEER
_PORT_KIND, _PORT_DATA = 4, 5  # IFLA_INFO_SLAVE_KIND, IFLA_INFO_SLAVE_DATA
_ISOLATED, _LOCKED = 33, 39  # IFLA_BRPORT_*
_LEARNING, _FLOODS = 8, (9, 27, 30)  # IFLA_BRPORT_*; UNICAST_FLOOD, MCAST_FLOOD, BCAST_FLOOD
_GENERATION_MODE, _NONE = 8, 1  # IFLA_INET6_ADDR_GEN_MODE, IN6_ADDR_GEN_MODE_NONE
_ADDRESS, _LOCAL = 1, 2  # IFA_ADDRESS, IFA_LOCAL
_NO_DUPLICATE_DETECTION = 0x02  # IFA_F_NODAD
_UP, _NO_ARP = 0x1, 0x80  # IFF_*
_LINK_HEADER = struct.Struct("=BxHiII")  # struct ifinfomsg: family, type, index, flags, mask of flags
_ADDRESS_HEADER = struct.Struct("=BBBBI")  # struct ifaddrmsg: family, prefix length, flags, scope, index
_SIOCGIFINDEX = 0x8933
_IFREQ = struct.Struct("16si20x")  # struct ifreq: the name, the index, the rest of the union


def interface_index(sock: socket.socket, name: str) -> int:
    """Return the index of the interface *name* in the network namespace of *sock*; netdevice(7).

    Raises:
        OSError: ENODEV if there is no such interface.
    """
    answer = fcntl.ioctl(sock, _SIOCGIFINDEX, _IFREQ.pack(name.encode(), 0))
    index: int = _IFREQ.unpack(answer)[1]
    return index


def add_pair(
    sock: socket.socket, name: str, peer: str, peer_namespace_fd: int, *, peer_hardware: bytes = b""
) -> None:
    """Make a pair of connected interfaces (veth(4)): *name* in the namespace of *sock*, *peer* in that of *peer_namespace_fd*.

    *peer* gets the hardware address *peer_hardware*; without it, a random one.

    Raises:
        OSError: EEXIST if a name is in use; EPERM without CAP_NET_ADMIN over both namespaces; EOPNOTSUPP without veth.
    """
    other = _LINK_HEADER.pack(0, 0, 0, 0, 0)
    other += netlink.attribute(_NAME, netlink.text(peer))
    other += netlink.attribute(_NAMESPACE, netlink.number(peer_namespace_fd))
    other += netlink.attribute(_HARDWARE_ADDRESS, peer_hardware) if peer_hardware else b""
    _add(sock, name, "veth", netlink.nested(_DATA, netlink.attribute(_PEER, other)))


def add_bridge(sock: socket.socket, name: str, hardware: bytes) -> None:
    """Make a bridge with the address *hardware*, which does not depend on its ports then.

    Raises:
        OSError: EEXIST if the name is in use; EPERM without CAP_NET_ADMIN; EOPNOTSUPP without bridges.
    """
    _add(sock, name, "bridge", hardware=hardware)


def _add(sock: socket.socket, name: str, kind: str, data: bytes = b"", *, hardware: bytes = b"") -> None:
    info = netlink.nested(_LINK_INFO, netlink.attribute(_KIND, netlink.text(kind)), data)
    payload = _LINK_HEADER.pack(0, 0, 0, 0, 0) + netlink.attribute(_NAME, netlink.text(name)) + info
    payload += netlink.attribute(_HARDWARE_ADDRESS, hardware) if hardware else b""
    netlink.change(sock, _NEW_LINK, payload, netlink.CREATE | netlink.EXCLUSIVE)


def remove(sock: socket.socket, index: int) -> None:
    """Remove the interface *index*; one that is missing is no error.

    Raises:
        OSError: EPERM without CAP_NET_ADMIN.
    """
    try:
        netlink.change(sock, _DELETE_LINK, _LINK_HEADER.pack(0, 0, index, 0, 0))
    except OSError as error:
        if error.errno != errno.ENODEV:
            raise


def set_up(sock: socket.socket, index: int, *, arp: bool = True) -> None:
    """Bring up the interface *index*. Without *arp*, it neither sends nor answers requests of ARP.

    Raises:
        OSError: EPERM without CAP_NET_ADMIN; ENODEV if there is no such interface.
    """
    flags = _UP if arp else _UP | _NO_ARP
    netlink.change(sock, _NEW_LINK, _LINK_HEADER.pack(0, 0, index, flags, flags))


def set_down(sock: socket.socket, index: int) -> None:
    """Bring down the interface *index*. Unlike :func:`remove`, it takes less than a millisecond.

    Raises:
        OSError: EPERM without CAP_NET_ADMIN; ENODEV if there is no such interface.
    """
    netlink.change(sock, _NEW_LINK, _LINK_HEADER.pack(0, 0, index, 0, _UP))


def add_port(sock: socket.socket, index: int, bridge: int) -> None:
    """Make the interface *index* a port of *bridge* that reaches only the machine of the bridge itself; bridge(8).

    The port is isolated from other such ports. It accepts only frames from hardware addresses that the forwarding database has
    for it ("locked"), and sends only frames to these: the bridge learns no address from it, and floods nothing to it.

    Raises:
        OSError: EPERM without CAP_NET_ADMIN; ENODEV if there is no such interface.
    """
    header = _LINK_HEADER.pack(0, 0, index, 0, 0)
    netlink.change(sock, _NEW_LINK, header + netlink.attribute(_MASTER, netlink.number(bridge)))
    options = [(_ISOLATED, 1), (_LOCKED, 1), (_LEARNING, 0), *((flood, 0) for flood in _FLOODS)]
    data = netlink.nested(_PORT_DATA, *(netlink.attribute(kind, bytes([value])) for kind, value in options))
    info = netlink.nested(_LINK_INFO, netlink.attribute(_PORT_KIND, netlink.text("bridge")), data)
    netlink.change(sock, _NEW_LINK, header + info)


def generate_no_address(sock: socket.socket, index: int) -> None:
    """Give the interface *index* no IPv6 address when it comes up. Without IPv6 in the kernel, this does nothing.

    Raises:
        OSError: EPERM without CAP_NET_ADMIN; ENODEV if there is no such interface.
    """
    mode = netlink.nested(socket.AF_INET6, netlink.attribute(_GENERATION_MODE, bytes([_NONE])))
    payload = _LINK_HEADER.pack(0, 0, index, 0, 0) + netlink.nested(_FAMILIES, mode)
    try:
        netlink.change(sock, _NEW_LINK, payload)
    except OSError as error:
        if error.errno not in (errno.EAFNOSUPPORT, errno.EOPNOTSUPP):
            raise


def add_address(sock: socket.socket, index: int, address: str, length: int) -> None:
    """Give the interface *index* the IPv4 or IPv6 *address* with a prefix of *length* bits.

    Raises:
        OSError: EEXIST if it has the address; EPERM without CAP_NET_ADMIN; EACCES if IPv6 is disabled there.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    packed = socket.inet_pton(family, address)
    flags = _NO_DUPLICATE_DETECTION if family == socket.AF_INET6 else 0
    payload = _ADDRESS_HEADER.pack(family, length, flags, 0, index)
    payload += netlink.attribute(_LOCAL, packed) + netlink.attribute(_ADDRESS, packed)
    netlink.change(sock, _NEW_ADDRESS, payload, netlink.CREATE | netlink.EXCLUSIVE)
