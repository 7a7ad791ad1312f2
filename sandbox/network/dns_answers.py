"""Answers a DNS query from the tables of names, or decides that it is forwarded (RFC 1035). Pure.

A query of a program is hostile. It is at most `MOST_QUERY` bytes, has one question and no answers; everything else is rejected
before dnslib parses it. dnslib is imported here and nowhere else.
"""

from __future__ import annotations

import socket
import struct

import dnslib

from sandbox.network.egress_rules import EgressRules, Refusal, canonical_name, is_host_name
from sandbox.network.names import EgressNames, MemberNames
from unionfs._stdlib.dataclasses import dataclass

MOST_QUERY = 1232
"""Bytes of the longest query that is parsed. A name has at most 255, the options of a resolver a few dozen."""

TTL = 60
"""Seconds for which a program may keep an address of a name of `network.egress`."""
MEMBER_TTL = 0
"""A member may end at any moment, so its address must not be kept."""

_HEADER = struct.Struct("!HHHHHH")
_RESPONSE = 0x8000
_OPCODE = 0x7800
_UDP_SIZE = 1232
_LONGEST_NAME = 253


@dataclass(frozen=True, slots=True)
class Answer:
    """The message to send back. *refused* is why a name is not known, with the name as it is logged."""

    message: bytes
    name: str = ""
    refused: Refusal | None = None


@dataclass(frozen=True, slots=True)
class Forward:
    """The query is sent on to the resolvers of the host."""


@dataclass(slots=True)
class Zone:
    """What the DNS servers of one network namespace know. The tables belong to the caller, who changes them."""

    members: tuple[MemberNames, ...] = ()
    rules: EgressRules | None = None
    names: EgressNames | None = None
    #: Whether unknown names are sent to the resolvers of the host. Never together with *rules*.
    forwards: bool = False


def answer(message: bytes, zone: Zone) -> Answer | Forward | None:
    """Return what to do with the query *message* from a program; None to ignore it.

    A message without a header, and a response, get no answer: two servers could otherwise answer each other for ever.
    """
    if len(message) < _HEADER.size:
        return None
    identity, flags, questions, answers, authorities, _ = _HEADER.unpack_from(message)
    if flags & _RESPONSE:
        return None
    if flags & _OPCODE:
        return Answer(_error(identity, flags, dnslib.RCODE.NOTIMP))
    if len(message) > MOST_QUERY or questions != 1 or answers or authorities:
        return Answer(_error(identity, flags, dnslib.RCODE.FORMERR))
    try:
        query = dnslib.DNSRecord.parse(message)
    except (dnslib.DNSError, RecursionError, ValueError, TypeError, struct.error):
        return Answer(_error(identity, flags, dnslib.RCODE.FORMERR))
    if len(query.questions[0].qname) > _LONGEST_NAME:
        return Answer(_error(identity, flags, dnslib.RCODE.FORMERR))
    return _Query(query, zone).answer()


def error_answer(message: bytes) -> bytes:
    """Return the answer SERVFAIL to the query *message*, which :func:`answer` has accepted."""
    identity, flags, *_ = _HEADER.unpack_from(message)
    return _error(identity, flags, dnslib.RCODE.SERVFAIL)


def question_of(message: bytes) -> bytes | None:
    """Return what a response must repeat of a query: the question of *message*; None if it has not exactly one.

    The bytes are in lower case, because servers may change the case of letters.
    """
    if len(message) < _HEADER.size or _HEADER.unpack_from(message)[2] != 1:
        return None
    end = _HEADER.size
    while end < len(message) and message[end]:
        if message[end] > 63:
            return None
        end += message[end] + 1
    end += 5  # the root label, type and class
    return message[_HEADER.size : end].lower() if end <= len(message) else None


def _error(identity: int, flags: int, code: int) -> bytes:
    return _HEADER.pack(identity, _RESPONSE | flags & (_OPCODE | 0x0100) | 0x0080 | code, 0, 0, 0, 0)


class _Query:
    """One parsed query, and the reply to it."""

    def __init__(self, query: dnslib.DNSRecord, zone: Zone) -> None:
        self._question = query.questions[0]
        self._zone = zone
        self._reply = query.reply(ra=1, aa=1)
        if any(record.rtype == dnslib.QTYPE.OPT for record in query.ar):
            self._reply.add_ar(dnslib.EDNS0(udp_len=_UDP_SIZE))

    def answer(self) -> Answer | Forward:
        if self._question.qclass not in (dnslib.CLASS.IN, 255):
            return self._with_code(dnslib.RCODE.NOTIMP)
        labels = self._question.qname.label
        if any(b"." in label for label in labels):  # it would be mistaken for two labels
            return self._unknown("", Refusal("this is not a host name"))
        name = canonical_name(b".".join(labels).decode("utf-8", "replace"))
        if name.endswith((".in-addr.arpa", ".ip6.arpa")):
            return self._reverse(name)
        return self._forward(name)

    def _forward(self, name: str) -> Answer | Forward:
        zone = self._zone
        addresses = [address for table in zone.members for address in table.addresses_of(name)]
        if addresses:
            return self._addresses(addresses, MEMBER_TTL)
        if any(table.is_inside(name) for table in zone.members):
            return self._unknown(name, None)
        if zone.rules is not None and zone.names is not None:
            refusal = zone.rules.refuse_query(name)
            if refusal is not None:
                return self._unknown(name, refusal)
            address = zone.names.address_of(name)
            if address is None:
                return self._with_code(dnslib.RCODE.SERVFAIL)
            return self._addresses([address], TTL)
        return Forward() if zone.forwards else self._unknown(name, None)

    def _reverse(self, name: str) -> Answer | Forward:
        zone, address = self._zone, _reversed_address(name)
        known = None
        if address is not None:
            known = next(filter(None, (table.name_at(address) for table in zone.members)), None)
            if known is None and zone.names is not None:
                known = zone.names.name_at(address)
        if known is None:
            return Forward() if zone.forwards else self._unknown(name, None)
        if self._question.qtype in (dnslib.QTYPE.PTR, dnslib.QTYPE.ANY):
            # As bytes: dnslib encodes text by the codec "idna", which the confined process cannot import.
            rdata = dnslib.PTR(known.encode())
            self._reply.add_answer(
                dnslib.RR(self._question.qname, dnslib.QTYPE.PTR, ttl=MEMBER_TTL, rdata=rdata)
            )
        return Answer(bytes(self._reply.pack()))

    def _addresses(self, addresses: list[bytes], ttl: int) -> Answer:
        """Answer with the addresses of the queried type; a known name without any has no error (RFC 2308, NODATA)."""
        for address in addresses:
            kind, value = (
                (dnslib.QTYPE.A, dnslib.A) if len(address) == 4 else (dnslib.QTYPE.AAAA, dnslib.AAAA)
            )
            if self._question.qtype in (kind, dnslib.QTYPE.ANY):
                data = value(tuple(address))
                self._reply.add_answer(dnslib.RR(self._question.qname, kind, ttl=ttl, rdata=data))
        return Answer(bytes(self._reply.pack()))

    def _unknown(self, name: str, refusal: Refusal | None) -> Answer:
        self._reply.header.rcode = dnslib.RCODE.NXDOMAIN
        # dnslib escapes all other bytes, which could be commands for a terminal.
        shown = name if is_host_name(name) else str(self._question.qname)
        return Answer(bytes(self._reply.pack()), shown, refusal)

    def _with_code(self, code: int) -> Answer:
        self._reply.header.rcode = code
        return Answer(bytes(self._reply.pack()))


def _reversed_address(name: str) -> bytes | None:
    """Return the address of a name below in-addr.arpa (RFC 1035, 3.5) or ip6.arpa (RFC 3596, 2.5); None if it is none."""
    labels = name.split(".")[:-2]
    labels.reverse()
    if name.endswith(".in-addr.arpa"):
        try:
            return socket.inet_pton(socket.AF_INET, ".".join(labels))
        except OSError:
            return None
    digits = "".join(labels)
    if len(labels) != 32 or len(digits) != 32:
        return None
    try:
        return bytes.fromhex(digits)
    except ValueError:
        return None
