"""The section about limits: what holds each, or that nothing does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from sandbox.explain.case import Case
from sandbox.explain.report import Fact
from sandbox.kernel import rlimits
from sandbox.kernel.cgroups import CgroupLimits, Hierarchy, v1, v2
from sandbox.kernel.cgroups.base import directory_of
from sandbox.plan.limits import CGROUP_LIMITS, LIMITS_CONF_NAMES, PROCESS_LIMITS
from sandbox.spec.units import format_duration, format_size

#: What each limit counts, for people.
_UNITS = {
    "memory": "bytes", "swap": "bytes", "cpus": "processors", "cpu_weight": "of 10000, where 100 is usual",
    "pids": "processes and threads", "open_files": "files", "processes": "processes of one user",
    "file_size": "bytes", "core": "bytes", "stack": "bytes", "cpu_time": "seconds of one process",
}  # fmt: skip


def mechanisms(hierarchy: Hierarchy, name: str, limits: CgroupLimits) -> Mapping[str, str]:
    """Return the cgroup file that will hold each of *limits* in the sandbox *name*.

    The directory of a run ends in random digits, for which `*` stands; the limits are those of its leaf `payload`.
    """
    leaf = f"{directory_of(name)}-*/payload"
    found = {}
    for limit in limits.given():
        # Swap is written as the sum of both, after memory: the last setting is the one of the limit itself.
        memory = limits.memory if limit == "swap" else None
        alone = CgroupLimits(**{"memory": memory, limit: getattr(limits, limit)})
        if isinstance(hierarchy, v2.V2Hierarchy):
            found[limit] = f"{hierarchy.directory}/{leaf}/{v2.settings(alone)[-1][0]}"
        elif isinstance(hierarchy, v1.V1Hierarchy):
            controller, file, _ = v1.settings(alone)[-1]
            found[limit] = f"{dict(hierarchy.directories)[controller]}/{leaf}/{file}"
    return found


def limits_section(case: Case) -> Iterator[Fact]:
    """Yield every limit of the language that this version can hold."""
    held = mechanisms(case.facts.cgroups, case.plan.name, case.plan.cgroup)
    for name in CGROUP_LIMITS:
        value = getattr(case.plan.cgroup, name)
        text = None if value is None else f"{_amount(name, value)}, held by {held.get(name)}"
        yield _limit(case, name, value, text, f"cgroup version {case.facts.cgroups.version}", held.get(name))
    for name in PROCESS_LIMITS:
        resource = f"RLIMIT_{LIMITS_CONF_NAMES[name].upper()}"
        value = case.plan.process.rlimits.get(name)
        text = None if value is None else f"{_amount(name, value)}, held by the kernel, {resource}"
        yield _limit(case, name, value, text, "rlimit", resource)
    wall, adjustment = case.plan.wall_time, case.plan.process.oom_score_adj
    text = (
        None
        if wall is None
        else f"{format_duration(wall)}, held by a timer of the supervisor, which then kills process 1"
    )
    yield _limit(case, "wall_time", wall, text, "timer", None)
    text = None if adjustment is None else f"{adjustment}, written to /proc/self/oom_score_adj"
    yield _limit(case, "oom_score_adj", adjustment, text, "proc", "/proc/self/oom_score_adj")


def _limit(
    case: Case, name: str, value: float | str | None, text: str | None, mechanism: str, where: str | None
) -> Fact:
    key = f"limits.{name}"
    held = {
        "limit": value,
        "enforced_by": None if value is None else mechanism,
        "where": None if value is None else where,
    }
    if text is not None:
        return Fact(label=name, text=text, value=held, origin=case.origin(key), keys=(key,))
    dropped, refused = case.differs(key), case.refused(key)
    if dropped is not None:
        origin = case.decided_here(dropped, key)
        return Fact(label=name, text="nothing holds it", value=held, origin=origin, keys=(key,))
    if refused is not None:
        return Fact(label=name, text=f"refused: {refused}", value=held, origin=case.origin(key), keys=(key,))
    return Fact(label=name, text=_unlimited(case, name), value=held, origin=case.origin(key), keys=(key,))


def _unlimited(case: Case, name: str) -> str:
    if name in PROCESS_LIMITS:
        hard = case.facts.hard_limits[name]
        most = "which can be unlimited" if hard == rlimits.UNLIMITED else f"at most {hard}"
        return f"that of whoever starts the sandbox, {most}"
    if name == "oom_score_adj":
        return "that of whoever starts the sandbox"
    return "the usual share" if name == "cpu_weight" else "nothing limits it"


def _amount(name: str, value: float | str) -> str:
    unit = _UNITS[name]
    if unit == "bytes" and isinstance(value, int):
        return f"{format_size(value)} bytes" if value < 1024 else format_size(value)
    return f"{value:g} {unit}" if isinstance(value, float) else f"{value} {unit}"
