"""Look for a table of nftables, and notice that others change it; linux/netfilter/nf_tables.h. nft(8) makes the rules."""

from __future__ import annotations

import errno
import socket
import struct

from sandbox.kernel import netlink

_NETFILTER = 12  # NETLINK_NETFILTER
_SUBSYSTEM = 10 << 8  # NFNL_SUBSYS_NFTABLES
_GET_TABLE = _SUBSYSTEM | 1  # NFT_MSG_GETTABLE
_DELETIONS = frozenset(
    _SUBSYSTEM | one for one in (2, 5, 8, 11, 14)
)  # NFT_MSG_DEL*: table, chain, rule, set, element
_EVENTS = 1 << (7 - 1)  # NFNLGRP_NFTABLES
_TABLE = 1  # NFTA_*_TABLE of every such message, and NFTA_TABLE_NAME
_INET = 1  # NFPROTO_INET
_HEADER = struct.Struct("=BBH")  # struct nfgenmsg: family, version, resource


def open_socket(*, watch: bool = False) -> socket.socket:
    """Return a socket of nftables in this network namespace; with *watch* it receives all changes of tables.

    Raises:
        OSError: the kernel has no netfilter; EPERM without CAP_NET_ADMIN.
    """
    return netlink.open_socket(_EVENTS if watch else 0, protocol=_NETFILTER)


def has_table(name: str) -> bool:
    """Return whether this network namespace has the table *name* of the family inet.

    Raises:
        OSError: the kernel has no nftables; EPERM without CAP_NET_ADMIN.
    """
    payload = _HEADER.pack(_INET, 0, 0) + netlink.attribute(_TABLE, netlink.text(name))
    with open_socket() as sock:
        try:
            netlink.change(sock, _GET_TABLE, payload)
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise
            return False
    return True


def is_reduced(sock: socket.socket, name: str) -> bool:
    """Read the next changes from *sock*, which watches; return whether a part of the table *name* of the family inet was removed.

    Raises:
        OSError: ENOBUFS if the kernel had to drop messages.
    """
    for kind, payload in netlink.received(sock):
        if kind in _DELETIONS and payload[0] == _INET:
            found = netlink.attributes(payload[_HEADER.size :])
            if found.get(_TABLE) == netlink.text(name):
                return True
    return False
