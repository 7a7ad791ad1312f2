"""Answers of the DNS server, also to hostile messages."""

from __future__ import annotations

import struct

import dnslib
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sandbox.network import names
from sandbox.network.dns_answers import MOST_QUERY, Answer, Forward, Zone, answer, error_answer, question_of
from sandbox.network.egress_rules import EgressRules
from sandbox.network.names import EgressNames, Member, MemberNames

HEADER = struct.Struct("!HHHHHH")


def egress_zone(*allow: str) -> Zone:
    return Zone(
        rules=EgressRules.parse(allow or ("example.org:443", "*.example.net:80"), (), {}), names=EgressNames()
    )


def network_zone(*, forwards: bool = True) -> Zone:
    members = MemberNames("backend")
    members.replace([Member("web", "10.0.0.2", ("www",)), Member("db", "fd00::2")])
    return Zone(members=(members,), forwards=forwards)


def query(name: str, kind: str = "A") -> bytes:
    return bytes(dnslib.DNSRecord.question(name, kind).pack())


def answered(message: bytes, zone: Zone) -> tuple[str, list[str]]:
    found = answer(message, zone)
    assert isinstance(found, Answer)
    record = dnslib.DNSRecord.parse(found.message)
    assert record.header.qr == 1
    assert record.header.id == HEADER.unpack_from(message)[0]
    return dnslib.RCODE[record.header.rcode], [str(one.rdata) for one in record.rr]


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("example.org", "A", ("NOERROR", ["198.18.0.1"])),
        ("EXAMPLE.org", "A", ("NOERROR", ["198.18.0.1"])),
        ("example.org", "ANY", ("NOERROR", ["198.18.0.1"])),
        ("example.org", "AAAA", ("NOERROR", [])),
        ("example.org", "HTTPS", ("NOERROR", [])),
        ("example.org", "TXT", ("NOERROR", [])),
        ("any.example.net", "A", ("NOERROR", ["198.18.0.1"])),
        ("example.net", "A", ("NXDOMAIN", [])),
        ("example.com", "A", ("NXDOMAIN", [])),
        ("a b.example.net", "A", ("NXDOMAIN", [])),
        ("1.0.0.10.in-addr.arpa", "PTR", ("NXDOMAIN", [])),
        ("in-addr.arpa", "PTR", ("NXDOMAIN", [])),
        (".", "A", ("NXDOMAIN", [])),
        (".", "NS", ("NXDOMAIN", [])),
    ],
)
def test_egress(name: str, kind: str, expected: tuple[str, list[str]]) -> None:
    assert answered(query(name, kind), egress_zone()) == expected


def test_an_address_of_a_name_leads_back_to_it() -> None:
    zone = egress_zone()
    answered(query("a.example.net"), zone)
    assert answered(query("1.0.18.198.in-addr.arpa", "PTR"), zone) == ("NOERROR", ["a.example.net."])
    assert answered(query("2.0.18.198.in-addr.arpa", "PTR"), zone) == ("NXDOMAIN", [])


def test_a_refused_name_has_its_reason_and_remedy() -> None:
    found = answer(query("Example.COM"), egress_zone("example.org:443"))
    assert isinstance(found, Answer)
    assert found.name == "example.com"
    assert found.refused is not None
    assert found.refused.remedy == 'network.egress.allow = ["example.org:443", "example.com:443"]'


def test_a_name_with_other_bytes_is_refused_and_shown_without_them() -> None:
    for label in (b"\x1b[31m", "ä".encode(), b"\xff", b"a.b", b"\0"):
        message = (
            HEADER.pack(1, 0x100, 1, 0, 0, 0) + bytes([len(label)]) + label + b"\x07example\x03net\0\0\1\0\1"
        )
        found = answer(message, egress_zone())
        assert isinstance(found, Answer)
        assert found.message[3] & 15 != 0
        assert found.name.isprintable()
        assert found.name.isascii()


def test_without_further_addresses_a_new_name_is_a_failure_of_the_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(names, "MOST_NAMES", 1)
    zone = egress_zone()
    assert answered(query("a.example.net"), zone)[0] == "NOERROR"
    assert answered(query("b.example.net"), zone)[0] == "SERVFAIL"
    assert answered(query("a.example.net"), zone)[0] == "NOERROR"


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("web", "A", ("NOERROR", ["10.0.0.2"])),
        ("www.backend", "A", ("NOERROR", ["10.0.0.2"])),
        ("web", "AAAA", ("NOERROR", [])),
        ("db", "AAAA", ("NOERROR", ["fd00::2"])),
        ("db", "A", ("NOERROR", [])),
        ("gone.backend", "A", ("NXDOMAIN", [])),
        ("2.0.0.10.in-addr.arpa", "PTR", ("NOERROR", ["web.backend."])),
        ("2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa", "PTR", ("NOERROR", ["db.backend."])),
        ("example.org", "A", None),
        ("9.9.9.9.in-addr.arpa", "PTR", None),
        ("x.ip6.arpa", "PTR", None),
    ],
)  # fmt: skip
def test_network(name: str, kind: str, expected: tuple[str, list[str]] | None) -> None:
    if expected is None:
        assert isinstance(answer(query(name, kind), network_zone()), Forward)
        assert answered(query(name, kind), network_zone(forwards=False)) == ("NXDOMAIN", [])
    else:
        assert answered(query(name, kind), network_zone()) == expected


def test_members_and_egress_are_combined_and_nothing_is_forwarded() -> None:
    zone, network = egress_zone(), network_zone()
    zone.members = network.members
    assert answered(query("web"), zone) == ("NOERROR", ["10.0.0.2"])
    assert answered(query("example.org"), zone) == ("NOERROR", ["198.18.0.1"])
    assert answered(query("example.com"), zone) == ("NXDOMAIN", [])


def test_a_query_with_edns_gets_an_answer_with_edns() -> None:
    record = dnslib.DNSRecord.question("example.org")
    record.add_ar(dnslib.EDNS0(udp_len=4096))
    found = answer(record.pack(), egress_zone())
    assert isinstance(found, Answer)
    assert [one.rtype for one in dnslib.DNSRecord.parse(found.message).ar] == [dnslib.QTYPE.OPT]


def test_a_response_and_a_fragment_get_no_answer() -> None:
    assert answer(HEADER.pack(1, 0x8000, 1, 0, 0, 0) + b"\0\0\1\0\1", egress_zone()) is None
    assert answer(query("example.org")[:11], egress_zone()) is None


LOOP = HEADER.pack(1, 0x100, 1, 0, 0, 0) + b"\xc0\x0c\0\1\0\1"
TWO_LOOPS = (
    HEADER.pack(1, 0x100, 1, 0, 0, 0) + bytes([17, 11]) + b"a" * 11 + b"\xc0\x0c" + b"aa" + b"\x00\xc0\x0d"
)
LONG_NAME = HEADER.pack(1, 0x100, 1, 0, 0, 0) + (b"\x3f" + b"a" * 63) * 8 + b"\0\0\1\0\1"
MANY_RECORDS = HEADER.pack(1, 0x100, 1, 0, 0, 65535) + b"\0\0\1\0\1" + b"\xc0\x0c\0\1\0\1\0\0\0\0\0\0" * 90
QUESTIONS = HEADER.pack(1, 0x100, 65535, 0, 0, 0) + b"\0\0\1\0\1" * 200


@pytest.mark.parametrize(
    "message", [LOOP, LONG_NAME, MANY_RECORDS, QUESTIONS, query("example.org") + bytes(MOST_QUERY)]
)
def test_a_malformed_query_is_a_format_error(message: bytes) -> None:
    assert answered(message, egress_zone()) == ("FORMERR", [])


def test_other_operations_and_classes_are_not_implemented() -> None:
    update = bytearray(query("example.org"))
    update[2] |= 5 << 3
    assert answered(bytes(update), egress_zone())[0] == "NOTIMP"
    chaos = dnslib.DNSRecord(q=dnslib.DNSQuestion("version.bind", dnslib.QTYPE.TXT, dnslib.CLASS.CH)).pack()
    assert answered(chaos, egress_zone())[0] == "NOTIMP"


@given(st.binary(max_size=300), st.integers(0, 3), st.integers(0, 3))
@example(b"\xc0\x0c\0\1\0\1", 1, 0)
@example(TWO_LOOPS[12:], 1, 0)
def test_any_message_gets_one_answer_with_its_identity_or_none(
    body: bytes, questions: int, additional: int
) -> None:
    message = HEADER.pack(4711, 0x100, questions, 0, 0, additional) + body
    for zone in (egress_zone(), network_zone()):
        found = answer(message, zone)
        if isinstance(found, Answer):
            assert found.message[:2] == message[:2]
            assert len(found.message) <= MOST_QUERY + 100
            dnslib.DNSRecord.parse(found.message)
        assert question_of(message) is None or questions == 1
    assert dnslib.DNSRecord.parse(error_answer(message)).header.rcode == dnslib.RCODE.SERVFAIL


@given(st.binary(max_size=100))
def test_any_bytes_are_harmless(message: bytes) -> None:
    answer(message, egress_zone())
    question_of(message)


def test_the_question_of_an_answer_is_that_of_the_query_in_any_case_of_letters() -> None:
    message = query("Example.ORG", "AAAA")
    assert question_of(message) == b"\x07example\x03org\0\0\x1c\0\1"
    reply = dnslib.DNSRecord.parse(message).reply()
    assert question_of(reply.pack()) == question_of(message)
