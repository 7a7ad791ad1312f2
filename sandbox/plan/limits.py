"""What the sandbox may use: limits that a cgroup holds, and those of each process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sandbox.host.facts import CgroupLevel, HostFacts
from sandbox.host.paths import PathFact
from sandbox.kernel import rlimits
from sandbox.kernel.cgroups import CONTROLLER_OF, CgroupLimits, IoRates
from sandbox.plan.findings import Findings
from sandbox.spec.model import Spec
from sandbox.spec.notation import literal
from unionfs._stdlib.typing import Any

CGROUP_LIMITS = ("memory", "memory_high", "swap", "cpus", "cpu_weight", "cpuset", "pids", "io")
PROCESS_LIMITS = tuple(rlimits.RESOURCES)

#: The limits as limits.conf(5) calls them; in capitals behind RLIMIT_ they are those of getrlimit(2).
LIMITS_CONF_NAMES = {
    "open_files": "nofile",
    "processes": "nproc",
    "file_size": "fsize",
    "core": "core",
    "stack": "stack",
    "cpu_time": "cpu",
}


#: What the file system's server may have at least, beside a program with limits.
_SERVER_MEMORY = 1 << 30
_SERVER_PIDS = 128
_RATES = ("read", "write", "read_operations", "write_operations")


def wants_cgroup(spec: Spec) -> bool:
    """Tell whether *spec* asks for a limit that takes a cgroup."""
    return any(getattr(spec.limits, name) not in (None, ()) for name in CGROUP_LIMITS)


def plan_cgroup(
    spec: Spec, facts: HostFacts, paths: Mapping[str, PathFact], findings: Findings
) -> tuple[CgroupLimits, CgroupLevel]:
    """Return the limits that a cgroup of this machine holds, and how it is had; those that it cannot hold are left out.

    Of the levels of this machine the first is taken that holds all limits, else the first that holds most. No rlimit stands
    in for a cgroup: each is of one process, or of one user. RLIMIT_AS, which looks like one of memory, counts addresses:
    runtimes that compile at run time reserve many times of what they use, and would not start.
    """
    wanted: dict[str, Any] = {name: getattr(spec.limits, name) for name in CGROUP_LIMITS}
    wanted["io"] = _plan_io(spec, paths, findings)
    limits = CgroupLimits(**wanted)
    refused = [(level, hierarchy.unenforceable(limits)) for level, hierarchy in facts.cgroup_levels]
    level, reasons = min(refused, key=lambda found: len(found[1]))
    for name, reason in reasons.items():
        value, wanted[name] = wanted[name], () if name == "io" else None
        if name in spec.limits.optional:
            findings.differ(f"limits.{name}", None, reason, value=value)
        else:
            alike = [other for other, why in reasons.items() if why == reason]
            optional = [
                *spec.limits.optional,
                *(other for other in alike if other not in spec.limits.optional),
            ]
            hint = _cgroup_hint(name, optional, facts)
            findings.refuse(f"limits.{name}", f"cannot be enforced here: {reason}", hint)
    return CgroupLimits(**wanted), level


def plan_server_cgroup(limits: CgroupLimits) -> CgroupLimits:
    """Return the limits of the file system's server beside a program with *limits*.

    It works for the program, so the program must not be able to take through it what it may not take itself. It needs
    memory for the tree that it shows, a processor to answer, and threads, however little the program has.
    """
    return CgroupLimits(
        memory=None if limits.memory is None else max(limits.memory, _SERVER_MEMORY),
        cpus=None if limits.cpus is None else max(limits.cpus, 1.0),
        pids=None if limits.pids is None else max(limits.pids, _SERVER_PIDS),
    )


def _plan_io(spec: Spec, paths: Mapping[str, PathFact], findings: Findings) -> tuple[IoRates, ...]:
    """Return the rates of each disk; of two for the same the lower ones hold."""
    found: dict[str, IoRates] = {}
    for index, limit in enumerate(spec.limits.io):
        fact = paths[limit.path]
        if fact.device is None:
            reason = fact.no_device or "it has no disk"
            if "io" in spec.limits.optional and not fact.remedy:
                unheld = IoRates(device=limit.path, **{name: getattr(limit, name) for name in _RATES})
                findings.differ(f"limits.io[{index}]", None, f"{limit.path}: {reason}", value=(unheld,))
            else:
                hint = 'name a path on a disk, or allow the sandbox to run without it: optional = ["io"]'
                findings.refuse(f"limits.io[{index}].path", f"{limit.path}: {reason}", fact.remedy or hint)
            continue
        before = found.get(fact.device, IoRates(device=fact.device))
        rates = {name: _lower(getattr(before, name), getattr(limit, name)) for name in _RATES}
        found[fact.device] = IoRates(device=fact.device, **rates)
    return tuple(found.values())


def _lower(one: int | None, other: int | None) -> int | None:
    return min((value for value in (one, other) if value is not None), default=None)


def _cgroup_hint(name: str, optional: Sequence[str], facts: HostFacts) -> str:
    them = "it" if len(optional) == 1 else "these"
    hint = f"remove it, or allow the sandbox to run without {them}: optional = {literal(list(optional))}"
    if not facts.systemd or facts.cgroups.version == 1:
        return f"{hint}; `sandbox doctor` says what would hold it"
    if facts.scopes.version == 0:
        why = next(iter(facts.scopes.unenforceable(CgroupLimits(pids=1)).values()))
        if facts.uid == 0:
            return f"{hint}; systemd could give it a cgroup, but {why}"
        user = facts.user_name or facts.uid
        return f"{hint}; or log in as {user} (ssh) or, as root, loginctl enable-linger {user}: {why}"
    if CONTROLLER_OF[name] not in facts.scopes.controllers and facts.uid != 0:
        return f"{hint}; or let root give accounts the {CONTROLLER_OF[name]} controller: `sandbox doctor` says how"
    return hint


def plan_process_limits(spec: Spec, facts: HostFacts, findings: Findings) -> Mapping[str, int | str]:
    """Return the limits of each process that can be set; those above a hard limit are left out."""
    wanted: dict[str, int | str] = {}
    for name in PROCESS_LIMITS:
        value = getattr(spec.limits, name)
        if value is None:
            continue
        try:
            rlimits.check({name: value}, facts.hard_limits)
            wanted[name] = value
        except ValueError as error:
            reason = str(error).removeprefix(f"{name}: ")
            if name in spec.limits.optional:
                findings.differ(f"limits.{name}", None, reason, value=value)
            else:
                findings.refuse(
                    f"limits.{name}", reason, _process_limit_hint(name, value, facts.hard_limits[name])
                )
    return wanted


def _process_limit_hint(name: str, value: int | str, hard: int) -> str:
    item = LIMITS_CONF_NAMES[name]
    enough = f"{value} or more" if isinstance(value, int) else value
    return (
        f'ask for at most {hard}, write optional = ["{name}"], or let root raise the hard limit: '
        f"{item} in limits.conf(5), to {enough}, and log in anew"
    )
