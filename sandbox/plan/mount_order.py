"""Order the operations that assemble the sandbox's file systems, as the kernel requires."""

from __future__ import annotations

import re
from collections.abc import Iterator

from sandbox.kernel.idmaps import lookup
from sandbox.kernel.masked_paths import MASKED_PATHS, READONLY_PATHS
from sandbox.plan.namespaces import NamespacePlan
from sandbox.plan.operations import (
    HOSTS,
    RESOLV_CONF,
    BindDevice,
    BindRoot,
    BindVolume,
    BuildDev,
    CheckVolumes,
    ChownVolumes,
    DirectBind,
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
    ShowResolver,
    VolumeOperation,
)
from sandbox.plan.values import IdPlan
from sandbox.spec.model import Spec
from sandbox.spec.values import User

#: Group "tty" of Debian and of most other distributions; devpts accepts it only if it is mapped.
_TTY_GID = 5
_DEVICES = ("/sys/class/net", "/sys/devices/virtual/net")


def plan_operations(
    spec: Spec,
    ids: IdPlan,
    namespaces: NamespacePlan,
    root: MountRoot | BindRoot,
    direct_binds: tuple[DirectBind, ...],
    devices: tuple[BindDevice, ...],
    mounted: tuple[VolumeOperation | HideDirectory, ...],
    name: str,
    user: User,
    resolver: bytes | None,
) -> tuple[Operation, ...]:
    """Return the operations in order.

    *mounted* are the volumes, each followed by the directories hidden in it. *user* is the user that the program runs as.
    *resolver* is the content of /etc/resolv.conf; None leaves the root's.
    """
    volumes = tuple(step for step in mounted if not isinstance(step, HideDirectory))
    private = namespaces.private
    joined = {join.kind for join in namespaces.joins}
    hostname = spec.sandbox.hostname or _hostname(name)
    tty_gid = _TTY_GID if lookup(ids.gid_map, _TTY_GID) is not None else None
    operations: list[Operation] = [
        root,
        # While the host's /proc and /sys are attached: mount(2) requires that a fully visible instance exists.
        MountProc(of_host="pid" not in private | joined),
        MountSys(of_host=not namespaces.owned("net")),
        BuildDev(tty_gid=tty_gid, mqueue=namespaces.owned("ipc")),
        *devices,
        # Before the volumes, whose targets may lie below.
        *direct_binds,
        *mounted,
        *_plan_name_files(spec, volumes, hostname if "uts" in private else None, resolver),
        # After all mounts, because a volume may contain /etc/passwd and /etc/group; before any path becomes read-only.
        *_plan_owners(volumes, user),
        *([CheckVolumes(targets=_checked(direct_binds, volumes))] if volumes else []),
        ReadOnlyPaths(paths=read_only_paths(spec)),
        MaskPaths(paths=masked_paths(spec, namespaces)),
        PivotRoot(),
    ]
    if "uts" in private:
        operations.append(SetHostname(name=hostname))
    if "net" in private:
        operations.append(LoopbackUp())
    return tuple(operations)


def _plan_name_files(
    spec: Spec, volumes: tuple[VolumeOperation, ...], hostname: str | None, resolver: bytes | None
) -> Iterator[ShowHosts | ShowResolver]:
    """Yield the operations that show /etc/hosts and /etc/resolv.conf; a volume that provides one of them has precedence."""
    # With egress, these names have addresses of the gate, which its DNS server returns.
    hosts = spec.network.hosts if spec.network.egress is None else {}
    entries = tuple((address, name) for name, address in hosts.items())
    members = bool(spec.network.networks)
    if (hostname is not None or entries or members) and not provides(volumes, HOSTS):
        # A member has its host name at its address in the first network.
        yield ShowHosts(name=None if members else hostname, entries=entries, members=members)
    if resolver is not None and not provides(volumes, RESOLV_CONF):
        yield ShowResolver(content=resolver)


def provides(volumes: tuple[VolumeOperation, ...], path: str) -> bool:
    """Tell whether a volume provides *path*, a file in /etc."""
    return any(step.target in ("/etc", path) for step in volumes)


def _checked(direct_binds: tuple[DirectBind, ...], volumes: tuple[VolumeOperation, ...]) -> tuple[str, ...]:
    return tuple(step.target for step in (*direct_binds, *volumes))


def _plan_owners(volumes: tuple[VolumeOperation, ...], user: User) -> tuple[ChownVolumes, ...]:
    """Return the operation that gives *user* the sandbox's own volumes; none for user 0, who owns them when they are made."""
    if user.user in (0, "root") and user.group in (None, 0, "root"):
        return ()
    made = tuple(step.target for step in volumes if not isinstance(step, BindVolume))
    # A named volume that is read-only here keeps its owner until a sandbox mounts it writable.
    named = tuple(
        step.target
        for step in volumes
        if isinstance(step, BindVolume) and step.name is not None and not step.read_only
    )
    if not made and not named:
        return ()
    return (ChownVolumes(user=user.user, group=user.group, made=made, named=named),)


def masked_paths(spec: Spec, namespaces: NamespacePlan) -> tuple[str, ...]:
    """Return the paths to mask: the constant ones, parts of the host's /sys that are not the sandbox's, and those of the file."""
    of_host: tuple[str, ...] = ()
    joined = {join.kind for join in namespaces.joins}
    if not namespaces.owned("net"):
        if "cgroup" in namespaces.private | joined:
            of_host += ("/sys/fs/cgroup",)
        if "net" in joined:  # its devices are not the host's
            of_host += _DEVICES
    return tuple(dict.fromkeys((*MASKED_PATHS, *of_host, *spec.security.masked_paths)))


def read_only_paths(spec: Spec) -> tuple[str, ...]:
    """Return the paths to make read-only: the constant ones, and those of the file."""
    return tuple(dict.fromkeys((*READONLY_PATHS, *spec.security.readonly_paths)))


def _hostname(name: str) -> str:
    return re.sub(r"[^a-z0-9-]+", "-", name)[:63].strip("-") or "sandbox"
