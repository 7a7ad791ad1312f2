"""The operations that put the sandbox's file systems together, in the one order in which the kernel takes them."""

from __future__ import annotations

import re

from sandbox.kernel.idmaps import lookup
from sandbox.kernel.mounts import MASKED_PATHS, READONLY_PATHS
from sandbox.ops import (
    BindDevice,
    BuildDev,
    CheckVolumes,
    LoopbackUp,
    MaskPaths,
    MountProc,
    MountRoot,
    MountSys,
    Operation,
    PivotRoot,
    ReadOnlyPaths,
    SetHostname,
    VolumeOperation,
)
from sandbox.plan.values import IdPlan
from sandbox.spec.model import Spec

_TTY_GID = (
    5  # group "tty" of Debian and of most others; devpts takes it only where it is mapped (Corrections 18)
)
_ALWAYS = frozenset(("user", "mount", "pid"))
_SHAREABLE = ("net", "ipc", "uts", "cgroup")


def private_namespaces(spec: Spec) -> frozenset[str]:
    """Return the namespaces that the sandbox has for itself: all that are not shared with the host by name.

    One that is to be joined, which this version does not do, is a private one where the file allows it to go unenforced:
    never the host's.
    """
    return _ALWAYS | {name for name in _SHAREABLE if getattr(spec.namespaces, name) != "host"}


def plan_operations(
    spec: Spec,
    ids: IdPlan,
    private: frozenset[str],
    devices: tuple[BindDevice, ...],
    volumes: tuple[VolumeOperation, ...],
    name: str,
) -> tuple[Operation, ...]:
    """Order the operations."""
    read_only = spec.root.writable == "none"
    tty_gid = _TTY_GID if lookup(ids.gid_map, _TTY_GID) is not None else None
    operations: list[Operation] = [
        MountRoot(read_only=read_only, nosuid=spec.security.no_new_privileges),
        # While the host's are still attached: the kernel wants a fully visible one to compare with.
        MountProc(),
        MountSys(of_host="net" not in private),
        BuildDev(tty_gid=tty_gid, mqueue="ipc" in private),
        *devices,
        *volumes,
        *([CheckVolumes(targets=tuple(volume.target for volume in volumes))] if volumes else []),
        ReadOnlyPaths(paths=read_only_paths(spec)),
        MaskPaths(paths=masked_paths(spec, private)),
        PivotRoot(),
    ]
    if "uts" in private:
        operations.append(SetHostname(name=spec.sandbox.hostname or _hostname(name)))
    if "net" in private:
        operations.append(LoopbackUp())
    return tuple(operations)


def masked_paths(spec: Spec, private: frozenset[str]) -> tuple[str, ...]:
    """Return what is masked: always, with the cgroups of the host where /sys is the host's, and what the file adds."""
    of_host = ("/sys/fs/cgroup",) if "net" not in private and "cgroup" in private else ()
    return tuple(dict.fromkeys((*MASKED_PATHS, *of_host, *spec.security.masked_paths)))


def read_only_paths(spec: Spec) -> tuple[str, ...]:
    """Return what is read-only: always, and what the file adds."""
    return tuple(dict.fromkeys((*READONLY_PATHS, *spec.security.readonly_paths)))


def _hostname(name: str) -> str:
    return re.sub(r"[^a-z0-9-]+", "-", name)[:63].strip("-") or "sandbox"
