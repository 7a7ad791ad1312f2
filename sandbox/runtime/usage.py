"""What a sandbox has used, once process 1 has ended: warnings of limits that were reached, and the report of `up --report`."""

from __future__ import annotations

import resource
from collections.abc import Callable

from sandbox.errors import EXIT_TIMED_OUT
from sandbox.kernel.cgroups import Counters
from sandbox.plan import CGROUP_LEVELS, Plan
from sandbox.runtime import report
from sandbox.runtime.monitor import Monitor
from sandbox.runtime.phase import Life
from sandbox.runtime.report import Report
from sandbox.runtime.resources import SandboxResources
from unionfs._stdlib.dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class InitExit:
    """How process 1 ended: its exit code, negative for a signal, what it used (wait4(2)), and after how many seconds.

    *counters* are those of the program's cgroup, None without one.
    """

    status: int
    usage: resource.struct_rusage
    wall_seconds: float
    counters: Counters | None


def warn_of_limits(
    plan: Plan, exit_: InitExit, monitor: Monitor, uid: int, warn: Callable[[str], None]
) -> None:
    """Warn of each limit that the sandbox has reached, and of directories that user *uid* may not enter."""
    ended = monitor.program_ended
    out_of_time = "" if ended is None else ended.out_of_time
    for text in report.reached(plan, exit_.counters, frozenset(monitor.full), out_of_time):
        warn(text)
    if monitor.closed:
        warn(report.closed_directories(monitor.closed, uid))


def make_report(
    plan: Plan, resources: SandboxResources, life: Life, monitor: Monitor, exit_: InitExit
) -> Report:
    """Return what the sandbox has used and how it ended."""
    cgroup, ended, status = resources.cgroup, monitor.program_ended, exit_.status
    counters = exit_.counters
    final = EXIT_TIMED_OUT if life.timed_out else 128 - status if status < 0 else status
    if life.failure is not None:
        final = life.failure.exit_code
    ending = report.ending(
        final,
        None if ended is None else ended.code,
        status,
        interrupted=life.interrupted,
        timed_out=life.timed_out,
        failed=life.failure is not None,
        oom_kills=None if counters is None else counters.oom_kills,
        out_of_time="" if ended is None else ended.out_of_time,
    )
    return Report(
        name=plan.name,
        ending=ending,
        wall_seconds=exit_.wall_seconds,
        program=counters if counters is not None else report.counters_of(exit_.usage),
        sandbox=None if cgroup is None else cgroup.counters(),
        measured_by=CGROUP_LEVELS[plan.cgroup_level]
        if cgroup is not None
        else "wait4(2): memory of the largest process",
        unmeasured=resources.unmeasured,
        launcher_memory=None if cgroup is not None or ended is None else ended.memory,
        left_over=None if ended is None else ended.left_over,
        limits=report.reported_limits(plan, cgroup),
        served=resources.served,
        refused=None if resources.network is None else resources.network.count_refused(),
    )
