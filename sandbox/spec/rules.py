"""What several settings say together: contradictions, and settings that only make sense beside others.

One small function per rule. Each names the settings that it reads, and is left out when one of them is wrong by
itself, so that no mistake is reported twice in different words.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from sandbox.spec.model import Spec
from sandbox.spec.notation import nearest, parse_key_path, quote, shown
from sandbox.spec.origin import Problem
from sandbox.spec.settings import Problems, settings_of
from sandbox.spec.tables import Limits, Volume

Check = Callable[[Spec], Iterator[Problem]]


class Rule(NamedTuple):
    """A check, and the keys whose values it trusts."""

    reads: tuple[str, ...]
    check: Check


def check_rules(spec: Spec, problems: Problems) -> None:
    """Add to *problems* what the settings of *spec* that are right by themselves get wrong together."""
    broken = [
        problem
        for rule in RULES
        if not any(problems.touch(parse_key_path(key)) for key in rule.reads)
        for problem in rule.check(spec)
    ]
    for problem in broken:
        problems.add(problem)


def settle(spec: Spec) -> Spec:
    """Return *spec* with network.mode and namespaces.net, two ways of saying one thing, in agreement.

    To be called on a specification that broke no rule, so that at most one of the two was written as "host".
    """
    if spec.network.mode == "host":
        return dataclasses.replace(spec, namespaces=dataclasses.replace(spec.namespaces, net="host"))
    if spec.namespaces.net == "host":
        return dataclasses.replace(spec, network=dataclasses.replace(spec.network, mode="host"))
    return spec


def _hostname_needs_private_uts(spec: Spec) -> Iterator[Problem]:
    if spec.sandbox.hostname is not None and spec.namespaces.uts == "host":
        yield Problem(
            path=("sandbox", "hostname"),
            message='would change the host\'s own name, because namespaces.uts is "host"',
            hint='remove it, or set namespaces.uts = "private"',
        )


def _network_agrees_with_namespace(spec: Spec) -> Iterator[Problem]:
    if spec.network.mode == "host" and spec.is_set("namespaces.net") and spec.namespaces.net == "private":
        yield Problem(
            path=("namespaces", "net"),
            message='"private" contradicts network.mode = "host"',
            hint="remove one of the two",
        )
    if spec.namespaces.net == "host" and spec.is_set("network.mode") and spec.network.mode != "host":
        yield Problem(
            path=("namespaces", "net"),
            message=f'"host" contradicts network.mode = {quote(spec.network.mode)}',
            hint="remove one of the two",
        )


def _swap_needs_memory(spec: Spec) -> Iterator[Problem]:
    if spec.limits.swap is not None and spec.limits.memory is None:
        yield Problem(
            path=("limits", "swap"),
            message="needs limits.memory: without it, memory is not limited at all",
            hint='add memory = "512M" to [limits]',
        )


def _optional_names_limits(spec: Spec) -> Iterator[Problem]:
    known = [key for key in settings_of(Limits) if key != "optional"]
    for index, name in enumerate(spec.limits.optional):
        if name not in known:
            meant = nearest(name, known)
            yield Problem(
                path=("limits", "optional", index),
                message=f"{shown(name)} is no limit",
                hint=f"did you mean {quote(meant)}?" if meant else "the other keys of [limits] are its names",
            )


def _single_id_has_no_groups(spec: Spec) -> Iterator[Problem]:
    if spec.ids.map == "single" and spec.process.groups:
        yield Problem(
            path=("process", "groups"),
            message='cannot be set with ids.map = "single": setgroups(2) is denied there',
            hint='remove it, or set ids.map = "auto"',
        )


def _single_id_is_zero(spec: Spec) -> Iterator[Problem]:
    user = spec.process.user
    if spec.ids.map == "single" and (user.user not in (0, "root") or user.group not in (None, 0, "root")):
        yield Problem(
            path=("process", "user"),
            message='with ids.map = "single" there is no id but 0',
            hint='remove it, or set ids.map = "auto"',
        )


def _only_a_writable_layer_is_bounded(spec: Spec) -> Iterator[Problem]:
    for key in ("size", "inodes"):
        if spec.root.writable == "none" and spec.is_set(("root", key)):
            yield Problem(
                path=("root", key),
                message='with root.writable = "none" there is no writable layer',
                hint="remove one of the two",
                part="key",
            )


def _volume_fields_fit_its_type(spec: Spec) -> Iterator[Problem]:
    for index, volume in _volumes(spec):
        if volume.type == "bind":
            if not spec.is_set(("volumes", index, "source")):
                yield Problem(
                    path=("volumes", index, "source"),
                    message="required for a bind volume, but missing",
                    hint='add source = "./src" to this table',
                    part="key",
                )
            for key in ("size", "mode"):
                if spec.is_set(("volumes", index, key)):
                    yield Problem(
                        path=("volumes", index, key),
                        message="only a tmpfs volume has this",
                        hint="remove it",
                        part="key",
                    )
        if volume.type == "tmpfs" and spec.is_set(("volumes", index, "source")):
            yield Problem(
                path=("volumes", index, "source"),
                message="a tmpfs volume has no source",
                hint='remove it, or set type = "bind"',
                part="key",
            )


def _volume_targets_differ(spec: Spec) -> Iterator[Problem]:
    first: dict[str, int] = {}
    for index, volume in _volumes(spec):
        if volume.target in first:
            place = spec.origin(("volumes", first[volume.target], "target"))
            where = f" on line {place.line}" if place else ""
            yield Problem(
                path=("volumes", index, "target"),
                message=f"{shown(volume.target)} is already the target of volumes[{first[volume.target]}]{where}",
                hint="choose another target, or remove one of the two",
            )
        if volume.target:
            first.setdefault(volume.target, index)


def _volumes(spec: Spec) -> Iterator[tuple[int, Volume]]:
    """Yield the volumes with their positions; one that is no table at all, which is reported already, is left out."""
    volumes: Sequence[Volume | None] = spec.volumes
    for index, volume in enumerate(volumes):
        if volume is not None:
            yield index, volume


RULES: tuple[Rule, ...] = (
    Rule(("sandbox.hostname", "namespaces.uts"), _hostname_needs_private_uts),
    Rule(("network.mode", "namespaces.net"), _network_agrees_with_namespace),
    Rule(("limits.swap", "limits.memory"), _swap_needs_memory),
    Rule(("limits.optional",), _optional_names_limits),
    Rule(("ids.map", "process.groups"), _single_id_has_no_groups),
    Rule(("ids.map", "process.user"), _single_id_is_zero),
    Rule(("root.writable",), _only_a_writable_layer_is_bounded),
    # These two look at one volume at a time, so that a mistake in one does not hide those of the others.
    Rule((), _volume_fields_fit_its_type),
    Rule((), _volume_targets_differ),
)
