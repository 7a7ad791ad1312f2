"""A classic BPF filter for a packet socket that passes only the beginnings of what the gate may refuse; packet(7).

The kernel itself refuses these packets at once: RST for a TCP port without a listener, "port unreachable" for UDP. The packet
socket only shows them, so that the log can name them. It passes a copy of the first `SNAPSHOT` bytes of

- TCP segments that open a connection
- UDP datagrams to another port than 53
- echo requests (ping)
"""

from __future__ import annotations

import array
import socket
import struct

from sandbox.network.addresses import unpack
from unionfs._stdlib.dataclasses import dataclass
from unionfs._stdlib.typing import Literal

SNAPSHOT = 128
_SO_ATTACH_FILTER = 26
_TCP, _UDP, _ICMP, _ICMP6 = 6, 17, 1, 58
_DNS = 53

# Codes of instructions (linux/bpf_common.h): load a word, half word or byte at an absolute position or behind X; jumps; return.
_LDB, _LDH_X, _LDB_X, _LDX_HEADER = 0x30, 0x48, 0x50, 0xB1
_LDW, _LDH, _JEQ, _JSET, _RET, _AND, _LDX = 0x20, 0x28, 0x15, 0x45, 0x06, 0x54, 0x01
_PACKET_TYPE = 0xFFFFF004  # SKF_AD_OFF + SKF_AD_PKTTYPE
_PACKET_HOST = 0

#: Instructions with the names of the targets of their jumps; "next" is the following one.
_PROGRAM: tuple[tuple[str, int, str, str, int], ...] = (
    ("", _LDW, "next", "next", _PACKET_TYPE),
    ("", _JEQ, "next", "drop", _PACKET_HOST),  # it came from the sandbox, and is no broadcast
    ("", _LDB, "next", "next", 0),
    ("", _AND, "next", "next", 0xF0),
    ("", _JEQ, "ipv4", "next", 0x40),
    ("", _JEQ, "ipv6", "drop", 0x60),
    ("ipv4", _LDH, "next", "next", 6),
    ("", _JSET, "drop", "next", 0x1FFF),  # a later fragment has no header of TCP or UDP
    ("", _LDX_HEADER, "next", "next", 0),  # X is the length of the IP header
    ("", _LDB, "next", "next", 9),
    ("", _JEQ, "tcp", "next", _TCP),
    ("", _JEQ, "udp", "next", _UDP),
    ("", _JEQ, "icmp", "drop", _ICMP),
    ("ipv6", _LDX, "next", "next", 40),
    ("", _LDB, "next", "next", 6),
    ("", _JEQ, "tcp", "next", _TCP),
    ("", _JEQ, "udp", "next", _UDP),
    ("", _JEQ, "icmp6", "drop", _ICMP6),
    ("tcp", _LDB_X, "next", "next", 13),
    ("", _AND, "next", "next", 0x12),
    ("", _JEQ, "pass", "drop", 0x02),  # SYN without ACK
    ("udp", _LDH_X, "next", "next", 2),
    ("", _JEQ, "drop", "pass", _DNS),
    ("icmp", _LDB_X, "next", "next", 0),
    ("", _JEQ, "pass", "drop", 8),
    ("icmp6", _LDB_X, "next", "next", 0),
    ("", _JEQ, "pass", "drop", 128),
    ("pass", _RET, "next", "next", SNAPSHOT),
    ("drop", _RET, "next", "next", 0),
)


def program() -> bytes:
    """Return the filter as struct sock_filter."""
    places = {name: index for index, (name, *_) in enumerate(_PROGRAM) if name}
    made = b""
    for index, (_, code, if_true, if_false, value) in enumerate(_PROGRAM):
        jumps = [0 if target == "next" else places[target] - index - 1 for target in (if_true, if_false)]
        made += struct.pack("=HBBI", code, *jumps, value)
    return made


def attach_refusal_filter(one: socket.socket) -> None:
    """Attach the filter to the packet socket *one*.

    Raises:
        OSError: the kernel has no packet filters.
    """
    instructions = array.array("B", program())
    address, size = instructions.buffer_info()
    one.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", size // 8, address))


@dataclass(frozen=True, slots=True)
class Packet:
    """What a packet is for. *port* is 0 for an echo request."""

    protocol: Literal["tcp", "udp", "icmp"]
    address: bytes
    port: int

    def __str__(self) -> str:
        """Return the destination as the log names it."""
        place = unpack(self.address)
        if self.protocol == "icmp":
            return f"{place} (ping)"
        place = f"[{place}]" if len(self.address) == 16 else place
        return f"{place}:{self.port}/{self.protocol}"


def parse_packet(data: bytes) -> Packet | None:
    """Return the destination of a packet that the filter has passed; None if it is cut off or is none of these."""
    if len(data) >= 20 and data[0] >> 4 == 4:
        start, protocol, address = (data[0] & 15) * 4, data[9], data[16:20]
    elif len(data) >= 40 and data[0] >> 4 == 6:
        start, protocol, address = 40, data[6], data[24:40]
    else:
        return None
    if len(data) < start + 4:
        return None
    if protocol in (_ICMP, _ICMP6):
        return Packet("icmp", address, 0)
    if protocol not in (_TCP, _UDP):
        return None
    port = int.from_bytes(data[start + 2 : start + 4], "big")
    return Packet("tcp" if protocol == _TCP else "udp", address, port)
