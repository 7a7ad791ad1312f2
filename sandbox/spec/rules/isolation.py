"""Check namespaces and ids: settings that contradict each other, and maps that the kernel would refuse."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from sandbox.spec.codecs import ID_MAX
from sandbox.spec.model import Spec
from sandbox.spec.notation import quote
from sandbox.spec.origin import Problem
from sandbox.spec.rules.rule import elements
from sandbox.spec.settings import settings_of
from sandbox.spec.tables import IdRange


def hostname_needs_private_uts(spec: Spec) -> Iterator[Problem]:
    if spec.sandbox.hostname is not None and spec.namespaces.uts == "host":
        yield Problem(
            path=("sandbox", "hostname"),
            message='would change the host name of this machine, because namespaces.uts is "host"',
            hint='remove it, or set namespaces.uts = "private"',
        )
    elif spec.sandbox.hostname is not None and ":" in spec.namespaces.uts:
        yield Problem(
            path=("sandbox", "hostname"),
            message="the host name is that of the namespace that namespaces.uts joins",
            hint="remove one of the two settings",
        )


def joined_namespaces_fit_together(spec: Spec) -> Iterator[Problem]:
    user, pid = spec.namespaces.user, spec.namespaces.pid
    if ":" in pid and user != pid and not (user.startswith("path:") and pid.startswith("path:")):
        example = pid if pid.startswith("sandbox:") else "path:/proc/PID/ns/user"
        yield Problem(
            path=("namespaces", "pid"),
            message="needs namespaces.user to join as well: /proc shows processes only to a user with rights over them",
            hint=f"add user = {quote(example)}",
        )
    if pid == "host" and ":" in user:
        yield Problem(
            path=("namespaces", "pid"),
            message=f'"host" cannot be combined with user = {quote(user)}',
            hint='join the pid namespace, too, or set pid = "private"',
        )
    for key in ("map", "uid_map", "gid_map"):
        if ":" in user and spec.is_set(("ids", key)):
            yield Problem(
                path=("ids", key),
                message="the ids are those of the user namespace that namespaces.user joins",
                hint="remove one of the two settings",
                part="key",
            )
    for kind in settings_of(type(spec.namespaces)):
        value = getattr(spec.namespaces, kind)
        if spec.sandbox.name is not None and value == f"sandbox:{spec.sandbox.name}":
            yield Problem(
                path=("namespaces", kind),
                message="a sandbox cannot join itself",
                hint="name another sandbox, or change sandbox.name",
            )


def single_id_has_no_groups(spec: Spec) -> Iterator[Problem]:
    if spec.ids.map == "single" and spec.process.groups:
        yield Problem(
            path=("process", "groups"),
            message='cannot be set with ids.map = "single": setgroups(2) is denied there',
            hint='remove it, or set ids.map = "auto"',
        )


def single_id_is_zero(spec: Spec) -> Iterator[Problem]:
    user = spec.process.user
    if spec.ids.map == "single" and (user.user not in (0, "root") or user.group not in (None, 0, "root")):
        yield Problem(
            path=("process", "user"),
            message='with ids.map = "single" there is no id but 0',
            hint='remove it, or set ids.map = "auto"',
        )


def id_maps_are_whole(spec: Spec) -> Iterator[Problem]:
    maps = {"uid_map": spec.ids.uid_map, "gid_map": spec.ids.gid_map}
    for key, other in (("uid_map", "gid_map"), ("gid_map", "uid_map")):
        if maps[key] and not maps[other]:
            yield Problem(path=("ids", key), message=f"needs ids.{other}, too", hint="set both", part="key")
        if maps[key] and spec.is_set("ids.map"):
            yield Problem(
                path=("ids", key),
                message="cannot be combined with ids.map",
                hint="remove one of the two settings",
                part="key",
            )
        for side in ("inside", "outside"):
            yield from _overlaps(key, side, maps[key])
        yield from _map_contains(key, maps[key])


_MAP_LINES = 340  # the limit of the kernel (user_namespaces(7))


def _map_contains(key: str, ranges: Sequence[IdRange]) -> Iterator[Problem]:
    """Yield a problem for each part of a map that the kernel would refuse, and for a map without id 0."""
    complete = list(elements(ranges))
    for index, item in complete:
        for side in ("inside", "outside"):
            start, count = getattr(item, side), item.count
            if None not in (start, count) and start + count - 1 > ID_MAX:
                yield Problem(
                    path=("ids", key, index, "count"),
                    message=f"the range ends above {ID_MAX}, the largest id",
                    hint=f"with {side} = {start}, count can be at most {ID_MAX - start + 1}",
                )
                break
    if len(ranges) > _MAP_LINES:
        yield Problem(
            path=("ids", key),
            message=f"{len(ranges)} ranges, but the kernel accepts at most {_MAP_LINES}",
            hint="merge adjacent ranges",
            part="key",
        )
    if ranges and len(complete) == len(ranges) and not any(item.inside == 0 for _, item in complete):
        yield Problem(
            path=("ids", key),
            message="does not map id 0 of the sandbox, under which the sandbox is set up and its files are served",
            hint="add a range with inside = 0; process.user sets the user of the program",
            part="key",
        )


def _overlaps(key: str, side: str, ranges: Sequence[IdRange]) -> Iterator[Problem]:
    complete = [
        (getattr(item, side), item.count, index)
        for index, item in elements(ranges)
        if getattr(item, side) is not None and item.count is not None
    ]
    for (start, count, first), (later, _, second) in pairwise(sorted(complete)):
        if start + count > later:
            yield Problem(
                path=("ids", key, max(first, second), side),
                message=f"overlaps ids.{key}[{min(first, second)}]",
                hint="each id can be in one range only",
            )
