"""Plan volumes and devices, which bypass the layers, in the order in which they can be mounted."""

from __future__ import annotations

import os
from collections.abc import Mapping

from sandbox.host.paths import PathFact
from sandbox.host.private_directories import PrivateFacts
from sandbox.kernel.idmaps import IdMap
from sandbox.kernel.search_permission import ClosedDirectory
from sandbox.plan.findings import Findings
from sandbox.plan.operations import (
    BindDevice,
    BindVolume,
    FileVolume,
    HideDirectory,
    TmpfsVolume,
    VolumeOperation,
)
from sandbox.plan.private import hidden_in, source_refusal
from sandbox.plan.storage import inside, shows_directory
from sandbox.plan.values import IdPlan, NamedVolume
from sandbox.spec.model import Spec
from sandbox.spec.tables import Device, Volume
from unionfs._stdlib.dataclasses import replace

_FILE_MODE = 0o644
_NAMED_MODE = 0o755
_TMPFS_MODE = 0o1777


def named_volume_path(state_directory: str, name: str) -> str:
    """Return the directory of the named volume *name* in the state directory."""
    return os.path.join(state_directory, "volumes", name, "data")


def plan_named_volumes(spec: Spec) -> tuple[NamedVolume, ...]:
    """Return the named volumes, each once."""
    found: dict[str, NamedVolume] = {}
    for volume in spec.volumes:
        if volume.type == "named" and volume.source is not None:
            mode = _NAMED_MODE if volume.mode is None else volume.mode
            found.setdefault(volume.source, NamedVolume(name=volume.source, mode=mode))
    return tuple(found.values())


def plan_volumes(
    spec: Spec,
    paths: Mapping[str, PathFact],
    state_directory: str,
    private: PrivateFacts,
    findings: Findings,
) -> tuple[VolumeOperation, ...]:
    """Return the volumes in mount order; refused ones are left out."""
    planned: list[tuple[str, VolumeOperation]] = []
    for number, volume in enumerate(spec.volumes):
        key = f"volumes[{number}]"
        if volume.type == "bind" and volume.source is not None:
            refusal = _source_refusal(volume, paths[volume.source], private)
            if refusal is not None:
                setting, message, hint = refusal
                findings.refuse(f"{key}.{setting}", message, hint)
                continue
        planned.append((key, _plan_volume(volume, paths, state_directory)))
    # A volume whose target lies in another volume is mounted after that, whatever their order in the file.
    planned.sort(key=lambda item: item[1].target.split("/"))
    files = {fact.real for fact in paths.values() if fact.kind == "file"}
    placed: list[VolumeOperation] = []
    # The chain of volumes around the current target, the innermost last.
    around: list[VolumeOperation] = []
    for key, operation in planned:
        while around and not inside(operation.target, around[-1].target):
            around.pop()
        if around and not shows_directory(around[-1], files):
            message = f"{operation.target} is below {around[-1].target}, which is a file"
            findings.refuse(f"{key}.target", message, "choose another target")
            continue
        placed.append(_placed(operation, around[-1]) if around else operation)
        around.append(placed[-1])
    return tuple(placed)


def with_hidden(
    volumes: tuple[VolumeOperation, ...], private: PrivateFacts, uid_map: tuple[IdMap, ...] | None
) -> tuple[VolumeOperation | HideDirectory, ...]:
    """Return *volumes*, each followed by the operations that hide the private directories in it.

    Private directories are hidden before another volume is mounted in the same one. *uid_map* is that of the sandbox; None if
    it joins a user namespace.
    """
    found: list[VolumeOperation | HideDirectory] = []
    for volume in volumes:
        found.append(volume)
        if isinstance(volume, BindVolume):
            found += hidden_in(volume, private, uid_map)
    return tuple(found)


def _source_refusal(volume: Volume, fact: PathFact, private: PrivateFacts) -> tuple[str, str, str] | None:
    """Return setting, message and hint if a setting of a bind volume has to be refused, otherwise None."""
    if fact.kind == "missing":
        hint = "create it first, or name an existing file or directory"
        return "source", f"{volume.source}: {fact.reason}", fact.remedy or hint
    if fact.kind == "refused":
        hint = "give that user read permission, and the x permission of the directories of its path"
        return "source", f"{volume.source}: {fact.reason}", fact.remedy or hint
    if fact.closed is not None:
        return ("source", *_closed(volume.source, fact.closed))
    refusal = source_refusal(fact.real, writable=not volume.read_only, private=private)
    if refusal is not None:
        return ("source", *refusal)
    if volume.propagation == "slave" and not fact.shared:
        reason = f"{volume.source} is on a private mount of the host: later mounts there do not propagate"
        return "propagation", reason, f"as root: mount --make-shared $(findmnt -no TARGET -T {volume.source})"
    return None


def _closed(path: str | None, closed: ClosedDirectory) -> tuple[str, str]:
    """Return message and hint for a path that this account reaches only by its capabilities."""
    directory = f"{closed.path} (mode {closed.mode:o}, of user {closed.owner})"
    return (
        f"{path}: {directory} cannot be searched by user {closed.user} of the host without capabilities",
        f"chmod o+x {closed.path}, or start the sandbox as user {closed.owner}",
    )


def with_root_capabilities(paths: Mapping[str, PathFact], ids: IdPlan) -> Mapping[str, PathFact]:
    """Return *paths*, without *closed* for directories that user 0 of the sandbox may enter by its capabilities.

    Its capabilities apply if *ids* map both user and group of the directory: capable_wrt_inode_uidgid(), kernel/capability.c.
    """

    def is_mapped(closed: ClosedDirectory) -> bool:
        return all(
            any(entry.outside <= number < entry.outside + entry.count for entry in id_map)
            for number, id_map in ((closed.owner, ids.uid_map), (closed.group, ids.gid_map))
        )

    reached = {
        path: fact for path, fact in paths.items() if fact.closed is not None and is_mapped(fact.closed)
    }
    return {**paths, **{path: replace(fact, closed=None) for path, fact in reached.items()}}


def _plan_volume(volume: Volume, paths: Mapping[str, PathFact], state_directory: str) -> VolumeOperation:
    noexec = "noexec" in volume.options
    if volume.type == "tmpfs":
        return TmpfsVolume(
            target=volume.target,
            size=volume.size,
            mode=_TMPFS_MODE if volume.mode is None else volume.mode,
            read_only=bool(volume.read_only),
            noexec=noexec,
        )
    if volume.type == "file":
        return FileVolume(
            target=volume.target,
            content=(volume.content or "").encode(),
            mode=_FILE_MODE if volume.mode is None else volume.mode,
            noexec=noexec,
        )
    assert volume.source is not None
    named = volume.type == "named"
    return BindVolume(
        source=named_volume_path(state_directory, volume.source) if named else paths[volume.source].real,
        target=volume.target,
        read_only=bool(volume.read_only),
        noexec=noexec,
        slave=volume.propagation == "slave",
        name=volume.source if named else None,
    )


def _placed(volume: VolumeOperation, around: VolumeOperation) -> VolumeOperation:
    """Return *volume* as one whose target lies in the volume *around* it.

    A missing target is created only if *around* is the sandbox's own volume, never in a directory of the host.
    """
    own = isinstance(around, TmpfsVolume) or (
        isinstance(around, BindVolume) and around.name is not None and not around.read_only
    )
    return replace(volume, within=around.target, create=own)


def plan_devices(spec: Spec, paths: Mapping[str, PathFact], findings: Findings) -> tuple[BindDevice, ...]:
    """Return the devices, one operation for each node of a directory; refused ones are left out."""
    planned: dict[str, BindDevice] = {}
    for number, device in enumerate(spec.devices):
        fact = paths[device.path]
        key = f"devices[{number}]"
        if not fact.devices:
            reason = fact.reason or "the directory contains no device"
            hint = "see ls -l /dev on this machine; a device appears when its driver is loaded (see dmesg)"
            findings.refuse(f"{key}.path", f"{device.path}: {reason}", fact.remedy or hint)
            continue
        if fact.closed is not None:
            findings.refuse(f"{key}.path", *_closed(device.path, fact.closed))
            continue
        for operation in _plan_device(device, fact):
            if operation.target in planned:
                findings.refuse(
                    key, f"{operation.target} is the target of two devices", "remove one of the two"
                )
            planned[operation.target] = operation
    return tuple(planned.values())


def _plan_device(device: Device, fact: PathFact) -> list[BindDevice]:
    return [
        BindDevice(
            source=fact.real + node.path,
            target=(device.target or device.path) + node.path,
            kind=node.kind,
            major=node.major,
            minor=node.minor,
        )
        for node in fact.devices
    ]
