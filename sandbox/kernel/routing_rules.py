"""Change the rules by which the kernel selects a table of routes for a packet of IPv4; ip-rule(8), linux/fib_rules.h."""

from __future__ import annotations

import errno
import socket
import struct

from sandbox.kernel import netlink
from sandbox.kernel.routes import LOCAL_TABLE, Route
from unionfs._stdlib.dataclasses import dataclass

_NEW_RULE, _DELETE_RULE = 32, 33  # RTM_*
_DESTINATION, _SOURCE, _INPUT_INTERFACE, _PRIORITY, _IP_PROTOCOL = 1, 2, 3, 6, 22  # FRA_*
_TO_TABLE, _PROHIBIT = 1, 8  # FR_ACT_*
#: struct fib_rule_hdr: family, lengths of destination and source, type of service, table, two unused bytes, action, flags.
_HEADER = struct.Struct("=BBBBBBBBI")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A rule that selects a table of routes for some packets, or prohibits them."""

    #: The kernel applies the rule with the least number first.
    priority: int
    #: The table that such packets use; None to prohibit them.
    table: int | None
    source: Route | None = None
    destination: Route | None = None
    #: The interface at which they arrive.
    interface: str = ""
    #: IPPROTO_*; 0 for all.
    protocol: int = 0

    def payload(self) -> bytes:
        """Return the rule as netlink has it."""
        lengths = [0 if one is None else one.length for one in (self.destination, self.source)]
        action = _PROHIBIT if self.table is None else _TO_TABLE
        payload = _HEADER.pack(socket.AF_INET, *lengths, 0, self.table or 0, 0, 0, action, 0)
        for kind, route in ((_DESTINATION, self.destination), (_SOURCE, self.source)):
            if route is not None and route.length:
                payload += netlink.attribute(kind, route.destination)
        if self.interface:
            payload += netlink.attribute(_INPUT_INTERFACE, netlink.text(self.interface))
        if self.protocol:
            payload += netlink.attribute(_IP_PROTOCOL, bytes([self.protocol]))
        return payload + netlink.attribute(_PRIORITY, netlink.number(self.priority))


LOCAL_RULE = Rule(priority=0, table=LOCAL_TABLE)
"""The rule that every network namespace has first."""


def add_rule(sock: socket.socket, rule: Rule) -> bool:
    """Add *rule*; return False if it exists already.

    Raises:
        OSError: the kernel refuses it: EOPNOTSUPP without CONFIG_IP_MULTIPLE_TABLES, EPERM.
    """
    try:
        netlink.change(sock, _NEW_RULE, rule.payload(), netlink.CREATE | netlink.EXCLUSIVE)
    except OSError as error:
        if error.errno != errno.EEXIST:
            raise
        return False
    return True


def remove_rule(sock: socket.socket, rule: Rule) -> None:
    """Remove *rule*; one that is missing is no error.

    Raises:
        OSError: EPERM without CAP_NET_ADMIN in the user namespace that owns the network namespace.
    """
    try:
        netlink.change(sock, _DELETE_RULE, rule.payload())
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
