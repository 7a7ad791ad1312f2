"""Codecs of IP addresses, networks, ports, domain names and destinations, in their usual notations."""

from __future__ import annotations

import re
from collections.abc import Iterable

from sandbox.spec.codecs import expect_text, mismatch, text_schema
from sandbox.spec.notation import nearest, quote, shown
from sandbox.spec.patterns import pattern
from sandbox.spec.settings import Codec, Cursor, Invalid
from unionfs._stdlib.dataclasses import dataclass
from unionfs._stdlib.typing import Literal

Protocol = Literal["tcp", "udp"]

PORT_MAX = 65535

_DNS_PORT = 53
_LOOPBACK = ("127.0.0.1", "::1")

_PROTOCOLS: dict[str, Protocol] = {"tcp": "tcp", "udp": "udp"}
_PORT = pattern(
    r"(?:(?P<address>\[[^\]]*\]|[^:\[\]]*):)?(?P<host>[^:/]*):(?P<inside>[^:/]*)(?:/(?P<protocol>.*))?",
    re.DOTALL,
)
_PORT_HINT = (
    'write "HOST:SANDBOX", "ADDRESS:HOST:SANDBOX" or either with "/udp", such as "127.0.0.1:8080:80/tcp"; '
    'ranges of the same length are possible, such as "8000-8010:8000-8010"'
)
_SERVICE = pattern(
    r"(?P<address>\[[^\]]*\]|[^:\[\]]*):(?P<port>[^:/]*)(?:/(?P<protocol>.*))?",
    re.DOTALL,
)
_SERVICE_HINT = 'write "127.0.0.1:PORT" or "127.0.0.1:PORT/udp", such as "127.0.0.1:5432"'
_DOMAIN = pattern(
    r"(?=.{1,253}$)[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?)*"
)
_INTERFACE_NAME = "[A-Za-z0-9_.-]{1,15}"
_INTERFACE = pattern(_INTERFACE_NAME)
_ENDPOINT = pattern(
    r"(?P<place>\[[^\]]*\](?:/\d+)?|[^:]*|[0-9a-fA-F:]*::?[0-9a-fA-F:]*(?:/\d+)?)(?::(?P<port>[0-9]+))?"
)


@dataclass(frozen=True, slots=True)
class Port:
    """One or more consecutive ports of the host that are forwarded to ports of the sandbox."""

    address: str
    #: The first port of the host; 0 for any that is free.
    host: int
    #: The first port of the sandbox.
    sandbox: int
    protocol: Protocol
    count: int = 1

    def __str__(self) -> str:
        """Return the ports in the notation of a file, with all its parts."""
        ports = f"{_range(self.host, self.count)}:{_range(self.sandbox, self.count)}"
        return f"{bracketed(self.address)}:{ports}/{self.protocol}"


@dataclass(frozen=True, slots=True)
class HostService:
    """A service on the loopback interface of the host that the sandbox may use."""

    #: "127.0.0.1" or "::1".
    address: str
    port: int
    protocol: Protocol

    def __str__(self) -> str:
        """Return the service in the notation of a file, with all its parts."""
        return f"{bracketed(self.address)}:{self.port}/{self.protocol}"


def bracketed(address: str) -> str:
    """Return *address*, an IPv6 address in brackets, as it stands before a port (RFC 3986, 3.2.2)."""
    return f"[{address}]" if ":" in address else address


def _range(first: int, count: int) -> str:
    return str(first) if count == 1 else f"{first}-{first + count - 1}"


class PortCodec(Codec[Port]):
    """Ports as "[ADDRESS:]HOST:SANDBOX[/PROTOCOL]". The default address 127.0.0.1 makes them reachable from the host only."""

    expects = "port"
    toml_types = ("string",)

    def decode(self, value: object, _cursor: Cursor, /) -> Port:
        if type(value) is int:
            raise mismatch(self, value, f"write {quote(f'{value}:{value}')}")
        return _parse_port(expect_text(self, value))

    def encode(self, value: Port, /) -> object:
        return str(value)

    def schema(self) -> dict[str, object]:
        return text_schema("^(.*:)?[0-9]+(-[0-9]+)?:[0-9]+(-[0-9]+)?(/(tcp|udp))?$")

    def describe(self) -> str:
        return '"[ADDRESS:]HOST:SANDBOX[/tcp|/udp]"'

    def names(self, value: object, /) -> tuple[object, ...]:
        match = _PORT.fullmatch(value) if isinstance(value, str) else None
        if match is None:
            return (value,)
        short, protocol = f"{match['host']}:{match['inside']}", match["protocol"] or "tcp"
        return (value, match["host"], short, f"{match['host']}/{protocol}", f"{short}/{protocol}")


def _parse_port(text: str) -> Port:
    match = _PORT.fullmatch(text)
    if match is None:
        raise Invalid(f"{shown(text)} is not a port", _PORT_HINT)
    address = match["address"]
    host, count = _port_range(match["host"], text, minimum=0)
    inside, inside_count = _port_range(match["inside"], text)
    if count != inside_count:
        message = f"{match['host']} has {count} ports, but {match['inside']} has {inside_count}"
        raise Invalid(message, "write two ranges of the same length")
    return Port(
        "127.0.0.1" if address is None else parse_address(address.removeprefix("[").removesuffix("]")),
        host,
        inside,
        _protocol(match["protocol"]),
        count,
    )


class HostServiceCodec(Codec[HostService]):
    """A service of the host as "ADDRESS:PORT[/PROTOCOL]"; the address is that of the loopback interface."""

    expects = "service of the host"
    toml_types = ("string",)

    def decode(self, value: object, _cursor: Cursor, /) -> HostService:
        text = expect_text(self, value)
        match = _SERVICE.fullmatch(text)
        if match is None:
            raise Invalid(f"{shown(text)} is not an address with a port", _SERVICE_HINT)
        address = parse_address(match["address"].removeprefix("[").removesuffix("]"))
        if address not in _LOOPBACK:
            message = f"{address} is not the address of the loopback interface"
            service = f"127.0.0.1:{match['port']}"
            hint = f"write {quote(service)}; the service has to listen there"
            raise Invalid(message, hint, fragment=match["address"])
        return HostService(
            address, _port_number(match["port"], text, _SERVICE_HINT), _protocol(match["protocol"])
        )

    def encode(self, value: HostService, /) -> object:
        return str(value)

    def schema(self) -> dict[str, object]:
        return text_schema(r"^(127\.0\.0\.1|\[::1\]):[0-9]+(/(tcp|udp))?$")

    def describe(self) -> str:
        return '"127.0.0.1:PORT[/tcp|/udp]"'


def single_ports(texts: Iterable[str]) -> tuple[Port, ...]:
    """Return the ports of *texts*, which :class:`PortCodec` has written, each range as its single ports."""
    return tuple(port for text in texts for port in singles(_parse_port(text)))


def singles(port: Port) -> list[Port]:
    """Return the single ports of a range."""
    return [
        Port(port.address, port.host + number, port.sandbox + number, port.protocol)
        for number in range(port.count)
    ]


def _protocol(word: str | None) -> Protocol:
    protocol = _PROTOCOLS.get("tcp" if word is None else word)
    if protocol is None:
        assert word is not None
        meant = nearest(word, _PROTOCOLS)
        hint = f"did you mean {quote(meant)}?" if meant else 'write "tcp" or "udp"'
        raise Invalid(f"unknown protocol {shown(word)}", hint, fragment="/" + word)
    return protocol


def _port_range(text: str, whole: str, *, minimum: int = 1) -> tuple[int, int]:
    """Return the first port and the number of ports of *text*, "PORT" or "FIRST-LAST"."""
    first, dash, last = text.partition("-")
    if not dash:
        return _port_number(first, whole, minimum=minimum), 1
    start, end = _port_number(first, whole), _port_number(last, whole)
    if end < start:
        raise Invalid(f"the range {text} ends before it starts", f"write {last}-{first}", fragment=text)
    return start, end - start + 1


def _port_number(text: str, whole: str, hint: str = _PORT_HINT, *, minimum: int = 1) -> int:
    if not text.isdecimal() or not text.isascii():
        raise Invalid(f"{shown(whole)} is not a port", hint)
    if not minimum <= int(text[:8]) <= PORT_MAX or len(text) > 7:
        raise Invalid(f"a port is a number from {minimum} to {PORT_MAX}, found {text[:20]}", fragment=text)
    return int(text)


def parse_address(text: str, *, zones: bool = True) -> str:
    """Return the IPv4 or IPv6 address *text* in its usual form; raise Invalid if it is not an address.

    With *zones*, the name of an interface may stand behind it, such as "fe80::1%eth0" (RFC 4007, 11).
    """
    import ipaddress  # imported here, because it takes 4 ms and few files name an address

    hint = 'write a number such as "10.0.0.2" or "fd00::2"'
    try:
        address = str(ipaddress.ip_address(text))
    except ValueError:
        raise Invalid(f"{shown(text)} is not an IP address", hint, fragment=text or None) from None
    zone = address.partition("%")[2]
    if zone and not zones:
        raise Invalid(f"{shown(text)} has a zone, which has no meaning here", hint, fragment=text)
    if zone and not _INTERFACE.fullmatch(zone):
        # The address becomes part of files such as resolv.conf(5), where it must not end its line.
        raise Invalid(f"{shown(zone)} is not the name of an interface", hint)
    return address


class AddressCodec(Codec[str]):
    """An IPv4 or IPv6 address."""

    expects = "IP address"
    toml_types = ("string",)

    def __init__(self, *, zones: bool = True) -> None:
        """Accept the name of an interface behind an address if *zones*."""
        self._zones = zones

    def decode(self, value: object, _cursor: Cursor, /) -> str:
        return parse_address(expect_text(self, value), zones=self._zones)

    def schema(self) -> dict[str, object]:
        return text_schema("^[0-9a-fA-F.:]+" + (f"(%{_INTERFACE_NAME})?$" if self._zones else "$"))


class SubnetCodec(Codec[str]):
    """An IPv4 or IPv6 network in CIDR notation."""

    expects = "network"
    toml_types = ("string",)

    def decode(self, value: object, _cursor: Cursor, /) -> str:
        text = expect_text(self, value)
        if "/" not in text:
            raise Invalid(f"{shown(text)} has no prefix length", 'write a network such as "10.1.0.0/24"')
        return _parse_network(text)

    def schema(self) -> dict[str, object]:
        return text_schema("^[0-9a-fA-F.:]+/[0-9]+$")


def _parse_network(text: str) -> str:
    import ipaddress

    try:
        return str(ipaddress.ip_network(text))
    except ValueError as error:
        if "host bits" in str(error):
            meant = str(ipaddress.ip_network(text, strict=False))
            raise Invalid(
                f"{shown(text)} is an address inside a network", f"did you mean {quote(meant)}?"
            ) from None
        raise Invalid(f"{shown(text)} is not a network", 'write a network such as "10.1.0.0/24"') from None


class DomainCodec(Codec[str]):
    """A domain name (RFC 1035), with underscores as they occur in practice."""

    expects = "domain name"
    toml_types = ("string",)

    def decode(self, value: object, _cursor: Cursor, /) -> str:
        return check_domain(expect_text(self, value))

    def schema(self) -> dict[str, object]:
        return text_schema()


def check_domain(text: str) -> str:
    """Return *text* if it is a domain name; raise Invalid otherwise."""
    if not _DOMAIN.fullmatch(text.removesuffix(".")):
        raise Invalid(f"{shown(text)} is not a domain name", 'write a name such as "example.org"')
    return text


class AliasCodec(DomainCodec):
    """A name of a sandbox for others: a domain name that is no address, and not that of the loopback interface."""

    def decode(self, value: object, _cursor: Cursor, /) -> str:
        text = expect_text(self, value)
        hint = 'write a name such as "db"'
        if not _DOMAIN.fullmatch(text.removesuffix(".")):
            raise Invalid(f"{shown(text)} is not a domain name", hint)
        last = text.removesuffix(".").rpartition(".")[2].lower()
        if last.isdecimal():
            raise Invalid(f"programs take {shown(text)} for an address", hint)
        if last == "localhost":
            raise Invalid(f"{shown(text)} is the loopback interface of each sandbox", hint)
        return text


class EndpointCodec(Codec[str]):
    """The destination of a connection: a domain name, an address or a network, each with or without a port."""

    expects = "destination"
    toml_types = ("string",)
    _hint = 'write "NAME:PORT", "ADDRESS:PORT", "[IPV6]:PORT" or "NETWORK", such as "example.org:443" or "10.0.0.0/8"'

    def decode(self, value: object, _cursor: Cursor, /) -> str:
        text = expect_text(self, value)
        match = _ENDPOINT.fullmatch(text)
        if match is None or not match["place"]:
            raise Invalid(f"{shown(text)} is not a destination", self._hint)
        if match["port"] is not None and _port_number(match["port"], text, self._hint) == _DNS_PORT:
            raise Invalid(
                "port 53 is that of DNS, which the sandbox's own name server answers",
                "remove it: every allowed name can be looked up",
                fragment=":" + match["port"],
            )
        if "%" in text or (text.startswith("[") and ":" not in match["place"]):
            raise Invalid(f"{shown(text)} is not a destination", self._hint)
        place = match["place"].replace("[", "").replace("]", "")
        if "/" in place:
            _parse_network(place)
        elif ":" in place or re.fullmatch(r"[0-9.]+", place):
            parse_address(place)
        else:
            check_domain(place.removeprefix("*."))
        return text

    def schema(self) -> dict[str, object]:
        return text_schema()

    def describe(self) -> str:
        return '"NAME[:PORT]", "ADDRESS[:PORT]", "[IPV6]:PORT" or "NETWORK"'
