"""Build the report of `sandbox up --report`: how the program ended, what it used, and what enforced each limit. Pure."""

from __future__ import annotations

import resource
import signal
from collections.abc import Iterator, Sequence

from sandbox.kernel.cgroups import Cgroup, CgroupLimits, Counters, IoRates
from sandbox.plan import CGROUP_LEVELS, Plan
from sandbox.plan.operations import TmpfsVolume
from sandbox.runtime.process.reaping import ended_by_limit
from sandbox.spec import Limits
from sandbox.spec.notation import visible
from sandbox.spec.settings import settings_of
from sandbox.spec.units import format_duration, format_size
from unionfs._stdlib.dataclasses import asdict, dataclass
from unionfs._stdlib.typing import Literal

How = Literal["exit", "signal", "out of memory", "cpu_time", "wall_time", "failure"]

_BLOCK = 512  # the unit of ru_inblock and ru_oublock in bytes, for every disk; getrusage(2)
_GROWTH = 1.1  # the process, forked from process 1, may have grown by this factor before exec
#: The settings of [limits] in the order of the specification, and those of them that are bytes.
_ORDER = tuple(settings_of(Limits))
_BYTES = frozenset(name for name, declared in settings_of(Limits).items() if declared.unit == "bytes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """What ended the program: *status* is the exit status of `sandbox up`; *signal* is set if a signal ended the program."""

    how: How
    status: int
    signal: str | None = None

    def __str__(self) -> str:
        """Return it as text for the user."""
        with_signal = "" if self.signal is None else f" ({self.signal})"
        return {
            "exit": f"exit status {self.status}",
            "signal": f"signal {(self.signal or '').removeprefix('signal ')}",
            "out of memory": f"out of memory{with_signal}",
            "cpu_time": f"limits.cpu_time{with_signal}",
            "wall_time": "limits.wall_time",
            "failure": "a failure of the sandbox",
        }[self.how]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedLimit:
    """A limit and the mechanism that enforced it; *mechanism* is None if it was unenforced, for the *reason*.

    *value* is bytes, seconds, a count or a word; for `limits.io` it is a list of tables with the fields of `IoRates`.
    """

    key: str
    value: object
    mechanism: str | None
    where: str | None = None
    reason: str | None = None

    def __str__(self) -> str:
        """Return it as text for the user."""
        if self.mechanism is None:
            return f"{_shown(self.key, self.value)}, not enforced: {self.reason}"
        place = "" if self.where is None else f", {self.where}"
        return f"{_shown(self.key, self.value)}, enforced by {self.mechanism}{place}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The whole report. *program* counts the program's processes, *sandbox* also the file system server."""

    name: str
    ending: Ending
    wall_seconds: float
    program: Counters
    sandbox: Counters | None
    #: The mechanism that counted, and the reason why no better one did.
    measured_by: str
    unmeasured: str | None
    #: Peak memory in bytes of the launcher's own code in the program's process before exec, and of process 1. Set only if it
    #: cannot be separated from the program's memory: wait4(2) reports a process's peak, which execve(2) does not reset.
    launcher_memory: int | None
    #: Processes that still ran when the program ended, and ended with it; None if they were not counted.
    left_over: int | None
    limits: tuple[ReportedLimit, ...]
    #: Whether the root had a file system server.
    served: bool = True
    #: The connections and names that network.egress refused; None without it, and if they were not counted.
    refused: int | None = None

    def as_dict(self) -> dict[str, object]:
        """Return the report for JSON; null is an unknown value."""
        return {
            "name": self.name,
            "ended_by": self.ending.how,
            "status": self.ending.status,
            "signal": self.ending.signal,
            "wall_seconds": round(self.wall_seconds, 6),
            "measured_by": self.measured_by,
            "unmeasured": self.unmeasured,
            "launcher_memory": self.launcher_memory,
            "left_over": self.left_over,
            "refused": self.refused,
            "program": asdict(self.program),
            "sandbox": None if self.sandbox is None else asdict(self.sandbox),
            "limits": {
                limit.key: {
                    "value": limit.value,
                    "enforced_by": limit.mechanism,
                    "where": limit.where,
                    "reason": limit.reason,
                }
                for limit in self.limits
            },
        }

    def lines(self) -> list[str]:
        """Return the report as lines for the user."""
        told = {"ended by": str(self.ending), "wall time": f"{self.wall_seconds:.2f} s", **self._used()}
        if self.left_over:
            were = _count(self.left_over, "process was", "processes were")
            told["left over"] = f"{were} still running when the program ended, and ended with it"
        if self.refused is not None:
            told["network.egress"] = (
                f"refused {_count(self.refused, 'connection or name', 'connections or names')}"
            )
        told["measured by"] = self.measured_by + (f": {self.unmeasured}" if self.unmeasured else "")
        told |= {f"{limit.key}": str(limit) for limit in self.limits}
        width = max(map(len, told))
        return [f"report on {self.name}", *(f"  {label:{width}}  {text}" for label, text in told.items())]

    def _used(self) -> dict[str, str]:
        program, found = self.program, {}
        if program.cpu_nanoseconds is not None:
            parts = [
                f"{_seconds(program.user_nanoseconds)} user",
                f"{_seconds(program.system_nanoseconds)} system",
            ]
            held_back = program.throttled_nanoseconds
            found["cpu time"] = f"{_seconds(program.cpu_nanoseconds)} ({', '.join(parts)})" + (
                f"; throttled for {_seconds(held_back)}" if held_back else ""
            )
        if program.memory_peak is not None:
            own = self.launcher_memory
            hidden = (
                f", which includes {_size(own)} of the launcher before exec; the program may have used less"
                if own is not None and program.memory_peak <= own * _GROWTH
                else ""
            )
            found["memory"] = f"{_size(program.memory_peak)} at most{hidden}" + _many(
                ("throttled {} times", program.memory_high_events), ("{} killed", program.oom_kills)
            )
        if program.pids_peak is not None or program.pids_max_events:
            forks = _count(program.pids_max_events, "fork", "forks") if program.pids_max_events else None
            most = "" if program.pids_peak is None else f"{program.pids_peak} at most"
            found["processes"] = (most + _many(("{} failed", forks))).removeprefix("; ")
        whole = self.sandbox or program
        if whole.io_read is not None and whole.io_written is not None:
            found["disks"] = f"{_size(whole.io_read)} read, {_size(whole.io_written)} written"
        if self.served and self.sandbox is not None and self.sandbox.cpu_nanoseconds is not None:
            memory = self.sandbox.memory_peak
            found["with the server"] = f"{_seconds(self.sandbox.cpu_nanoseconds)} cpu time" + (
                "" if memory is None else f", at most {_size(memory)} of memory"
            )
        return found


def ending(
    status: int,
    code: int | None,
    init_code: int,
    *,
    timed_out: bool,
    failed: bool,
    oom_kills: int | None,
    out_of_time: str = "",
    interrupted: int = 0,
) -> Ending:
    """Return what ended the program.

    Args:
        status: the exit status of `sandbox up`.
        code: the program's end as process 1 reported it; None if it reported none.
        init_code: the end of process 1 itself.
        timed_out: the supervisor's timer expired.
        failed: a part of the sandbox failed.
        oom_kills: processes of the program that the kernel killed for lack of memory; None if they were not counted.
        out_of_time: which process reached limits.cpu_time; see `Children`.
        interrupted: the signal to the supervisor that interrupted the start; it takes precedence. 0 for none.
    """
    if interrupted:
        return Ending(how="signal", status=128 + interrupted, signal=signal.Signals(interrupted).name)
    if failed:
        return Ending(how="failure", status=status)
    if timed_out:
        return Ending(how="wall_time", status=status, signal="SIGKILL")
    ended = code if code is not None else init_code
    if ended >= 0:
        return Ending(how="exit", status=status)
    names = {number.value: number.name for number in signal.Signals}
    name = names.get(-ended, f"signal {-ended}")  # most real-time signals have no name
    if out_of_time == "program" and ended_by_limit(ended):
        return Ending(how="cpu_time", status=status, signal=name)
    if name == "SIGKILL" and oom_kills:
        return Ending(how="out of memory", status=status, signal=name)
    return Ending(how="signal", status=status, signal=name)


def counters_of(usage: resource.struct_rusage) -> Counters:
    """Return the counters of wait4(2) for process 1 and everything it reaped; the memory is that of the largest process."""
    return Counters(
        memory_peak=usage.ru_maxrss * 1024,
        cpu_nanoseconds=round((usage.ru_utime + usage.ru_stime) * 1e9),
        user_nanoseconds=round(usage.ru_utime * 1e9),
        system_nanoseconds=round(usage.ru_stime * 1e9),
        io_read=usage.ru_inblock * _BLOCK,
        io_written=usage.ru_oublock * _BLOCK,
    )


def reported_limits(plan: Plan, cgroup: Cgroup | None) -> tuple[ReportedLimit, ...]:
    """Return every limit that *plan* sets, enforced or not, with its mechanism; [limits] in the order of the specification."""
    return tuple(sorted(_limits(plan, cgroup), key=_place))


def _place(limit: ReportedLimit) -> int:
    """Return the sort key of *limit*: its index among the settings of [limits]. All others come last, in their order."""
    table, _, name = limit.key.partition(".")
    return _ORDER.index(name.partition("[")[0]) if table == "limits" else len(_ORDER)


def _limits(plan: Plan, cgroup: Cgroup | None) -> Iterator[ReportedLimit]:
    mechanism = CGROUP_LEVELS[plan.cgroup_level]
    for name in plan.cgroup.given() if cgroup is not None else ():
        assert cgroup is not None
        value = _plain(getattr(plan.cgroup, name))
        yield ReportedLimit(
            key=f"limits.{name}", value=value, mechanism=mechanism, where=cgroup.file_of(name)
        )
    for name, limit in plan.process.rlimits.items():
        yield ReportedLimit(key=f"limits.{name}", value=limit, mechanism="an rlimit of each process")
    if plan.wall_time is not None:
        yield ReportedLimit(
            key="limits.wall_time", value=plan.wall_time, mechanism="a timer of the supervisor"
        )
    if plan.process.oom_score_adj is not None:
        value, where = plan.process.oom_score_adj, "/proc/self/oom_score_adj"
        yield ReportedLimit(key="limits.oom_score_adj", value=value, mechanism="the kernel", where=where)
    for key, bound in (("root.size", plan.size), ("root.inodes", plan.inodes)):
        if bound is not None:
            yield ReportedLimit(key=key, value=bound, mechanism="unionfs")
    for volume in plan.operations:
        if isinstance(volume, TmpfsVolume) and volume.size is not None:
            key = f"volumes: size of {volume.target}"
            yield ReportedLimit(
                key=key, value=volume.size, mechanism="an option of the mount", where=volume.target
            )
    for difference in plan.differences:
        if difference.key.startswith("limits."):
            value = _plain(difference.value)
            yield ReportedLimit(key=difference.key, value=value, mechanism=None, reason=difference.reason)


def reached(plan: Plan, counters: Counters | None, full: frozenset[str], out_of_time: str = "") -> list[str]:
    """Return messages about the limits at which the kernel or the file system server refused something."""
    found = []
    limits = plan.cgroup
    if counters is not None and counters.oom_kills:
        what = (
            "the machine has no memory left"
            if limits.memory is None
            else f"limits.memory of {_size(limits.memory)} was reached"
        )
        found.append(
            f"out of memory: {what}, and the kernel killed {_count(counters.oom_kills, 'process', 'processes')}"
        )
    if counters is not None and counters.pids_max_events and limits.pids is not None:
        forks = _count(counters.pids_max_events, "fork", "forks")
        found.append(f"limits.pids of {limits.pids} was reached, and {forks} failed")
    if out_of_time:
        who = "the program" if out_of_time == "program" else "another process"
        seconds = plan.process.rlimits["cpu_time"]
        found.append(f"limits.cpu_time of {_shown('limits.cpu_time', seconds)} was reached by {who}")
    if "size" in full and plan.size is not None:
        found.append(
            f"root.size of {_size(plan.size)} was reached: the writable layer was full, and writing failed"
        )
    if "inodes" in full and plan.inodes is not None:
        found.append(
            f"root.inodes of {plan.inodes} was reached: the writable layer was full, and creating files failed"
        )
    return found


def closed_directories(paths: Sequence[str], uid: int) -> str:
    """Return the warning about directories of layers, *paths*, that the program accessed but user *uid* may not search."""
    directories = _count(len(paths), "directory", "directories")
    first = "".join(map(visible, paths[0]))
    others = "" if len(paths) == 1 else " and others"
    return (
        f"user {uid} may not search {directories} of the layers ({first}{others}): the program got EACCES there; "
        "name a root that another user unpacked as an archive (tar:), or start the sandbox as that user"
    )


def server_was_short(limits: CgroupLimits, counters: Counters) -> str | None:
    """Return why the file system server ended, if it exceeded its own memory limit; else None."""
    if not counters.oom_kills or limits.memory is None:
        return None
    return (
        f"it used more than the {_size(limits.memory)} of memory that it may use in addition to limits.memory"
    )


def _count(number: int, one: str, many: str) -> str:
    return f"1 {one}" if number == 1 else f"{number} {many}"


def _many(*counted: tuple[str, int | str | None]) -> str:
    return "".join("; " + text.format(number) for text, number in counted if number)


def _plain(value: object) -> object:
    return [asdict(rates) for rates in value] if isinstance(value, tuple) else value


def _shown(key: str, value: object) -> str:
    name = key.rpartition(".")[2]
    if isinstance(value, list):
        return ", ".join(str(IoRates(**item)) for item in value)
    if isinstance(value, int) and (name in _BYTES or key == "root.size" or key.startswith("volumes: size")):
        return _size(value)
    if name in ("wall_time", "cpu_time") and isinstance(value, int | float):
        return format_duration(value)
    return str(value)


def _seconds(nanoseconds: int | None) -> str:
    return "unknown" if nanoseconds is None else f"{nanoseconds / 1e9:.2f} s"


def _size(value: int) -> str:
    """Return a size for the user: exact if that is short, which holds for most sizes written in a file."""
    exact = format_size(value)
    if len(exact) <= 5:
        return exact
    scaled = float(value)
    for unit in ("", "K", "M", "G", "T"):
        if scaled < 1024 or unit == "T":
            break
        scaled /= 1024
    return f"{scaled:.1f}{unit}"
