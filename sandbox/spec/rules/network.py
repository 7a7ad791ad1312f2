"""Check the network: its mode, its ports, and the networks that it names."""

from __future__ import annotations

from collections.abc import Iterator

from sandbox.spec.model import Spec
from sandbox.spec.notation import guesses, quote, shown
from sandbox.spec.origin import Problem
from sandbox.spec.rules.rule import elements


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
    if ":" in spec.namespaces.net and spec.is_set("network.mode"):
        yield Problem(
            path=("network", "mode"),
            message="the network is that of the namespace that namespaces.net joins",
            hint="remove one of the two settings",
            part="key",
        )


_NEED_A_PRIVATE_NETWORK = ("ports", "networks", "egress", "dns", "search", "host_access")


def some_settings_need_a_private_network(spec: Spec) -> Iterator[Problem]:
    for key in _NEED_A_PRIVATE_NETWORK:
        if spec.network.mode != "private" and getattr(spec.network, key) not in (None, ()):
            yield Problem(
                path=("network", key),
                message=f'needs network.mode = "private", but the mode is {quote(spec.network.mode)}',
                hint='set mode = "private", or remove it',
                part="key",
                if_enforced=True,
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


def ports_differ(spec: Spec) -> Iterator[Problem]:
    first: dict[tuple[str, int, str], int] = {}
    for index, port in elements(spec.network.ports):
        name = (port.address, port.host, port.protocol)
        if name in first:
            yield Problem(
                path=("network", "ports", index),
                message=f"port {port.host}/{port.protocol} of {port.address} is already used by network.ports[{first[name]}]",
                hint="choose another port of the host",
            )
        first.setdefault(name, index)
