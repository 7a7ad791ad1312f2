"""Destinations of packets. That the kernel accepts the filter, and what it passes, is tested in tests/kernel."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from sandbox.network.addresses import pack
from sandbox.network.packet_filter import Packet, parse_packet, program


def ipv4(protocol: int, payload: bytes, options: bytes = b"") -> bytes:
    words = 5 + len(options) // 4
    return (
        bytes([0x40 | words])
        + bytes(8)
        + bytes([protocol])
        + bytes(6)
        + pack("203.0.113.1")
        + options
        + payload
    )


def ipv6(protocol: int, payload: bytes) -> bytes:
    return b"\x60" + bytes(5) + bytes([protocol]) + bytes(17) + pack("2001:db8::1") + payload


PORTS = struct.pack("!HH", 40000, 443) + bytes(16)


def test_destinations() -> None:
    found = [
        parse_packet(data)
        for data in (
            ipv4(6, PORTS),
            ipv4(17, PORTS, bytes(8)),
            ipv4(1, PORTS),
            ipv6(6, PORTS),
            ipv6(17, PORTS),
            ipv6(58, PORTS),
        )
    ]
    assert [str(one) for one in found] == [
        "203.0.113.1:443/tcp",
        "203.0.113.1:443/udp",
        "203.0.113.1 (ping)",
        "[2001:db8::1]:443/tcp",
        "[2001:db8::1]:443/udp",
        "2001:db8::1 (ping)",
    ]


@given(st.binary(max_size=128))
def test_any_bytes_have_a_destination_or_none(data: bytes) -> None:
    found = parse_packet(data)
    assert found is None or isinstance(found, Packet)


def test_the_filter_consists_of_whole_instructions() -> None:
    assert len(program()) % 8 == 0
