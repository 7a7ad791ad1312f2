"""The addresses of networks."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.network.shared_gate import Subnet, choose_subnet


def test_the_gateway_has_the_first_address_and_members_the_lowest_free_ones() -> None:
    subnet = Subnet("10.5.0.0/29")
    assert subnet.gateway == "10.5.0.1"
    assert subnet.lowest_free(set()) == "10.5.0.2"
    assert subnet.lowest_free({"10.5.0.2", "10.5.0.4"}) == "10.5.0.3"
    assert subnet.lowest_free({f"10.5.0.{number}" for number in range(2, 7)}) is None


@given(
    st.lists(
        st.tuples(st.integers(0, 2**24 - 1), st.integers(8, 32))
        .map(lambda pair: str(ipaddress.ip_network(((10 << 24) + pair[0], pair[1]), strict=False)))
        .filter(lambda text: not text.endswith("/8")),
        max_size=20,
    )
)
def test_a_chosen_block_overlaps_no_other(taken: list[str]) -> None:
    try:
        chosen = ipaddress.ip_network(choose_subnet(taken).text)
    except ValueError:
        free = [
            block
            for block in ipaddress.ip_network("10.0.0.0/8").subnets(new_prefix=16)
            if not any(block.overlaps(ipaddress.ip_network(one)) for one in taken)
        ]
        assert free == []
        return
    assert chosen.prefixlen == 24
    assert not any(chosen.overlaps(ipaddress.ip_network(one)) for one in taken)


def test_the_first_block_is_always_the_same() -> None:
    assert choose_subnet([]).text == "10.89.0.0/24"
    assert choose_subnet(["10.89.0.0/24", "10.89.1.128/25"]).text == "10.89.2.0/24"
    assert choose_subnet(["10.89.0.0/16"]).text == "10.90.0.0/24"
    with pytest.raises(ValueError, match=r"every block of 10\.0\.0\.0/8 is in use"):
        choose_subnet(["10.0.0.0/8"])
