"""Tables of names that change during a run."""

from __future__ import annotations

import ipaddress

import pytest

from sandbox.network import names
from sandbox.network.addresses import pack, unpack
from sandbox.network.names import EgressNames, Member, MemberNames


def test_each_name_has_one_address_of_its_own_for_the_run() -> None:
    table = EgressNames()
    first = [table.address_of(f"{number}.example.org") for number in range(1000)]
    assert len(set(first)) == 1000
    assert [table.address_of(f"{number}.example.org") for number in range(1000)] == first
    network = ipaddress.ip_network("198.18.0.0/15")
    for number, address in enumerate(first):
        assert address is not None
        assert ipaddress.ip_address(address) in network
        assert address[3] not in (0, 255)
        assert table.name_at(address) == f"{number}.example.org"
    assert table.name_at(pack("198.19.0.1")) is None


def test_the_number_of_names_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "MOST_NAMES", 3)
    table = EgressNames()
    assert [table.address_of(name) is None for name in "abcde"] == [False, False, False, True, True]
    assert table.address_of("a") is not None
    assert names.MOST_NAMES == 3


def test_the_network_has_an_address_for_the_most_names() -> None:
    table = EgressNames()
    last = [table.address_of(f"{number}.example.org") for number in range(names.MOST_NAMES)][-1]
    assert last in names.OWN_ADDRESSES


def test_members_have_their_name_their_aliases_and_both_with_the_network() -> None:
    table = MemberNames("back.end")
    table.replace([Member("Web", "10.0.0.2", ("www",)), Member("db", "fd00::2", ("www", "sql"))])
    found = {
        name: [unpack(one) for one in table.addresses_of(name)]
        for name in ("web", "web.back.end", "www", "sql.back.end", "x")
    }
    assert found == {
        "web": ["10.0.0.2"],
        "web.back.end": ["10.0.0.2"],
        "www": ["10.0.0.2", "fd00::2"],
        "sql.back.end": ["fd00::2"],
        "x": [],
    }
    assert table.name_at(pack("10.0.0.2")) == "web.back.end"
    assert table.name_at(pack("10.0.0.3")) is None
    assert table.is_inside("x.back.end")
    assert not table.is_inside("back.end")


def test_replaced_members_are_gone_and_an_invalid_address_changes_nothing() -> None:
    table = MemberNames("n")
    table.replace([Member("a", "10.0.0.2")])
    with pytest.raises(ValueError):
        table.replace([Member("b", "10.0.0.3"), Member("c", "nonsense")])
    assert (table.addresses_of("a"), table.addresses_of("b")) == ([pack("10.0.0.2")], [])
    table.replace([Member("b", "10.0.0.3")])
    assert (table.addresses_of("a"), table.name_at(pack("10.0.0.2"))) == ([], None)
