"""Check the writable layer, volumes, devices and direct binds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sandbox.spec.model import Spec
from sandbox.spec.notation import joined, shown
from sandbox.spec.origin import Problem
from sandbox.spec.relations import below, covered
from sandbox.spec.rules.rule import elements
from sandbox.spec.values.volumes import device_target_problem


def only_a_writable_layer_is_bounded(spec: Spec) -> Iterator[Problem]:
    for key in ("size", "inodes"):
        if spec.root.writable == "none" and spec.is_set(("root", key)):
            yield Problem(
                path=("root", key),
                message='has no effect with root.writable = "none": there is no writable layer',
                hint="remove one of the two settings",
                part="key",
            )


def lazy_layers_are_served_without_waiting(spec: Spec) -> Iterator[Problem]:
    if not spec.root.lazy:
        return
    if spec.root.server == "pyfuse3":
        yield Problem(
            path=("root", "lazy"),
            message='cannot be used with server = "pyfuse3", in which all programs wait while one file is fetched',
            hint='set root.server = "auto", or remove one of the two',
            part="key",
        )
    if spec.root.native:
        yield Problem(
            path=("root", "lazy"),
            message="cannot be used with root.native: layers that are not unpacked have no directories that could be bound",
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


def volume_fields_fit_its_type(spec: Spec) -> Iterator[Problem]:
    for index, volume in elements(spec.volumes):
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


def file_is_read_only(spec: Spec) -> Iterator[Problem]:
    for index, volume in elements(spec.volumes):
        if volume.type == "file" and volume.read_only is False:
            yield Problem(
                path=("volumes", index, "read_only"),
                message="a file volume is always read-only",
                hint="remove it; put a file that the program may change into a layer",
            )


def later_mounts_cannot_be_restricted(spec: Spec) -> Iterator[Problem]:
    for index, volume in elements(spec.volumes):
        if volume.propagation != "slave":
            continue
        if volume.type != "bind":
            yield Problem(
                path=("volumes", index, "propagation"),
                message=f"a {volume.type} volume has no propagation, only a bind volume",
                hint="remove it, or change the type",
            )
            continue
        for key in ("read_only", "options"):
            if getattr(volume, key):
                yield Problem(
                    path=("volumes", index, key),
                    message='cannot be enforced with propagation = "slave": later mounts keep their flags of the host',
                    hint="remove one of the two settings",
                    part="key",
                )


def direct_binds_do_not_overlap(spec: Spec) -> Iterator[Problem]:
    native = spec.root.native
    paths = list(elements(native))
    for index, around in below(paths):
        yield Problem(
            path=("root", "native", index),
            message=f"{shown(native[index])} is below {shown(native[around])}, which is already a direct bind",
            hint="remove it",
        )
    targets = [(number, volume.target) for number, volume in elements(spec.volumes) if volume.target]
    for index, position in covered(paths, targets):
        target = shown(spec.volumes[position].target)
        yield Problem(
            path=("root", "native", index),
            message=f"{shown(native[index])} is covered by volumes[{position}], whose target is {target}",
            hint="remove one of the two; a volume may be below a path of root.native",
        )


def volume_targets_differ(spec: Spec) -> Iterator[Problem]:
    targets = [(index, "target", volume.target) for index, volume in elements(spec.volumes) if volume.target]
    yield from _repeated(spec, "volumes", targets)


def device_targets_differ(spec: Spec) -> Iterator[Problem]:
    targets = [
        (index, "target" if device.target else "path", target)
        for index, device in elements(spec.devices)
        if (target := device.target or device.path)
    ]
    yield from _repeated(spec, "devices", targets)


def _repeated(spec: Spec, table: str, values: Sequence[tuple[int, str, str]]) -> Iterator[Problem]:
    """Yield a problem for each of *values* (position, key, target) whose target an earlier element has."""
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


def devices_appear_below_dev(spec: Spec) -> Iterator[Problem]:
    for index, device in elements(spec.devices):
        if device.path and not spec.is_set(("devices", index, "target")):
            problem = device_target_problem(device.path)
            if problem is not None:
                message, hint = problem
                yield Problem(path=("devices", index, "path"), message=message, hint=hint)
