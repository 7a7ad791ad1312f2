"""Packed addresses, compared with the module `ipaddress`."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.network.addresses import AddressRange, class_of, pack, unpack

ADDRESSES = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6).filter(lambda one: one.ipv4_mapped is None))


@given(ADDRESSES)
def test_text_and_bytes_are_those_of_ipaddress(address) -> None:
    assert pack(str(address)) == address.packed
    assert ipaddress.ip_address(unpack(address.packed)) == address


@given(ADDRESSES, ADDRESSES, st.integers(0, 128))
def test_a_range_has_the_addresses_that_ipaddress_has(address, other, bits) -> None:
    bits = min(bits, other.max_prefixlen)
    network = ipaddress.ip_network((other, bits), strict=False)
    found = AddressRange.parse(str(network))
    assert (address.packed in found) == (address in network)
    assert other.packed in found


@given(st.ip_addresses(v=4), st.integers(0, 32), st.ip_addresses(v=4), st.integers(0, 32))
def test_a_range_is_within_another_as_ipaddress_has_it(one, bits, other, other_bits) -> None:
    first = ipaddress.ip_network((one, bits), strict=False)
    second = ipaddress.ip_network((other, other_bits), strict=False)
    found = AddressRange.parse(str(first)).is_within(AddressRange.parse(str(second)))
    assert found == first.subnet_of(second)


@given(ADDRESSES)
def test_every_address_that_is_not_global_has_a_class(address) -> None:
    """The networks for documentation are public here. ipaddress counts some networks of protocols as private."""
    documentation = ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32")
    if any(
        address in ipaddress.ip_network(one)
        for one in documentation
        if (":" in one) == (address.version == 6)
    ):
        return
    if address.is_loopback or address.is_link_local or address.is_multicast or address.is_unspecified:
        assert class_of(address.packed) is not None
    if address.version == 4 and not address.is_global:
        assert class_of(address.packed) is not None


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("127.0.0.1", "loopback"),
        ("::1", "loopback"),
        ("0.0.0.0", "unspecified"),
        ("10.255.255.255", "private"),
        ("172.31.0.1", "private"),
        ("172.32.0.1", None),
        ("192.168.1.1", "private"),
        ("fd00::1", "private"),
        ("169.254.169.254", "link-local"),
        ("fe80::1", "link-local"),
        ("100.64.0.1", "shared"),
        ("100.128.0.1", None),
        ("198.18.0.1", "reserved"),
        ("255.255.255.255", "reserved"),
        ("224.0.0.251", "multicast"),
        ("::ffff:10.0.0.1", "private"),
        ("64:ff9b::10.0.0.1", "private"),
        ("64:ff9b::9.9.9.9", None),
        ("2002:7f00:1::", "loopback"),
        ("::127.0.0.1", "reserved"),
        ("9.9.9.9", None),
        ("2620:fe::fe", None),
    ],
)
def test_classes(text: str, name: str | None) -> None:
    found = class_of(pack(text))
    assert (found[0] if found else None) == name


@pytest.mark.parametrize(
    "text",
    ["", "x", "1.2.3", "fe80::1%lo", "10.0.0.0/33", "::/129", "10.0.0.0/-1", "10.0.0.0/", "10.0.0.0/x"],
)
def test_what_is_no_address_or_network_is_an_error(text: str) -> None:
    with pytest.raises(ValueError):
        AddressRange.parse(text)


def test_a_mapped_network_is_that_of_ipv4() -> None:
    assert pack("10.1.2.3") in AddressRange.parse("::ffff:10.0.0.0/104")
    assert pack("11.1.2.3") not in AddressRange.parse("::ffff:10.0.0.0/104")
