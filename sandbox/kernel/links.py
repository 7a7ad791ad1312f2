"""Make and configure network interfaces; rtnetlink(7), linux/if_link.h, linux/if_addr.h."""

from __future__ import annotations

import errno
import fcntl
import socket
import struct

from sandbox.kernel import netlink

_NEW_LINK, _DELETE_LINK, _NEW_ADDRESS = 16, 17, 20  # RTM_*
_NAME, _MASTER, _LINK_INFO, _NAMESPACE = (
    3,
    10,
    18,
    28,
)  # IFLA_IFNAME, IFLA_MASTER, IFLA_LINKINFO, IFLA_NET_NS_FD
_PROTOCOL_INFO = 12  # IFLA_PROTINFO
_KIND, _DATA, _PEER = 1, 2, 1  # IFLA_INFO_KIND, IFLA_INFO_DATA, VETH_INFO_PEER
_ISOLATED = 33  # IFLA_BRPORT_ISOLATED
_ADDRESS, _LOCAL = 1, 2  # IFA_ADDRESS, IFA_LOCAL
_NO_DUPLICATE_DETECTION = 0x02  # IFA_F_NODAD
_UP = 0x1  # IFF_UP
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


def add_pair(sock: socket.socket, name: str, peer: str, peer_namespace_fd: int) -> None:
    """Make a pair of connected interfaces (veth(4)): *name* in the namespace of *sock*, *peer* in that of *peer_namespace_fd*.

    Raises:
        OSError: EEXIST if a name is in use; EPERM without CAP_NET_ADMIN over both namespaces; EOPNOTSUPP without veth.
    """
    other = _LINK_HEADER.pack(0, 0, 0, 0, 0)
    other += netlink.attribute(_NAME, netlink.text(peer))
    other += netlink.attribute(_NAMESPACE, netlink.number(peer_namespace_fd))
    _add(sock, name, "veth", netlink.nested(_DATA, netlink.attribute(_PEER, other)))


def add_bridge(sock: socket.socket, name: str) -> None:
    """Make a bridge.

    Raises:
        OSError: EEXIST if the name is in use; EPERM without CAP_NET_ADMIN; EOPNOTSUPP without bridges.
    """
    _add(sock, name, "bridge")


def _add(sock: socket.socket, name: str, kind: str, data: bytes = b"") -> None:
    info = netlink.nested(_LINK_INFO, netlink.attribute(_KIND, netlink.text(kind)), data)
    payload = _LINK_HEADER.pack(0, 0, 0, 0, 0) + netlink.attribute(_NAME, netlink.text(name)) + info
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


def set_up(sock: socket.socket, index: int, *, bridge: int = 0) -> None:
    """Bring up the interface *index*, as a port of *bridge* (an index) if that is not 0.

    Raises:
        OSError: EPERM without CAP_NET_ADMIN; ENODEV if there is no such interface.
    """
    payload = _LINK_HEADER.pack(0, 0, index, _UP, _UP)
    payload += netlink.attribute(_MASTER, netlink.number(bridge)) if bridge else b""
    netlink.change(sock, _NEW_LINK, payload)


def isolate(sock: socket.socket, index: int) -> None:
    """Let the bridge forward nothing between the port *index* and other isolated ports; bridge(8).

    Raises:
        OSError: EPERM without CAP_NET_ADMIN; EOPNOTSUPP before Linux 4.18.
    """
    payload = _LINK_HEADER.pack(socket.AF_BRIDGE, 0, index, 0, 0)
    netlink.change(
        sock, _NEW_LINK, payload + netlink.nested(_PROTOCOL_INFO, netlink.attribute(_ISOLATED, b"\1"))
    )


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
