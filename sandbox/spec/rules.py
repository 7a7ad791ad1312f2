"""What several settings say together: contradictions, and settings that only make sense beside others.

One small function per rule. Each names the settings that it reads, and is left out when one of them is wrong by
itself, so that no mistake is reported twice in different words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

from sandbox.spec.codecs import ID_MAX
from sandbox.spec.model import Spec
from sandbox.spec.notation import guesses, joined, parse_key_path, quote, shown
from sandbox.spec.origin import Problem
from sandbox.spec.relations import below, circles, covered
from sandbox.spec.settings import Problems, settings_of
from sandbox.spec.tables import IdRange
from sandbox.spec.units import format_size
from sandbox.spec.values.volumes import device_target_problem
from unionfs._stdlib import dataclasses
from unionfs._stdlib.dataclasses import dataclass
from unionfs._stdlib.typing import TypeVar

Check = Callable[[Spec], Iterator[Problem]]


@dataclass(frozen=True, slots=True)
class Rule:
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
    elif spec.sandbox.hostname is not None and ":" in spec.namespaces.uts:
        yield Problem(
            path=("sandbox", "hostname"),
            message="the host name is that of the namespace which namespaces.uts joins",
            hint="remove one of the two",
        )


def _joined_namespaces_fit_together(spec: Spec) -> Iterator[Problem]:
    user, pid = spec.namespaces.user, spec.namespaces.pid
    if ":" in pid and user != pid and not (user.startswith("path:") and pid.startswith("path:")):
        example = pid if pid.startswith("sandbox:") else "path:/proc/PID/ns/user"
        yield Problem(
            path=("namespaces", "pid"),
            message="needs the user namespace joined, too: /proc shows the processes to who has rights over them",
            hint=f"add user = {quote(example)}",
        )
    if pid == "host" and ":" in user:
        yield Problem(
            path=("namespaces", "pid"),
            message=f'"host" cannot stand beside user = {quote(user)}',
            hint='join the pid namespace, too, or set pid = "private"',
        )
    for key in ("map", "uid_map", "gid_map"):
        if ":" in user and spec.is_set(("ids", key)):
            yield Problem(
                path=("ids", key),
                message="the ids are those of the user namespace which namespaces.user joins",
                hint="remove one of the two",
                part="key",
            )
    for kind in settings_of(type(spec.namespaces)):
        value = getattr(spec.namespaces, kind)
        if spec.sandbox.name is not None and value == f"sandbox:{spec.sandbox.name}":
            yield Problem(
                path=("namespaces", kind),
                message="a sandbox cannot join itself",
                hint="name another one, or one of the two otherwise",
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
    if ":" in spec.namespaces.net and spec.is_set("network.mode"):
        yield Problem(
            path=("network", "mode"),
            message="the network is that of the namespace which namespaces.net joins",
            hint="remove one of the two",
            part="key",
        )


def _swap_needs_memory(spec: Spec) -> Iterator[Problem]:
    if spec.limits.swap is not None and spec.limits.memory is None:
        yield Problem(
            path=("limits", "swap"),
            message="needs limits.memory: without it, memory is not limited at all",
            hint='add memory = "512M" to [limits]',
        )


def _memory_high_is_below_memory(spec: Spec) -> Iterator[Problem]:
    high, most = spec.limits.memory_high, spec.limits.memory
    if high is not None and most is not None and high > most:
        yield Problem(
            path=("limits", "memory_high"),
            message=f"above limits.memory, which is {format_size(most)}: it would never apply",
            hint="lower it, or remove it",
        )


def _optional_names_settings(spec: Spec) -> Iterator[Problem]:
    guess = guesses()
    for table in settings_of(Spec):
        value = getattr(spec, table)
        if not isinstance(getattr(value, "optional", None), tuple):
            continue
        known = [key for key in settings_of(type(value)) if key != "optional"]
        for index, name in _elements(value.optional):
            if name in known and settings_of(type(value))[name].required:
                yield Problem(
                    path=(table, "optional", index),
                    message=f"{shown(name)} cannot go unenforced: it is required",
                    hint="remove it from the list",
                )
            if name not in known:
                meant = guess(name, known)
                yield Problem(
                    path=(table, "optional", index),
                    message=f"{shown(name)} is not a key of [{table}]",
                    hint=f"did you mean {quote(meant)}?"
                    if meant
                    else f"the other keys of [{table}] are its names",
                )


def _single_id_has_no_groups(spec: Spec) -> Iterator[Problem]:
    if spec.ids.map == "single" and spec.process.groups:
        yield Problem(
            path=("process", "groups"),
            message='cannot be set with ids.map = "single": setgroups(2) is denied there',
            hint='remove it, or set ids.map = "auto"',
        )


def _stop_signal_asks_to_end(spec: Spec) -> Iterator[Problem]:
    # Process 1 hears of its children by it; it cannot be told from one that is to be passed on.
    if spec.process.stop_signal == "SIGCHLD":
        yield Problem(
            path=("process", "stop_signal"),
            message="SIGCHLD asks no program to end",
            hint='the usual one is "SIGTERM"',
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


_FIELDS_OF_VOLUMES = {
    "bind": ("source",),
    "tmpfs": ("size", "mode"),
    "named": ("source", "mode"),
    "file": ("content", "mode"),
}
_REQUIRED_OF_VOLUMES = {
    "bind": ("source", 'source = "./src"'),
    "named": ("source", 'source = "data"'),
    "file": ("content", 'content = "text"'),
}


def _volume_fields_fit_its_type(spec: Spec) -> Iterator[Problem]:
    for index, volume in _elements(spec.volumes):
        fields = _FIELDS_OF_VOLUMES.get(volume.type)
        if fields is None:
            continue
        required, example = _REQUIRED_OF_VOLUMES.get(volume.type, ("", ""))
        if required and not spec.is_set(("volumes", index, required)):
            yield Problem(
                path=("volumes", index, required),
                message=f"required for a {volume.type} volume, but missing",
                hint=f"add {example} to this table",
                part="key",
            )
        for key in ("source", "size", "mode", "content"):
            if key not in fields and spec.is_set(("volumes", index, key)):
                owners = [kind for kind, keys in _FIELDS_OF_VOLUMES.items() if key in keys]
                yield Problem(
                    path=("volumes", index, key),
                    message=f"a {volume.type} volume has no {key}, only a {joined(owners)} volume",
                    hint="remove it, or change the type",
                    part="key",
                )


def _file_is_read_only(spec: Spec) -> Iterator[Problem]:
    for index, volume in _elements(spec.volumes):
        if volume.type == "file" and volume.read_only is False:
            yield Problem(
                path=("volumes", index, "read_only"),
                message="a file volume is always read-only",
                hint="remove it; a file that the program may change belongs in a layer",
            )


def _later_mounts_cannot_be_restricted(spec: Spec) -> Iterator[Problem]:
    for index, volume in _elements(spec.volumes):
        if volume.propagation != "slave":
            continue
        if volume.type != "bind":
            yield Problem(
                path=("volumes", index, "propagation"),
                message=f"nothing is mounted in a {volume.type} volume on the host, only in a bind volume",
                hint="remove it, or change the type",
            )
            continue
        for key in ("read_only", "options"):
            if getattr(volume, key):
                yield Problem(
                    path=("volumes", index, key),
                    message='cannot hold with propagation = "slave": what is mounted later has the flags that it has on the host',
                    hint="remove one of the two",
                    part="key",
                )


def _volume_targets_differ(spec: Spec) -> Iterator[Problem]:
    targets = [(index, "target", volume.target) for index, volume in _elements(spec.volumes) if volume.target]
    yield from _repeated(spec, "volumes", targets)


def _native_paths_are_apart(spec: Spec) -> Iterator[Problem]:
    native = spec.root.native
    paths = list(_elements(native))
    for index, around in below(paths):
        yield Problem(
            path=("root", "native", index),
            message=f"{shown(native[index])} is below {shown(native[around])}, which is native as a whole",
            hint="remove it",
        )
    targets = [(number, volume.target) for number, volume in _elements(spec.volumes) if volume.target]
    for index, position in covered(paths, targets):
        target = shown(spec.volumes[position].target)
        yield Problem(
            path=("root", "native", index),
            message=f"{shown(native[index])} is covered by volumes[{position}], whose target is {target}",
            hint="remove one of the two; a volume may be below a native path",
        )


def _device_targets_differ(spec: Spec) -> Iterator[Problem]:
    targets = [
        (index, "target" if device.target else "path", target)
        for index, device in _elements(spec.devices)
        if (target := device.target or device.path)
    ]
    yield from _repeated(spec, "devices", targets)


def _devices_appear_below_dev(spec: Spec) -> Iterator[Problem]:
    for index, device in _elements(spec.devices):
        if device.path and not spec.is_set(("devices", index, "target")):
            problem = device_target_problem(device.path)
            if problem is not None:
                message, hint = problem
                yield Problem(path=("devices", index, "path"), message=message, hint=hint)


def _repeated(spec: Spec, table: str, values: Sequence[tuple[int, str, str]]) -> Iterator[Problem]:
    """Yield a problem for each of *values* (position, key, target) that an element before it has, too."""
    first: dict[str, tuple[int, str]] = {}
    for index, key, value in values:
        if value in first:
            position, other = first[value]
            place = spec.origin((table, position, other))
            where = f" on line {place.line}" if place else ""
            yield Problem(
                path=(table, index, key),
                message=f"{shown(value)} is already the target of {table}[{position}]{where}",
                hint="choose another target, or remove one of the two",
            )
        first.setdefault(value, (index, key))


def _ports_differ(spec: Spec) -> Iterator[Problem]:
    first: dict[tuple[str, int, str], int] = {}
    for index, port in _elements(spec.network.ports):
        name = (port.address, port.host, port.protocol)
        if name in first:
            yield Problem(
                path=("network", "ports", index),
                message=f"port {port.host}/{port.protocol} of {port.address} leads to network.ports[{first[name]}] already",
                hint="choose another port of the host",
            )
        first.setdefault(name, index)


_NEED_A_PRIVATE_NETWORK = ("ports", "networks", "egress", "dns", "search", "host_access")


def _some_settings_need_a_private_network(spec: Spec) -> Iterator[Problem]:
    for key in _NEED_A_PRIVATE_NETWORK:
        if spec.network.mode != "private" and getattr(spec.network, key) not in (None, ()):
            yield Problem(
                path=("network", key),
                message=f'needs network.mode = "private", but the mode is {quote(spec.network.mode)}',
                hint='set mode = "private", or remove it',
                part="key",
                if_enforced=True,
            )


def _networks_are_defined(spec: Spec) -> Iterator[Problem]:
    guess = guesses()
    for index, name in _elements(spec.network.networks):
        if name not in spec.networks:
            meant = guess(name, spec.networks)
            yield Problem(
                path=("network", "networks", index),
                message=f"there is no network {shown(name)}",
                hint=f"did you mean {quote(meant)}?" if meant else f"add [networks.{name}]",
            )


def _id_maps_are_whole(spec: Spec) -> Iterator[Problem]:
    maps = {"uid_map": spec.ids.uid_map, "gid_map": spec.ids.gid_map}
    for key, other in (("uid_map", "gid_map"), ("gid_map", "uid_map")):
        if maps[key] and not maps[other]:
            yield Problem(
                path=("ids", key), message=f"needs ids.{other} beside it", hint="give both", part="key"
            )
        if maps[key] and spec.is_set("ids.map"):
            yield Problem(
                path=("ids", key),
                message="cannot stand beside ids.map",
                hint="remove one of the two",
                part="key",
            )
        for side in ("inside", "outside"):
            yield from _overlaps(key, side, maps[key])
        yield from _map_holds(key, maps[key])


_MAP_LINES = 340  # the most that the kernel takes (user_namespaces(7))


def _map_holds(key: str, ranges: Sequence[IdRange]) -> Iterator[Problem]:
    """Yield what the kernel would refuse of a map, and a map without id 0."""
    complete = list(_elements(ranges))
    for index, item in complete:
        for side in ("inside", "outside"):
            start, count = getattr(item, side), item.count
            if None not in (start, count) and start + count - 1 > ID_MAX:
                yield Problem(
                    path=("ids", key, index, "count"),
                    message=f"the range ends beyond {ID_MAX}, the last id there is",
                    hint=f"with {side} = {start} at most {ID_MAX - start + 1}",
                )
                break
    if len(ranges) > _MAP_LINES:
        yield Problem(
            path=("ids", key),
            message=f"{len(ranges)} ranges, and the kernel takes {_MAP_LINES}",
            hint="join ranges",
            part="key",
        )
    if ranges and len(complete) == len(ranges) and not any(item.inside == 0 for _, item in complete):
        yield Problem(
            path=("ids", key),
            message="maps no id to 0 inside, and a sandbox is set up and its files are served by its own root",
            hint="add a range with inside = 0; process.user decides who the program is",
            part="key",
        )


def _overlaps(key: str, side: str, ranges: Sequence[IdRange]) -> Iterator[Problem]:
    complete = [
        (getattr(item, side), item.count, index)
        for index, item in _elements(ranges)
        if getattr(item, side) is not None and item.count is not None
    ]
    for (start, count, first), (later, _, second) in pairwise(sorted(complete)):
        if start + count > later:
            yield Problem(
                path=("ids", key, max(first, second), side),
                message=f"overlaps ids.{key}[{min(first, second)}]",
                hint="each id can be in one range only",
            )


def _build_steps_do_one_thing(spec: Spec) -> Iterator[Problem]:
    for index, step in _elements(spec.build):
        path = ("build", index)
        run, copy = (spec.is_set((*path, key)) for key in ("run", "copy"))
        if run == copy:
            found = "both" if run else "neither"
            message = f'expected one of "run" and "copy", found {found}'
            yield Problem(path=path, message=message, hint="one thing a step", part="key")
        elif copy and not spec.is_set((*path, "target")):
            hint = 'add target = "/src" to this table'
            yield Problem(
                path=(*path, "target"), message="required for a copy, but missing", hint=hint, part="key"
            )
        elif run and step.target is not None:
            yield Problem(
                path=(*path, "target"), message="only a copy has this", hint="remove it", part="key"
            )


def _restarting_is_wanted(spec: Spec) -> Iterator[Problem]:
    if spec.restart is None or spec.restart.policy != "no":
        return
    for key in ("max", "delay"):
        if spec.is_set(("restart", key)):
            yield Problem(
                path=("restart", key),
                message='means nothing with restart.policy = "no"',
                hint='set policy = "on-failure"',
                part="key",
            )


def _dependencies_have_an_order(spec: Spec) -> Iterator[Problem]:
    circle_of = circles({name: member.depends_on for name, member in spec.sandboxes.items()})
    guess = guesses()
    for name, member in spec.sandboxes.items():
        for index, other in _elements(member.depends_on):
            path = ("sandboxes", name, "depends_on", index)
            if other not in spec.sandboxes:
                meant = guess(other, spec.sandboxes)
                hint = f"did you mean {quote(meant)}?" if meant else f"add [sandboxes.{other}]"
                yield Problem(path=path, message=f"there is no sandbox {shown(other)}", hint=hint)
            elif circle_of[other] == circle_of[name]:
                yield Problem(
                    path=path, message=f"{other} depends on {name} itself", hint="one of them has to be first"
                )


E = TypeVar("E")


def _elements(items: Sequence[E]) -> Iterator[tuple[int, E]]:
    """Yield the elements with their positions; one that is not of its kind, which is reported already, is left out."""
    elements: Sequence[E | None] = items
    for index, item in enumerate(elements):
        if item is not None:
            yield index, item


RULES: tuple[Rule, ...] = (
    Rule(("sandbox.hostname", "namespaces.uts"), _hostname_needs_private_uts),
    Rule(("network.mode", "namespaces.net"), _network_agrees_with_namespace),
    Rule(("namespaces", "sandbox.name"), _joined_namespaces_fit_together),
    Rule(("limits.swap", "limits.memory"), _swap_needs_memory),
    Rule(("limits.memory_high", "limits.memory"), _memory_high_is_below_memory),
    Rule(("ids.map", "process.groups"), _single_id_has_no_groups),
    Rule(("ids.map", "process.user"), _single_id_is_zero),
    Rule(("process.stop_signal",), _stop_signal_asks_to_end),
    Rule(("ids",), _id_maps_are_whole),
    Rule(("root.writable",), _only_a_writable_layer_is_bounded),
    Rule(("network",), _some_settings_need_a_private_network),
    Rule(("network.networks", "networks"), _networks_are_defined),
    Rule(("restart",), _restarting_is_wanted),
    Rule(("sandboxes",), _dependencies_have_an_order),
    # These look at one element at a time, so that a mistake in one does not hide those of the others.
    Rule((), _optional_names_settings),
    Rule((), _volume_fields_fit_its_type),
    Rule((), _file_is_read_only),
    Rule((), _later_mounts_cannot_be_restricted),
    Rule((), _volume_targets_differ),
    Rule(("root.native",), _native_paths_are_apart),
    Rule((), _devices_appear_below_dev),
    Rule((), _device_targets_differ),
    Rule((), _ports_differ),
    Rule((), _build_steps_do_one_thing),
)
