"""Check the network: its mode, its ports, and the networks that it names."""

from __future__ import annotations

from collections.abc import Iterator

from sandbox.spec.model import Spec
from sandbox.spec.notation import guesses, quote, shown
from sandbox.spec.origin import Problem
from sandbox.spec.rules.rule import elements


def mode_of(spec: Spec) -> str:
    """Return the mode of the network: "private" if the file sets none but settings that imply it."""
    implied = not spec.is_set("network.mode") and spec.network.mode == "none"
    return "private" if implied and _implying(spec) else spec.network.mode


def _implying(spec: Spec) -> str:
    """Return the key of [network] that implies mode = "private"; "" if none does."""
    if spec.network.egress is not None:
        return "egress"
    return "networks" if spec.network.networks else ""


def mode_matches_namespace(spec: Spec) -> Iterator[Problem]:
    if spec.network.mode == "host" and spec.is_set("namespaces.net") and spec.namespaces.net == "private":
        yield Problem(
            path=("namespaces", "net"),
            message='"private" contradicts network.mode = "host"',
            hint="remove one of the two settings",
        )
    if spec.namespaces.net == "host" and spec.is_set("network.mode") and spec.network.mode != "host":
        yield Problem(
            path=("namespaces", "net"),
            message=f'"host" contradicts network.mode = {quote(spec.network.mode)}',
            hint="remove one of the two settings",
        )
    if spec.namespaces.net == "host" and mode_of(spec) == "private" and not spec.is_set("network.mode"):
        yield Problem(
            path=("namespaces", "net"),
            message=f'"host" contradicts network.{_implying(spec)}',
            hint="remove one of the two settings",
        )
    if ":" in spec.namespaces.net and mode_of(spec) == "private" and not spec.is_set("network.mode"):
        yield Problem(
            path=("network", _implying(spec)),
            message="the network is that of the namespace that namespaces.net joins",
            hint="remove one of the two settings",
            part="key",
        )
    if ":" in spec.namespaces.net and spec.is_set("network.mode"):
        yield Problem(
            path=("network", "mode"),
            message="the network is that of the namespace that namespaces.net joins",
            hint="remove one of the two settings",
            part="key",
        )


_NEED_A_PRIVATE_NETWORK = ("ports", "networks", "egress", "host_access")


def aliases_need_networks(spec: Spec) -> Iterator[Problem]:
    if spec.network.aliases and not spec.network.networks:
        yield Problem(
            path=("network", "aliases"),
            message="aliases are names in networks, but the sandbox joins none",
            hint="set network.networks, or remove aliases",
            part="key",
        )


_LONGEST_PREFIX = 29
_RESERVED = {
    "0.0.0.0/8": "a machine that has no address yet",
    "127.0.0.0/8": "the loopback interface",
    "169.254.0.0/16": "link-local addresses",
    "192.0.0.0/24": "the gates of sandboxes",
    "198.18.0.0/15": "the names of network.egress",
    "224.0.0.0/3": "multicast and future use",
}
"""Networks of which members cannot have addresses, and what each is for."""


def subnets_have_addresses(spec: Spec) -> Iterator[Problem]:
    for name, network in spec.networks.items():
        subnet = network.subnet
        if subnet is None:
            continue
        message = None
        if ":" in subnet:
            message = "networks of sandboxes have IPv4 addresses"
        elif not 8 <= int(subnet.partition("/")[2]) <= _LONGEST_PREFIX:
            message = f"the prefix length is 8 to {_LONGEST_PREFIX}, so that there are addresses for the gateway and for members"
        elif reserved := next((one for one in _RESERVED if _have_common_addresses(subnet, one)), None):
            message = f"{reserved} is reserved for {_RESERVED[reserved]}"
        if message is not None:
            yield Problem(
                path=("networks", name, "subnet"),
                message=message,
                hint='write a network such as "10.89.0.0/24"',
            )


def joined_subnets_differ(spec: Spec) -> Iterator[Problem]:
    seen: list[tuple[str, str]] = []
    for name in spec.network.networks:
        subnet = spec.networks[name].subnet if name in spec.networks else None
        if subnet is None or ":" in subnet:
            continue
        for other, theirs in seen:
            if _have_common_addresses(subnet, theirs):
                yield Problem(
                    path=("networks", name, "subnet"),
                    message=f"contains addresses of networks.{other}.subnet, which the sandbox joins, too",
                    hint="choose another network, or remove one of the two settings",
                )
                break
        else:
            seen.append((name, subnet))


def _have_common_addresses(one: str, other: str) -> bool:
    from ipaddress import ip_network

    return ip_network(one).overlaps(ip_network(other))


def some_settings_need_a_network(spec: Spec) -> Iterator[Problem]:
    mode = mode_of(spec)
    for key in (*_NEED_A_PRIVATE_NETWORK, "dns", "search"):
        if getattr(spec.network, key) in (None, ()):
            continue
        if key in _NEED_A_PRIVATE_NETWORK and mode != "private":
            message, hint = (
                f'needs network.mode = "private", but the mode is {quote(mode)}',
                f'set mode = "private", or remove {key}',
            )
        elif mode == "none":
            message, hint = (
                f"needs a network, but network.mode is {quote(mode)}",
                f'set mode = "private", or remove {key}',
            )
        else:
            continue
        yield Problem(path=("network", key), message=message, hint=hint, part="key")


#: With NET_ADMIN or all capabilities, a program can change the routes of its network; with NET_RAW, it can send packets past them.
_WAYS_AROUND = ("NET_ADMIN", "NET_RAW", "all")
_WAYS_INTO_NETWORKS = ("NET_ADMIN", "all")


def networks_have_no_way_around(spec: Spec) -> Iterator[Problem]:
    key = "egress" if spec.network.egress is not None else "networks"
    ways = _WAYS_AROUND if key == "egress" else _WAYS_INTO_NETWORKS if spec.network.networks else ()
    for index, name in elements(spec.security.capabilities.add):
        if name.removeprefix("CAP_") in ways:
            yield Problem(
                path=("security", "capabilities", "add", index),
                message=f"with {quote(name.removeprefix('CAP_'))} the program could leave network.{key}",
                hint="remove one of the two settings",
            )


def networks_are_defined(spec: Spec) -> Iterator[Problem]:
    guess = guesses()
    for index, name in elements(spec.network.networks):
        if name not in spec.networks:
            meant = guess(name, spec.networks)
            yield Problem(
                path=("network", "networks", index),
                message=f"there is no network {shown(name)}",
                hint=f"did you mean {quote(meant)}?" if meant else f"add [networks.{name}]",
            )


_EVERY_ADDRESS = ("0.0.0.0", "::")


def ports_differ(spec: Spec) -> Iterator[Problem]:
    first: dict[tuple[int, str], dict[str, int]] = {}
    for index, port in elements(spec.network.ports):
        numbers = range(port.host, port.host + port.count) if port.host else ()
        reported = False
        for number in numbers:
            used = first.setdefault((number, port.protocol), {})
            taken = next((other for other in used if _overlap(other, port.address)), None)
            if taken is not None and not reported:
                reported = True
                yield Problem(
                    path=("network", "ports", index),
                    message=f"port {number}/{port.protocol} of {taken} is already used by network.ports[{used[taken]}]",
                    hint="choose another port of the host",
                )
            used.setdefault(port.address, index)


def _overlap(one: str, other: str) -> bool:
    """Return whether the addresses are equal, or one of them stands for every address of the family of both."""
    same_family = (":" in one) == (":" in other)
    return one == other or (same_family and (one in _EVERY_ADDRESS or other in _EVERY_ADDRESS))
