"""The rules of `network.egress`: which destinations are allowed, why others are refused, and the TOML that would allow them. Pure.

A program connects either to a name, which the DNS server gave an address of its own, or to an address. `deny` wins over `allow`.
A name passes by a rule with that name, and then also each address to which it resolves must pass. An address passes by a rule
with an address or network.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping

from sandbox.network.addresses import NEEDS_EXPLICIT_RULE, AddressRange, class_of, embedded_in, pack, unpack
from unionfs._stdlib.dataclasses import dataclass

_NAME = re.compile(r"[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*")
_BRACKETED = re.compile(r"\[(?P<place>[0-9a-fA-F.]*:[0-9a-fA-F:.]*)\](?P<bits>/\d+)?(:(?P<port>\d+))?")


def canonical_name(text: str) -> str:
    """Return the domain name *text* in lower case, without a final dot."""
    return text.lower().removesuffix(".")


def is_host_name(name: str) -> bool:
    """Return whether the canonical *name* can be allowed: at most 253 letters, digits, '-', '_' and '.'.

    Programs may query names with any bytes. Such a name must reach neither the resolver nor the log.
    """
    return len(name) <= 253 and _NAME.fullmatch(name) is not None


@dataclass(frozen=True, slots=True)
class Rule:
    """One destination. Either *name* or *network* is set; *port* None means every port."""

    text: str
    name: str = ""
    #: Whether the rule is for the names below *name*, at any depth, and not for *name* itself.
    wildcard: bool = False
    network: AddressRange | None = None
    port: int | None = None

    def has_name(self, name: str) -> bool:
        """Return whether the rule is for the canonical *name*."""
        return name.endswith("." + self.name) if self.wildcard else bool(self.name) and name == self.name

    def has_address(self, address: bytes) -> bool:
        """Return whether the rule is for *address*."""
        return self.network is not None and address in self.network

    def has_port(self, port: int) -> bool:
        """Return whether the rule is for *port*."""
        return self.port is None or self.port == port


def parse_rule(text: str) -> Rule:
    """Return the rule *text*: NAME, *.NAME, ADDRESS, NETWORK or [IPV6], each with or without ``:PORT``.

    Raises:
        ValueError: it is none of these.
    """
    place, port = text, ""
    if match := _BRACKETED.fullmatch(text):
        place, port = match["place"] + (match["bits"] or ""), match["port"] or ""
    elif text.count(":") == 1:
        place, _, port = text.partition(":")
        if not port:
            raise ValueError(f"{text!r} is not a destination")
    number = None
    if port:
        number = int(port) if port.isdecimal() and port.isascii() and len(port) <= 5 else 0
        if not 1 <= number <= 65535:
            raise ValueError(f"{text!r}: a port is a number from 1 to 65535")
    if ":" in place or "/" in place or re.fullmatch(r"[0-9.]+", place):
        return Rule(text, network=AddressRange.parse(place), port=number)
    name = canonical_name(place)
    wildcard = name.startswith("*.")
    if not is_host_name(name.removeprefix("*.")):
        raise ValueError(f"{text!r} is not a destination")
    return Rule(text, name=name.removeprefix("*."), wildcard=wildcard, port=number)


def endpoint(place: str, port: int) -> str:
    """Return PLACE:PORT, with brackets around an IPv6 address."""
    return f"[{place}]:{port}" if ":" in place else f"{place}:{port}"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a destination is refused, and the line of TOML that would allow it; "" if no line would."""

    reason: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class EgressRules:
    """All rules of one sandbox, and the names that `network.hosts` pins to an address."""

    allow: tuple[Rule, ...]
    deny: tuple[Rule, ...]
    pinned: Mapping[str, bytes]

    @classmethod
    def parse(cls, allow: Iterable[str], deny: Iterable[str], hosts: Mapping[str, str]) -> EgressRules:
        """Return the rules of the settings `network.egress.allow`, `network.egress.deny` and `network.hosts`.

        Raises:
            ValueError: a rule is no destination, or an address of *hosts* has a zone.
        """
        return cls(
            tuple(map(parse_rule, allow)),
            tuple(map(parse_rule, deny)),
            {canonical_name(name): pack(address) for name, address in hosts.items()},
        )

    def ports(self) -> tuple[int, ...]:
        """Return the ports of the rules that have one, in order: the ports on which the gate needs a listener."""
        return tuple(sorted({rule.port for rule in self.allow if rule.port is not None}))

    def needs_redirect(self) -> bool:
        """Return whether a rule has no port, so that connections to every port must reach a listener."""
        return any(rule.port is None for rule in self.allow)

    def needs_ipv6(self) -> bool:
        """Return whether a rule has an IPv6 address or network. A name needs none: its own address is always IPv4."""
        return any(rule.network is not None and len(rule.network.prefix) == 16 for rule in self.allow)

    def refuse_query(self, name: str) -> Refusal | None:
        """Return why the DNS server refuses the canonical *name*, None if some connection to it is allowed."""
        if not is_host_name(name):
            return Refusal("this is not a host name")
        for rule in self.deny:
            if rule.has_name(name) and rule.port is None:
                return self._denied(rule)
        if any(rule.has_name(name) for rule in self.allow):
            return None
        address = self.pinned.get(name)
        if address is not None and any(rule.has_address(address) for rule in self.allow):
            return None
        ports = sorted({rule.port for rule in self.allow if rule.name and rule.port is not None})
        added = [endpoint(name, port) for port in ports] or [name]
        return Refusal("no rule has this name", self._allow_line(*added))

    def refuse_name(self, name: str, port: int) -> Refusal | None:
        """Return why a connection to *port* of the canonical *name* is refused, None if its addresses decide."""
        for rule in self.deny:
            if rule.has_name(name) and rule.has_port(port):
                return self._denied(rule)
        rules = [rule for rule in self.allow if rule.has_name(name)]
        if any(rule.has_port(port) for rule in rules):
            return None
        address = self.pinned.get(name)
        if address is not None and self.refuse_address(address, port) is None:
            return None
        if rules:
            allowed = ", ".join(str(rule.port) for rule in rules)
            return Refusal(
                f"rules allow this name with port {allowed} only", self._allow_line(endpoint(name, port))
            )
        return Refusal("no rule has this name", self._allow_line(endpoint(name, port)))

    def refuse_resolved(self, name: str, port: int, address: bytes, *, own: bool) -> Refusal | None:
        """Return why *address*, to which the allowed *name* resolves, is refused; None if it may be connected to.

        *own* is whether the address belongs to this machine. A name that anybody else may point to an address inside must not
        open that (DNS rebinding), so only `network.hosts` permits it.
        """
        denied = self._refuse_denied(address, port)
        if denied is not None:
            return denied
        if self.pinned.get(name) == address:
            return None
        found = class_of(address)
        if own:
            reason = f"it resolves to {unpack(address)}, an address of this machine"
        elif found is not None:
            reason = f"it resolves to the {found[0]} address {unpack(address)}"
        else:
            return None
        return Refusal(reason, f"network.hosts.{json.dumps(name)} = {json.dumps(unpack(address))}")

    def refuse_address(self, address: bytes, port: int, *, own: bool = False) -> Refusal | None:
        """Return why a connection to *port* of *address* is refused, None if it is allowed; *own* as above."""
        denied = self._refuse_denied(address, port)
        if denied is not None:
            return denied
        place = endpoint(unpack(address), port)
        if own:
            # host_access opens services of the loopback interface only, at the same place.
            service = endpoint("127.0.0.1", port)
            reason = f"this is an address of this machine, whose services can be opened at {service} only"
            return Refusal(reason, f"network.host_access = [{json.dumps(service)}]")
        found = class_of(address)
        least = found[1] if found is not None and found[0] in NEEDS_EXPLICIT_RULE else None
        rules = [
            rule
            for rule in self.allow
            if rule.network is not None
            and address in rule.network
            and (least is None or rule.network.is_single() or rule.network.is_within(least))
        ]
        if any(rule.has_port(port) for rule in rules):
            return None
        if rules:
            allowed = ", ".join(str(rule.port) for rule in rules)
            return Refusal(f"rules allow this address with port {allowed} only", self._allow_line(place))
        if found is not None and least is not None:
            reason = f"this {found[0]} address needs a rule with itself or a network inside {least}"
            return Refusal(reason, self._allow_line(place))
        return Refusal("no rule has this address", self._allow_line(place))

    def _refuse_denied(self, address: bytes, port: int) -> Refusal | None:
        """Return why `deny` refuses *address*, also by the IPv4 address inside: a translator on the way would deliver to that."""
        embedded = embedded_in(address)
        for rule in self.deny:
            has_address = rule.has_address(address) or (embedded is not None and rule.has_address(embedded))
            if has_address and rule.has_port(port):
                return self._denied(rule)
        return None

    def _denied(self, rule: Rule) -> Refusal:
        rest = [one.text for one in self.deny if one is not rule]
        return Refusal(
            f"network.egress.deny has {json.dumps(rule.text)}", f"network.egress.deny = {json.dumps(rest)}"
        )

    def _allow_line(self, *added: str) -> str:
        return f"network.egress.allow = {json.dumps([*(rule.text for rule in self.allow), *added])}"
