"""Probe cgroups: make them as for a sandbox, with a limit of each controller, and move a child process into them."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator, Mapping
from typing import Any

from sandbox.doctor.child import Report, cleaned_up_by, reason_of, run_limited, signals_blocked
from sandbox.doctor.facts import CgroupFacts
from sandbox.kernel.cgroups import Cgroup, CgroupFiles, CgroupLimits, Hierarchy, IoRates, remove_stale, v1, v2
from sandbox.kernel.cgroups.base import directory_of, processors
from sandbox.kernel.cgroups.scope import ScopeHierarchy
from sandbox.kernel.mountinfo import parse_mountinfo

LIMITS: Mapping[str, CgroupLimits] = {
    "memory": CgroupLimits(memory=1 << 28),
    "memory_high": CgroupLimits(memory_high=1 << 28),
    # Version 1 limits swap only together with memory.
    "swap": CgroupLimits(memory=1 << 28, swap=0),
    "pids": CgroupLimits(pids=64),
    "cpu": CgroupLimits(cpus=0.5),
}
"""A limit of each kind, large enough for the child process of the probe; see :func:`limits_to_try`."""

_SCOPE_SECONDS = 20.0  # for a service manager to make a scope, which usually takes hundredths

_REMOVAL_SECONDS = 2.0  # for a process of a killed probe to end


def probe_cgroups(hierarchy: Hierarchy, *, mountinfo: str, files: CgroupFiles | None = None) -> CgroupFacts:
    """Probe every limit of :func:`limits_to_try` below *hierarchy*; *mountinfo* is the text of /proc/self/mountinfo."""
    files = files or CgroupFiles()
    controllers: dict[str, str | None] = {}
    wanted: dict[str, CgroupLimits] = {}
    for name, limits in limits_to_try(hierarchy, files).items():
        reasons = hierarchy.unenforceable(limits)
        if reasons:
            controllers[name] = next(iter(reasons.values()))
        else:
            wanted[name] = limits
    results, problem = _try(hierarchy, wanted, files) if wanted else ({}, None)
    for name in wanted:
        controllers[name] = results.get(name, problem or "it was not tested")
    return CgroupFacts(mode=mode_of(mountinfo), controllers=controllers, problem=problem)


def limits_to_try(hierarchy: Hierarchy, files: CgroupFiles) -> Mapping[str, CgroupLimits]:
    """Return a limit of each kind. The processor and the disk in them are available in *hierarchy* and on this machine."""
    usable = sorted(processors(getattr(hierarchy, "processors", "")))
    disk = next(_disks(files), None)
    return {
        **LIMITS,
        "io": CgroupLimits(io=(IoRates(device=disk or "0:0", read=1 << 40),)),
        "cpuset": CgroupLimits(cpuset=str(usable[0] if usable else 0)),
    }


def _disks(files: CgroupFiles) -> Iterator[str]:
    """Yield the numbers of this machine's disks, those of loop and ram devices last."""
    base = "/sys/block"
    for name in sorted(
        os.listdir(base) if os.path.isdir(base) else (), key=lambda name: name.startswith(("loop", "ram"))
    ):
        with contextlib.suppress(OSError):
            yield files.read(f"{base}/{name}/dev").strip()


def _try(
    hierarchy: Hierarchy, names: Mapping[str, CgroupLimits], files: CgroupFiles
) -> tuple[Mapping[str, Any], str | None]:
    """Probe the limits *names*. Return the result of each, and an error that concerns all of them."""
    token = secrets.token_hex(4)
    if isinstance(hierarchy, v2.V2Hierarchy) and hierarchy.vacate:
        # The probe runs in this process: vacating the cgroup moves this process and its children, and a child could move only
        # itself. An interrupt before the return would leave a cgroup behind, so signals are blocked.
        results: dict[str, Any] = {}
        with signals_blocked():
            try:
                _try_each(results.__setitem__, hierarchy, names, token)
            except OSError as error:
                return results, reason_of(error)
        return results, None
    if isinstance(hierarchy, ScopeHierarchy):
        # The child moves itself into the scope, which systemd removes when the child has ended.
        def action(report: Report) -> None:
            _try_each(report, hierarchy.enter(_name(token, "scope")), names, token)

        outcome = run_limited(action, seconds=_SCOPE_SECONDS)
        return outcome.results, outcome.problem
    before = _enabled_controllers(hierarchy, files)

    def clean() -> None:
        left = [path for name in names for path in _places(hierarchy, _name(token, name))]
        remove_stale(filter(files.exists, left), files=files, timeout=_REMOVAL_SECONDS)
        _disable_controllers(hierarchy, files, _enabled_controllers(hierarchy, files) - before)

    with cleaned_up_by(clean):
        outcome = run_limited(lambda report: _try_each(report, hierarchy, names, token))
    return outcome.results, outcome.problem


def _name(token: str, name: str) -> str:
    return f"doctor-{token}-{name}"


def _places(hierarchy: Hierarchy, name: str) -> list[str]:
    """Return the directories that a cgroup *name* would have. A killed child cannot report which ones it made."""
    if isinstance(hierarchy, v2.V2Hierarchy):
        directories = [hierarchy.directory]
    elif isinstance(hierarchy, v1.V1Hierarchy):
        directories = [directory for _, directory in hierarchy.directories]
    else:
        directories = []
    return [f"{directory}/{directory_of(name)}" for directory in dict.fromkeys(directories)]


def _try_each(report: Report, hierarchy: Hierarchy, names: Mapping[str, CgroupLimits], token: str) -> None:
    for name, limits in names.items():
        try:
            group = hierarchy.create(_name(token, name), limits)
        except OSError as error:
            report(name, reason_of(error))
            continue
        try:
            _put_child_into(group)
            report(name, None)
        except OSError as error:
            report(name, f"no process could be moved into it: {reason_of(error)}")
        finally:
            group.kill()
            group.remove()


def _put_child_into(group: Cgroup) -> None:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(writer)
        os.read(reader, 1)  # returns when the parent closes its end or exits
        os._exit(0)
    os.close(reader)
    try:
        group.add(pid)
    finally:
        os.close(writer)
        os.waitpid(pid, 0)


def _enabled_controllers(hierarchy: Hierarchy, files: CgroupFiles) -> frozenset[str]:
    """Return the controllers that the cgroup of *hierarchy* enables for its children; version 1 has no such setting."""
    if not isinstance(hierarchy, v2.V2Hierarchy):
        return frozenset()
    return frozenset(files.read(f"{hierarchy.directory}/cgroup.subtree_control").split())


def _disable_controllers(hierarchy: Hierarchy, files: CgroupFiles, controllers: frozenset[str]) -> None:
    """Disable the *controllers* that making a cgroup enabled in its parent, unless a sandbox started meanwhile uses them."""
    if isinstance(hierarchy, v2.V2Hierarchy):
        for controller in sorted(controllers):
            with contextlib.suppress(OSError):
                files.write(f"{hierarchy.directory}/cgroup.subtree_control", f"-{controller}")


def mode_of(mountinfo: str) -> str:
    """Return which versions are mounted: "v1", "v2", "hybrid" or "none"."""
    types = {entry.fstype for entry in parse_mountinfo(mountinfo)}
    if "cgroup" in types:
        return "hybrid" if "cgroup2" in types else "v1"
    return "v2" if "cgroup2" in types else "none"
