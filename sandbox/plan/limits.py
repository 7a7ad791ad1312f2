"""Plan the resource limits of the sandbox: those that a cgroup enforces, and the rlimits of each process."""

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

CGROUP_LIMITS = tuple(CONTROLLER_OF)
PROCESS_LIMITS = tuple(rlimits.RESOURCES)

#: The names of the limits in limits.conf(5); in capitals after RLIMIT_ they are the names of getrlimit(2).
LIMITS_CONF_NAMES = {
    "open_files": "nofile",
    "processes": "nproc",
    "file_size": "fsize",
    "core": "core",
    "stack": "stack",
    "cpu_time": "cpu",
}


#: The least memory (bytes) and process count that the file system server gets beside a program with limits.
_SERVER_MEMORY = 1 << 30
_SERVER_PIDS = 128
_RATES = ("read", "write", "read_operations", "write_operations")


def wants_cgroup(spec: Spec) -> bool:
    """Tell whether *spec* asks for a limit that needs a cgroup."""
    return any(getattr(spec.limits, name) not in (None, ()) for name in CGROUP_LIMITS)


def plan_cgroup(
    spec: Spec, facts: HostFacts, paths: Mapping[str, PathFact], findings: Findings
) -> tuple[CgroupLimits, CgroupLevel]:
    """Return the limits that a cgroup of this machine can enforce, and the level of that cgroup; others are left out.

    The first cgroup level of this machine that enforces all limits is taken, otherwise the first that enforces most. No
    rlimit replaces a cgroup limit: an rlimit applies to one process, or to one user. RLIMIT_AS does not limit memory but
    address space. Runtimes with a JIT compiler reserve many times the memory that they use, and would not start under it.
    """
    wanted: dict[str, Any] = {name: getattr(spec.limits, name) for name in CGROUP_LIMITS}
    wanted["io"] = _plan_io(spec, paths, findings)
    limits = CgroupLimits(**wanted)
    refused = [(level, hierarchy.unenforceable(limits)) for level, hierarchy in facts.cgroup_levels]
    level, reasons = min(refused, key=lambda found: len(found[1]))
    for name, reason in reasons.items():
        value, wanted[name] = wanted[name], () if name == "io" else None
        if name in spec.limits.optional:
            findings.degrade(f"limits.{name}", None, reason, value=value)
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
    """Return the limits of the file system server beside a program with *limits*.

    The server works for the program, so the program must not evade its own limits through the server. However low those
    are, the server needs memory for the tree that it serves, a processor to reply, and threads.
    """
    return CgroupLimits(
        memory=None if limits.memory is None else max(limits.memory, _SERVER_MEMORY),
        cpus=None if limits.cpus is None else max(limits.cpus, 1.0),
        pids=None if limits.pids is None else max(limits.pids, _SERVER_PIDS),
    )


def _plan_io(spec: Spec, paths: Mapping[str, PathFact], findings: Findings) -> tuple[IoRates, ...]:
    """Return the rates of each disk; if two entries limit the same disk, the lower rates apply."""
    found: dict[str, IoRates] = {}
    for index, limit in enumerate(spec.limits.io):
        fact = paths[limit.path]
        if fact.device is None:
            reason = fact.no_device or "it is not on a disk"
            if "io" in spec.limits.optional and not fact.remedy:
                unheld = IoRates(device=limit.path, **{name: getattr(limit, name) for name in _RATES})
                findings.degrade(f"limits.io[{index}]", None, f"{limit.path}: {reason}", value=(unheld,))
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
        return f"{hint}; `sandbox doctor` prints what is needed to enforce it"
    if facts.scopes.version == 0:
        why = next(iter(facts.scopes.unenforceable(CgroupLimits(pids=1)).values()))
        if facts.uid == 0:
            return f"{hint}; systemd could create a cgroup for it, but {why}"
        user = facts.user_name or facts.uid
        return f"{hint}; or log in as {user} (ssh) or, as root, loginctl enable-linger {user}: {why}"
    if CONTROLLER_OF[name] not in facts.scopes.controllers and facts.uid != 0:
        return f"{hint}; or let root delegate the {CONTROLLER_OF[name]} controller to accounts: `sandbox doctor` prints the command"
    return hint


def plan_process_limits(spec: Spec, facts: HostFacts, findings: Findings) -> Mapping[str, int | str]:
    """Return the rlimits that can be set; those above a hard limit are left out."""
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
                findings.degrade(f"limits.{name}", None, reason, value=value)
            else:
                findings.refuse(
                    f"limits.{name}", reason, _process_limit_hint(name, value, facts.hard_limits[name])
                )
    return wanted


def _process_limit_hint(name: str, value: int | str, hard: int) -> str:
    item = LIMITS_CONF_NAMES[name]
    enough = f"{value} or more" if isinstance(value, int) else value
    return (
        f'set at most {hard}, or optional = ["{name}"], or let root raise the hard limit: '
        f"{item} in limits.conf(5), to {enough}, and log in anew"
    )
