"""Decisions of `network.egress`, and the TOML that would change them."""

from __future__ import annotations

import json
import socket
import tomllib

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sandbox.network.addresses import pack
from sandbox.network.egress_rules import EgressRules, is_host_name, parse_rule

LABEL = st.text("abcdefghijklmnopqrstuvwxyz0123456789-_", min_size=1, max_size=8)
NAME = (
    st.lists(LABEL, min_size=1, max_size=4)
    .map(".".join)
    .filter(lambda name: not name.replace(".", "").isdecimal())
)
PORT = st.integers(1, 65535)
ADDRESS = st.one_of(
    st.ip_addresses(v=4), st.ip_addresses(v=6).filter(lambda one: one.ipv4_mapped is None)
).map(str)


def rules(*allow: str, deny: tuple[str, ...] = (), hosts: dict[str, str] | None = None) -> EgressRules:
    return EgressRules.parse(allow, deny, hosts or {})


def allowed(remedy: str, before: EgressRules) -> EgressRules:
    """Return *before* with the setting of the line *remedy*, which must be TOML."""
    network = tomllib.loads(remedy)["network"]
    egress = network.get("egress", {})
    return EgressRules.parse(
        egress.get("allow", [rule.text for rule in before.allow]),
        egress.get("deny", [rule.text for rule in before.deny]),
        network.get("hosts", {}),
    )


@pytest.mark.parametrize(
    ("rule", "name", "port", "passes"),
    [
        ("example.org:443", "example.org", 443, True),
        ("example.org:443", "example.org", 80, False),
        ("example.org:443", "www.example.org", 443, False),
        ("example.org:443", "notexample.org", 443, False),
        ("Example.ORG.:443", "example.org", 443, True),
        ("example.org", "example.org", 1, True),
        ("*.example.net:443", "a.example.net", 443, True),
        ("*.example.net:443", "a.b.example.net", 443, True),
        ("*.example.net:443", "example.net", 443, False),
        ("*.example.net:443", "aexample.net", 443, False),
        ("10.0.0.0/8", "example.org", 443, False),
    ],
)
def test_names(rule: str, name: str, port: int, passes: bool) -> None:
    assert (rules(rule).refuse_name(name, port) is None) == passes


@pytest.mark.parametrize(
    ("rule", "address", "port", "passes"),
    [
        ("10.0.0.0/8", "10.1.2.3", 5, True),
        ("10.0.0.0/8", "11.1.2.3", 5, False),
        ("10.0.0.0/8:5432", "10.1.2.3", 5432, True),
        ("10.0.0.0/8:5432", "10.1.2.3", 5433, False),
        ("203.0.113.1:443", "203.0.113.1", 443, True),
        ("203.0.113.1:443", "203.0.113.2", 443, False),
        ("[2001:db8::1]:443", "2001:db8::1", 443, True),
        ("[2001:db8::1]:443", "2001:db8::1", 80, False),
        ("2001:db8::/32", "2001:db8::1", 80, True),
        ("[2001:db8::]/32:80", "2001:db8::1", 80, True),
        ("0.0.0.0/0", "203.0.113.1", 80, True),
        ("0.0.0.0/0", "10.0.0.1", 80, True),
        # Only a rule that is for such addresses opens them.
        ("0.0.0.0/0", "169.254.169.254", 80, False),
        ("169.254.169.254:80", "169.254.169.254", 80, True),
        ("169.254.0.0/16", "169.254.169.254", 80, True),
        ("::/0", "fe80::1", 80, False),
        ("example.org:443", "203.0.113.1", 443, False),
    ],
)
def test_addresses(rule: str, address: str, port: int, passes: bool) -> None:
    assert (rules(rule).refuse_address(pack(address), port) is None) == passes


@pytest.mark.parametrize(
    "text",
    ["", ":443", "example.org:", "example.org:0", "example.org:65536", "a b", "exa\tmple", "*.", "*", "[::1", "::1]:5",
     "10.0.0.0/33", "10.0.0:5", "example.org:http", "ex%61mple.org", "[example.org]:4", "fe80::1%eth0"],
)  # fmt: skip
def test_what_is_no_destination_is_an_error(text: str) -> None:
    with pytest.raises(ValueError):
        parse_rule(text)


def test_deny_wins_for_names_addresses_and_resolved_addresses() -> None:
    made = rules(
        "*.example.org", "203.0.113.0/24", deny=("bad.example.org", "203.0.113.9:25", "192.0.2.0/24")
    )
    assert made.refuse_query("bad.example.org") is not None
    assert made.refuse_name("bad.example.org", 443) is not None
    assert made.refuse_query("good.example.org") is None
    assert made.refuse_address(pack("203.0.113.9"), 25) is not None
    assert made.refuse_address(pack("203.0.113.9"), 26) is None
    assert made.refuse_resolved("good.example.org", 25, pack("203.0.113.9"), own=False) is not None
    assert made.refuse_resolved("good.example.org", 26, pack("203.0.113.9"), own=False) is None
    assert made.refuse_resolved("good.example.org", 26, pack("192.0.2.1"), own=False) is not None


@pytest.mark.parametrize("address", ["::ffff:203.0.113.9", "64:ff9b::cb00:7109", "2002:cb00:7109::1"])
def test_deny_refuses_a_denied_address_inside_an_ipv6_address(address: str) -> None:
    packed = socket.inet_pton(socket.AF_INET6, address)
    made = rules("example.org", "::/0", deny=("203.0.113.0/24:443",))
    for port in (443, 80):
        refused = (
            made.refuse_address(packed, port),
            made.refuse_resolved("example.org", port, packed, own=False),
        )
        assert [one is not None for one in refused] == [port == 443] * 2


def test_a_name_that_is_denied_with_a_port_only_is_still_answered() -> None:
    made = rules("example.org", deny=("example.org:25",))
    assert made.refuse_query("example.org") is None
    assert made.refuse_name("example.org", 25) is not None
    assert made.refuse_name("example.org", 443) is None


def test_a_pinned_name_passes_by_a_rule_with_its_name_or_its_address() -> None:
    made = rules(
        "10.0.0.0/8:5432", "web:80", hosts={"db": "10.0.0.2", "web": "127.0.0.1", "other": "192.0.2.1"}
    )
    assert made.refuse_query("db") is None
    assert made.refuse_name("db", 5432) is None
    assert made.refuse_name("db", 80) is not None
    assert made.refuse_resolved("db", 5432, pack("10.0.0.2"), own=False) is None
    assert made.refuse_name("web", 80) is None
    assert made.refuse_resolved("web", 80, pack("127.0.0.1"), own=True) is None
    assert made.refuse_query("other") is not None
    assert made.refuse_name("other", 80) is not None


def test_an_address_of_this_machine_is_refused_whatever_rule_there_is() -> None:
    made = rules("0.0.0.0/0", "198.51.100.2:22", "example.org:22")
    refused = made.refuse_address(pack("198.51.100.2"), 22, own=True)
    assert refused is not None
    assert refused.remedy == 'network.host_access = ["127.0.0.1:22"]'
    assert made.refuse_resolved("example.org", 22, pack("198.51.100.2"), own=True) is not None


def test_the_line_for_a_name_has_the_ports_of_other_rules_with_names() -> None:
    refused = rules("a.org:443", "*.b.org:80", "c.org", "10.0.0.0/8:5").refuse_query("d.org")
    assert refused is not None
    added = ["a.org:443", "*.b.org:80", "c.org", "10.0.0.0/8:5", "d.org:80", "d.org:443"]
    assert tomllib.loads(refused.remedy) == {"network": {"egress": {"allow": added}}}
    refused = rules().refuse_query("d.org")
    assert refused is not None
    assert refused.remedy == 'network.egress.allow = ["d.org"]'


@given(st.lists(NAME, max_size=3), NAME, PORT)
def test_the_line_of_a_refused_name_allows_it(names: list[str], name: str, port: int) -> None:
    made = rules(*(f"{one}:443" for one in names))
    for refused in (made.refuse_query(name), made.refuse_name(name, port)):
        if refused is not None:
            after = allowed(refused.remedy, made)
            assert after.refuse_query(name) is None
    refused = made.refuse_name(name, port)
    if refused is not None:
        assert allowed(refused.remedy, made).refuse_name(name, port) is None


@given(ADDRESS, PORT)
def test_the_line_of_a_refused_address_allows_it(address: str, port: int) -> None:
    made = rules("example.org:443")
    refused = made.refuse_address(pack(address), port)
    assert refused is not None
    assert allowed(refused.remedy, made).refuse_address(pack(address), port) is None


@given(NAME, ADDRESS, PORT, st.booleans())
def test_the_line_of_a_name_that_resolves_inside_pins_it(
    name: str, address: str, port: int, own: bool
) -> None:
    made = rules(f"{name}:{port}")
    refused = made.refuse_resolved(name, port, pack(address), own=own)
    assume(refused is not None)
    assert refused is not None
    after = allowed(refused.remedy, made)
    assert after.refuse_name(name, port) is None
    assert after.refuse_resolved(name, port, pack(address), own=own) is None


@given(NAME, PORT)
def test_the_line_of_a_denied_name_removes_the_rule(name: str, port: int) -> None:
    made = rules(f"{name}:{port}", deny=("other.org", name))
    refused = made.refuse_name(name, port)
    assert refused is not None
    assert json.dumps(name) in refused.reason
    assert allowed(refused.remedy, made).refuse_name(name, port) is None


@given(st.text())
def test_parsing_any_text_gives_a_rule_or_an_error(text: str) -> None:
    try:
        rule = parse_rule(text)
    except ValueError:
        return
    assert (rule.network is None) == bool(rule.name)
    assert rule.name == "" or is_host_name(rule.name)


def test_what_the_gate_needs_for_the_rules() -> None:
    made = rules("a.org:443", "b.org:80", "10.0.0.0/8:80")
    assert (made.ports(), made.needs_redirect(), made.needs_ipv6()) == ((80, 443), False, False)
    made = rules("a.org", "[2001:db8::1]:5")
    assert (made.ports(), made.needs_redirect(), made.needs_ipv6()) == ((5,), True, True)
