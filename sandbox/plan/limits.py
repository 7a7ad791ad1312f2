"""What the sandbox may use: limits that a cgroup holds, and those of each process."""

from __future__ import annotations

from collections.abc import Mapping

from sandbox.host import HostFacts
from sandbox.kernel import rlimits
from sandbox.kernel.cgroups import CgroupLimits
from sandbox.plan.findings import Findings
from sandbox.spec.model import Spec

CGROUP_LIMITS = ("memory", "swap", "cpus", "cpu_weight", "pids")
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


def plan_cgroup(spec: Spec, facts: HostFacts, findings: Findings) -> CgroupLimits:
    """Return the limits that a cgroup of this machine holds; those that it cannot hold are left out."""
    wanted = {name: getattr(spec.limits, name) for name in CGROUP_LIMITS}
    for name, reason in facts.cgroups.unenforceable(CgroupLimits(**wanted)).items():
        wanted[name] = None
        if name in spec.limits.optional:
            findings.differ(f"limits.{name}", None, reason)
        else:
            findings.refuse(f"limits.{name}", f"cannot be enforced here: {reason}", _cgroup_hint(name, facts))
    return CgroupLimits(**wanted)


def _cgroup_hint(name: str, facts: HostFacts) -> str:
    hint = f'remove it, or allow the sandbox to run without it: optional = ["{name}"]'
    if not (facts.systemd and facts.cgroups.delegable):
        return hint
    # A manager of the user has a cgroup that is the user's; root's own asks the system's manager.
    manager = "" if facts.uid == 0 else "--user "
    return f"{hint}; or start it in a cgroup of its own: systemd-run {manager}--scope -p Delegate=yes sandbox up ..."


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
                findings.differ(f"limits.{name}", None, reason)
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
