"""The operations that put the sandbox's file systems together, in the one order in which the kernel takes them."""

from __future__ import annotations

import re

from sandbox.kernel.idmaps import lookup
from sandbox.kernel.mounts import MASKED_PATHS, READONLY_PATHS
from sandbox.plan.namespaces import NamespacePlan
from sandbox.plan.operations import (
    BindDevice,
    BindRoot,
    BindVolume,
    BuildDev,
    CheckVolumes,
    DirectBind,
    GiveVolumes,
    HideDirectory,
    LoopbackUp,
    MaskPaths,
    MountProc,
    MountRoot,
    MountSys,
    Operation,
    PivotRoot,
    ReadOnlyPaths,
    SetHostname,
    ShowHosts,
    VolumeOperation,
)
from sandbox.plan.values import IdPlan
from sandbox.spec.model import Spec
from sandbox.spec.values import User

_TTY_GID = (
    5  # group "tty" of Debian and of most others; devpts takes it only where it is mapped (Corrections 18)
)
_DEVICES = ("/sys/class/net", "/sys/devices/virtual/net")


def plan_operations(
    spec: Spec,
    ids: IdPlan,
    namespaces: NamespacePlan,
    root: MountRoot | BindRoot,
    natives: tuple[DirectBind, ...],
    devices: tuple[BindDevice, ...],
    mounted: tuple[VolumeOperation | HideDirectory, ...],
    name: str,
    user: User,
) -> tuple[Operation, ...]:
    """Order the operations; *mounted* are the volumes and what is hidden in them, *user* is who the program runs as."""
    volumes = tuple(step for step in mounted if not isinstance(step, HideDirectory))
    private = namespaces.private
    joined = {join.kind for join in namespaces.joins}
    hostname = spec.sandbox.hostname or _hostname(name)
    tty_gid = _TTY_GID if lookup(ids.gid_map, _TTY_GID) is not None else None
    operations: list[Operation] = [
        root,
        # While the host's are still attached: the kernel wants a fully visible one to compare with.
        MountProc(of_host="pid" not in private | joined),
        MountSys(of_host=not namespaces.owned("net")),
        BuildDev(tty_gid=tty_gid, mqueue=namespaces.owned("ipc")),
        *devices,
        # Before the volumes, whose targets may be below.
        *natives,
        *mounted,
        *([ShowHosts(name=hostname)] if "uts" in private and not _has_hosts(volumes) else []),
        # Once all are mounted, for one of them may have the account files, and before any becomes read-only.
        *_gifts(volumes, user),
        *([CheckVolumes(targets=_checked(natives, volumes))] if volumes else []),
        ReadOnlyPaths(paths=read_only_paths(spec)),
        MaskPaths(paths=masked_paths(spec, namespaces)),
        PivotRoot(),
    ]
    if "uts" in private:
        operations.append(SetHostname(name=hostname))
    if "net" in private:
        operations.append(LoopbackUp())
    return tuple(operations)


def _has_hosts(volumes: tuple[VolumeOperation, ...]) -> bool:
    """Return whether a volume decides what /etc/hosts is."""
    return any(step.target in ("/etc", "/etc/hosts") for step in volumes)


def _checked(natives: tuple[DirectBind, ...], volumes: tuple[VolumeOperation, ...]) -> tuple[str, ...]:
    return tuple(step.target for step in (*natives, *volumes))


def _gifts(volumes: tuple[VolumeOperation, ...], user: User) -> tuple[GiveVolumes, ...]:
    """Return what gives *user* the volumes that are the sandbox's own; nothing for user 0, whose they are when made."""
    if user.user in (0, "root") and user.group in (None, 0, "root"):
        return ()
    made = tuple(step.target for step in volumes if not isinstance(step, BindVolume))
    # What cannot be written through here is left for the first sandbox that writes.
    kept = tuple(
        step.target
        for step in volumes
        if isinstance(step, BindVolume) and step.name is not None and not step.read_only
    )
    if not made and not kept:
        return ()
    return (GiveVolumes(user=user.user, group=user.group, made=made, kept=kept),)


def masked_paths(spec: Spec, namespaces: NamespacePlan) -> tuple[str, ...]:
    """Return what is masked: always, of the host's /sys where that is shown what is not the sandbox's, and what the file adds."""
    of_host: tuple[str, ...] = ()
    joined = {join.kind for join in namespaces.joins}
    if not namespaces.owned("net"):
        if "cgroup" in namespaces.private | joined:
            of_host += ("/sys/fs/cgroup",)
        if "net" in joined:  # its devices are not the host's
            of_host += _DEVICES
    return tuple(dict.fromkeys((*MASKED_PATHS, *of_host, *spec.security.masked_paths)))


def read_only_paths(spec: Spec) -> tuple[str, ...]:
    """Return what is read-only: always, and what the file adds."""
    return tuple(dict.fromkeys((*READONLY_PATHS, *spec.security.readonly_paths)))


def _hostname(name: str) -> str:
    return re.sub(r"[^a-z0-9-]+", "-", name)[:63].strip("-") or "sandbox"
