"""Find out where this process may make cgroups and which limits they can enforce, and remove stale ones; cgroups(7).

:func:`detect` only reads. Its :class:`Hierarchy` reports which limits it cannot enforce and why, and creates the
:class:`Cgroup` of a sandbox. ``v1`` and ``v2`` have the same methods.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from sandbox.kernel.cgroups import base, v1, v2
from sandbox.kernel.cgroups.base import (
    CONTROLLER_OF,
    NO_LIMITS,
    Cgroup,
    CgroupFiles,
    CgroupLimits,
    Counters,
    Hierarchy,
    IoRates,
    Leaf,
)
from sandbox.kernel.mountinfo import MountEntry, parse_mountinfo
from unionfs._stdlib.dataclasses import dataclass

__all__ = [
    "CONTROLLER_OF",
    "NO_LIMITS",
    "Cgroup",
    "CgroupFiles",
    "CgroupLimits",
    "Counters",
    "Hierarchy",
    "IoRates",
    "Leaf",
    "NoHierarchy",
    "detect",
    "remove_stale",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class NoHierarchy:
    """No cgroup can be made, for *reason*. *delegable* is True if version 2 is mounted, whose cgroups can be delegated."""

    reason: str
    delegable: bool = False

    @property
    def version(self) -> int:
        """Return 0."""
        return 0

    @property
    def controllers(self) -> frozenset[str]:
        """Return an empty set."""
        return frozenset()

    def unenforceable(self, limits: CgroupLimits) -> dict[str, str]:
        """Return every given limit with *reason*."""
        return dict.fromkeys(limits.given(), self.reason)

    def paths_of(self, name: str) -> tuple[str, ...]:  # noqa: ARG002 - as the others have it
        """Return an empty tuple."""
        return ()

    def file_of(self, name: str, limit: str) -> str:
        """Raise ValueError.

        Raises:
            ValueError: always; no cgroup can be made.
        """
        raise ValueError(f"{limit} of {name} cannot be enforced: {self.reason}")

    def create(self, name: str, limits: CgroupLimits, server: CgroupLimits = NO_LIMITS) -> Cgroup:
        """Raise ValueError.

        Raises:
            ValueError: always; version 0 and :meth:`unenforceable` have shown that before.
        """
        raise ValueError(f"no cgroup for {name}, {limits}, {server}: {self.reason}")


def detect(
    mountinfo_text: str,
    self_cgroup_text: str,
    *,
    euid: int | None = None,
    root: str = "",
    files: CgroupFiles | None = None,
) -> Hierarchy:
    """Return where this process may make cgroups, according to its /proc/self/mountinfo and /proc/self/cgroup.

    Permissions are checked with access(2), not concluded from ids. If both versions are mounted, the one with more usable
    controllers is chosen.

    Args:
        mountinfo_text: the content of /proc/self/mountinfo.
        self_cgroup_text: the content of /proc/self/cgroup.
        euid: our effective user id; None: get it from the kernel.
        root: put before every mount point, for tests.
        files: replaces the file access, for tests.
    """
    files = files or CgroupFiles()
    is_root = (os.geteuid() if euid is None else euid) == 0
    mounted = [entry for entry in parse_mountinfo(mountinfo_text) if entry.fstype in ("cgroup", "cgroup2")]
    memberships = _parse_self_cgroup(self_cgroup_text)
    found = [
        _detect_v2(mounted, memberships, root, files, is_root=is_root),
        _detect_v1(mounted, memberships, root, files),
    ]
    usable = [hierarchy for hierarchy in found if not isinstance(hierarchy, str | None)]
    if usable:
        return max(usable, key=lambda hierarchy: len(hierarchy.controllers & set(v2.CONTROLLERS)))
    reasons = [reason for reason in found if isinstance(reason, str)]
    reason = reasons[0] if reasons else "no cgroup file system is mounted"
    return NoHierarchy(reason=reason, delegable=isinstance(found[0], str))


def _parse_self_cgroup(text: str) -> dict[str, str]:
    """Return the path of our cgroup by controller; the key "" is version 2."""
    result = {}
    for line in text.splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if path:
            result.update(dict.fromkeys(controllers.split(","), path))
    return result


def _own_directory(entry: MountEntry, path: str, root: str) -> str | None:
    """Return the directory of the cgroup *path* below the mount *entry*, or None if that mount does not show it."""
    if path.startswith("/.."):
        return None  # outside our cgroup namespace
    if entry.root != "/":
        if path != entry.root and not path.startswith(entry.root + "/"):
            return None
        path = path[len(entry.root) :]
    return root + entry.mount_point.rstrip("/") + path.rstrip("/")


def _detect_v2(
    mounted: Iterable[MountEntry],
    memberships: dict[str, str],
    root: str,
    files: CgroupFiles,
    *,
    is_root: bool,
) -> v2.V2Hierarchy | str | None:
    reason = None
    for entry in mounted:
        if entry.fstype != "cgroup2" or "" not in memberships:
            continue
        own = _own_directory(entry, memberships[""], root)
        if own is None or not files.exists(f"{own}/cgroup.controllers"):
            reason = f"the cgroup of this process {memberships['']} is not visible under {entry.mount_point}"
            continue
        result = v2.examine(own, root + entry.mount_point.rstrip("/"), is_root=is_root, files=files)
        if not isinstance(result, str):
            return result
        reason = result
    return reason


def _detect_v1(
    mounted: Iterable[MountEntry], memberships: dict[str, str], root: str, files: CgroupFiles
) -> v1.V1Hierarchy | str | None:
    directories: dict[str, str] = {}
    refused: dict[str, str] = {}
    for entry in mounted:
        if entry.fstype != "cgroup":
            continue
        for controller in (name for name in v1.CONTROLLERS if name in entry.super_options):
            if controller in directories or controller not in memberships:
                continue
            own = _own_directory(entry, memberships[controller], root)
            if own is None or not files.exists(f"{own}/cgroup.procs"):
                refused[controller] = (
                    f"the cgroup of this process {memberships[controller]} is not visible under {entry.mount_point}"
                )
            elif not files.writable(own):
                refused[controller] = (
                    f"{own} is not writable: cgroups of version 1 belong to root, unless root delegates this directory"
                )
            else:
                directories[controller] = own
                refused.pop(controller, None)
    if directories:
        usable = (
            base.read_optional(files, f"{directories['cpuset']}/cpuset.effective_cpus")
            if "cpuset" in directories
            else ""
        )
        return v1.V1Hierarchy(
            directories=tuple(directories.items()),
            refused=tuple(refused.items()),
            processors=(usable or "").strip(),
            files=files,
        )
    return next(iter(refused.values()), None)


def remove_stale(
    paths: Iterable[str], *, timeout: float = 5, files: CgroupFiles | None = None
) -> tuple[str, ...]:
    """Kill the processes in the cgroups *paths* of a sandbox whose supervisor is gone, and remove the cgroups.

    Only a directory that has our prefix and is a cgroup is touched. Returns the paths that could not be removed. Cgroups that do
    not exist any more, or that may not be removed, raise no error.
    """
    files = files or CgroupFiles()
    left = []
    for path in paths:
        if not os.path.basename(path).startswith(base.PREFIX) or not files.exists(f"{path}/cgroup.procs"):
            if files.exists(path):
                left.append(path)
            continue
        try:
            base.kill_processes(files, base.all_directories(files, path), timeout)
            base.remove_tree(files, path, timeout)
        except OSError:
            left.append(path)
    return tuple(left)
