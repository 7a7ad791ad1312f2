"""Make the section about limits: the mechanism that enforces each limit, if any."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sandbox.explain.case import Case
from sandbox.explain.report import DEFAULT, Fact
from sandbox.kernel import rlimits
from sandbox.kernel.cgroups import CgroupLimits
from sandbox.plan import CGROUP_LEVELS
from sandbox.plan.limits import CGROUP_LIMITS, LIMITS_CONF_NAMES, PROCESS_LIMITS
from sandbox.spec.units import format_duration, format_size
from unionfs._stdlib.dataclasses import asdict

#: The unit of each limit, for people.
_UNITS = {
    "memory": "bytes", "memory_high": "bytes", "cpuset": "(numbers of processors)", "swap": "bytes", "cpus": "processors", "cpu_weight": "of 10000, where 100 is the default",
    "pids": "processes and threads", "open_files": "files", "processes": "processes of one user",
    "file_size": "bytes", "core": "bytes", "stack": "bytes", "cpu_time": "seconds of one process",
}  # fmt: skip


def limits_section(case: Case) -> Iterator[Fact]:
    """Yield a fact for each limit of the language that this version can enforce."""
    plan = case.plan
    mechanism, hierarchy = CGROUP_LEVELS[plan.cgroup_level], case.facts.cgroup_level(plan.cgroup_level)
    for name in CGROUP_LIMITS:
        value = None if getattr(plan.cgroup, name) == () else getattr(plan.cgroup, name)
        # The directory of a run ends in random digits.
        where = None if value is None else hierarchy.file_of(f"{plan.name}-*", name)
        text = None if value is None else f"{_amount(name, value)}, enforced by {mechanism}: {where}"
        yield _limit(case, name, _json_value(value), text, mechanism, where)
    if plan.server_cgroup.given():
        yield _server_limits(plan.server_cgroup, sure=plan.bound is None)
    for name in PROCESS_LIMITS:
        resource = f"RLIMIT_{LIMITS_CONF_NAMES[name].upper()}"
        value = case.plan.process.rlimits.get(name)
        text = None if value is None else f"{_amount(name, value)}, enforced by the kernel ({resource})"
        yield _limit(case, name, value, text, "rlimit", resource)
    wall, adjustment = case.plan.wall_time, case.plan.process.oom_score_adj
    text = (
        None
        if wall is None
        else f"{format_duration(wall)}, enforced by a timer of the supervisor, which kills process 1"
    )
    yield _limit(case, "wall_time", wall, text, "timer", None)
    lasts = (
        "which the program cannot lower"
        if case.facts.sys_resource
        else "which the program can lower again to the value that `up` inherits"
    )
    text = None if adjustment is None else f"{adjustment}, written to /proc/self/oom_score_adj, {lasts}"
    yield _limit(case, "oom_score_adj", adjustment, text, "proc", "/proc/self/oom_score_adj")


def _server_limits(limits: CgroupLimits, *, sure: bool) -> Fact:
    """Return the fact about the limits of the file system server, which runs in a cgroup beside that of the program."""
    found = {name: getattr(limits, name) for name in limits.given()}
    listed = ", ".join(f"{name} {_amount(name, value)}" for name, value in found.items())
    return Fact(
        label="server",
        text=f"the file system's server{'' if sure else ', if there is one,'} has limits of its own: {listed}",
        value=found,
        origin=DEFAULT,
    )


def _json_value(value: Any) -> Any:
    return [asdict(rates) for rates in value] if isinstance(value, tuple) else value


def _limit(case: Case, name: str, value: Any, text: str | None, mechanism: str, where: str | None) -> Fact:
    key = f"limits.{name}"
    amount = {
        "limit": value,
        "enforced_by": None if value is None else mechanism,
        "where": None if value is None else where,
    }
    if text is not None:
        return Fact(label=name, text=text, value=amount, origin=case.origin(key), keys=(key,))
    dropped, refused = case.differs(key), case.refused(key)
    if dropped is not None:
        origin = case.decided_here(dropped, key)
        return Fact(label=name, text="not enforced", value=amount, origin=origin, keys=(key,))
    if refused is not None:
        return Fact(
            label=name, text=f"refused: {refused}", value=amount, origin=case.origin(key), keys=(key,)
        )
    return Fact(label=name, text=_unlimited(case, name), value=amount, origin=case.origin(key), keys=(key,))


def _unlimited(case: Case, name: str) -> str:
    if name in PROCESS_LIMITS:
        hard = case.facts.hard_limits[name]
        most = "which can be unlimited" if hard == rlimits.UNLIMITED else f"at most {hard}"
        return f"the value that `up` inherits, {most}"
    if name == "oom_score_adj":
        return "the value that `up` inherits"
    return "the default share" if name == "cpu_weight" else "not limited"


def _amount(name: str, value: Any) -> str:
    if name == "io":
        return "; ".join(map(str, value))
    unit = _UNITS[name]
    if unit == "bytes" and isinstance(value, int):
        return f"{format_size(value)} bytes" if value < 1024 else format_size(value)
    return f"{value:g} {unit}" if isinstance(value, float) else f"{value} {unit}"
