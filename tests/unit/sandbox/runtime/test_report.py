"""The report at the end of a sandbox: the exact text and JSON, from fixed counters."""

from __future__ import annotations

import resource
from typing import Any

import pytest

from sandbox.host.paths import PathFact
from sandbox.kernel import rlimits
from sandbox.kernel.cgroups import CgroupLimits, Counters
from sandbox.kernel.cgroups.v2 import V2Cgroup, V2Hierarchy
from sandbox.runtime import report
from tests.unit.sandbox.facts import host, plan

CGROUP = V2Cgroup(directory="/own/sandbox-x")
SPEC = """
[root]
layers = ["dir:/"]
size = "8M"
inodes = 100
[limits]
memory = "64M"
pids = 30
io = [{ path = "/", read = "10M" }]
open_files = 99
cpu_time = 5
wall_time = "2s"
oom_score_adj = 500
swap = 0
optional = ["swap"]
[[volumes]]
type = "tmpfs"
target = "/t"
size = "1M"
"""
HIERARCHY = V2Hierarchy(
    directory="/own", available=frozenset({"memory", "pids", "io"}), enabled=frozenset(), has_swap=False
)
PLAN = plan(SPEC, host(cgroups=HIERARCHY))
USED = Counters(
    memory_peak=(64 << 20) - 4096,
    cpu_nanoseconds=1_500_000_000,
    user_nanoseconds=1_000_000_000,
    system_nanoseconds=500_000_000,
    throttled_nanoseconds=250_000_000,
    memory_high_events=3,
    oom_kills=2,
    pids_peak=30,
    pids_max_events=1,
    io_read=1000,
    io_written=0,
)
WHOLE = Counters(memory_peak=90 << 20, cpu_nanoseconds=2_000_000_000, io_read=3 << 20, io_written=1 << 20)


def made(**changes: Any) -> report.Report:
    values: dict[str, Any] = {
        "name": "x",
        "ending": report.Ending(how="out of memory", status=137, signal="SIGKILL"),
        "wall_seconds": 2.345,
        "program": USED,
        "sandbox": WHOLE,
        "measured_by": "cgroup version 2, delegated",
        "unmeasured": None,
        "launcher_memory": None,
        "left_over": 0,
        "refused": None,
        "limits": report.reported_limits(PLAN, CGROUP),
    }
    return report.Report(**{**values, **changes})


def test_report_in_words() -> None:
    assert made().lines() == [
        "report on x",
        "  ended by              out of memory (SIGKILL)",
        "  wall time             2.35 s",
        "  cpu time              1.50 s (1.00 s user, 0.50 s system); throttled for 0.25 s",
        "  memory                64.0M at most; throttled 3 times; 2 killed",
        "  processes             30 at most; 1 fork failed",
        "  disks                 3M read, 1M written",
        "  with the server       2.00 s cpu time, at most 90M of memory",
        "  measured by           cgroup version 2, delegated",
        "  limits.memory         64M, enforced by cgroup version 2, delegated, /own/sandbox-x/payload/memory.max",
        "  limits.swap           0, not enforced: this kernel does not account swap (CONFIG_SWAP, swapaccount=1)",
        "  limits.pids           30, enforced by cgroup version 2, delegated, /own/sandbox-x/payload/pids.max",
        "  limits.io             8:0 read=10485760, enforced by cgroup version 2, delegated, /own/sandbox-x/io.max",
        "  limits.open_files     99, enforced by an rlimit of each process",
        "  limits.cpu_time       5s, enforced by an rlimit of each process",
        "  limits.wall_time      2s, enforced by a timer of the supervisor",
        "  limits.oom_score_adj  500, enforced by the kernel, /proc/self/oom_score_adj",
        "  root.size             8M, enforced by unionfs",
        "  root.inodes           100, enforced by unionfs",
        "  volumes: size of /t   1M, enforced by an option of the mount, /t",
    ]


def test_without_a_server_nothing_is_said_of_what_it_used() -> None:
    assert [line for line in made(served=False).lines() if "server" in line] == []
    assert "served" not in made(served=False).as_dict()


def test_report_as_json() -> None:
    told = made().as_dict()
    assert {key: told[key] for key in ("name", "ended_by", "status", "signal", "wall_seconds")} == {
        "name": "x",
        "ended_by": "out of memory",
        "status": 137,
        "signal": "SIGKILL",
        "wall_seconds": 2.345,
    }
    assert isinstance(told["program"], dict)
    assert told["program"]["pids_peak"] == 30
    assert isinstance(told["limits"], dict)
    assert told["limits"]["limits.pids"] == {
        "value": 30,
        "enforced_by": "cgroup version 2, delegated",
        "where": "/own/sandbox-x/payload/pids.max",
        "reason": None,
    }
    assert told["limits"]["limits.swap"]["enforced_by"] is None


def test_a_limit_has_the_same_value_and_place_whether_something_holds_it_or_not() -> None:
    spec = """
[root]
layers = ["dir:/"]
[limits]
oom_score_adj = 500
cpu_time = "1m"
stack = "unlimited"
file_size = "1M"
open_files = 5000
io = [{ path = "/", read = "10M" }]
pids = 30
cpuset = "0-1"
cpus = 1.5
swap = 0
memory = "100M"
optional = ["memory", "swap", "cpus", "cpuset", "pids", "io", "open_files", "file_size", "stack", "cpu_time"]
"""
    every = frozenset({"memory", "cpu", "pids", "io", "cpuset"})
    hierarchy = V2Hierarchy(
        directory="/own", available=every, enabled=frozenset(), has_swap=True, processors="0-1"
    )
    with_all = report.reported_limits(plan(spec, host(cgroups=hierarchy)), CGROUP)
    limited = host(hard_limits=dict.fromkeys(rlimits.RESOURCES, 10))
    without = report.reported_limits(plan(spec, limited), None)
    rates = {"read": 10 << 20, "write": None, "read_operations": None, "write_operations": None}
    values = {
        "limits.memory": 100 << 20,
        "limits.swap": 0,
        "limits.cpus": 1.5,
        "limits.cpuset": "0-1",
        "limits.pids": 30,
        "limits.io": [{"device": "8:0", **rates}],
        "limits.open_files": 5000,
        "limits.file_size": 1 << 20,
        "limits.stack": "unlimited",
        "limits.cpu_time": 60,
        "limits.oom_score_adj": 500,
    }
    assert [(limit.key, limit.value) for limit in with_all] == list(values.items())
    assert [(limit.key, limit.value) for limit in without] == list(values.items())
    assert [limit.key for limit in with_all if limit.mechanism is None] == []
    assert [limit.key for limit in without if limit.mechanism is not None] == ["limits.oom_score_adj"]
    held, unheld = (dict(made(limits=limits).as_dict()["limits"]) for limits in (with_all, without))  # type: ignore[call-overload]
    assert {key: value["value"] for key, value in held.items()} == values
    assert {key: value["value"] for key, value in unheld.items()} == values
    texts = [str(limit).partition(", not enforced: ")[0] for limit in without][:-1]
    assert texts == [str(limit).partition(", enforced by ")[0] for limit in with_all][:-1]


def test_rates_of_what_is_on_no_device_are_told_with_the_path() -> None:
    spec = (
        '[root]\nlayers = ["dir:/"]\n[limits]\nio = [{ path = "/proc", write = "1M" }]\noptional = ["io"]\n'
    )
    made_plan = plan(
        spec,
        host(cgroups=HIERARCHY),
        {"/proc": PathFact(path="/proc", real="/proc", kind="directory", no_device="it is on no disk")},
    )
    (limit,) = report.reported_limits(made_plan, CGROUP)
    assert (limit.key, limit.value) == (
        "limits.io[0]",
        [
            {
                "device": "/proc",
                "read": None,
                "write": 1 << 20,
                "read_operations": None,
                "write_operations": None,
            }
        ],
    )
    assert str(limit) == "/proc write=1048576, not enforced: /proc: it is on no disk"


def test_report_without_a_cgroup_says_who_measured_and_why_nobody_better() -> None:
    usage = resource.struct_rusage((1.25, 0.25, 2048, 0, 0, 0, 0, 0, 0, 4, 8, 0, 0, 0, 0, 0))
    counters = report.counters_of(usage)
    assert counters == Counters(
        memory_peak=2 << 20,
        cpu_nanoseconds=1_500_000_000,
        user_nanoseconds=1_250_000_000,
        system_nanoseconds=250_000_000,
        io_read=2048,
        io_written=4096,
    )
    lines = made(
        program=counters, sandbox=None, measured_by="wait4(2)", unmeasured="there is none", limits=()
    ).lines()
    assert lines[3:] == [
        "  cpu time     1.50 s (1.25 s user, 0.25 s system)",
        "  memory       2M at most",
        "  disks        2K read, 4K written",
        "  measured by  wait4(2): there is none",
    ]


@pytest.mark.parametrize(
    ("peak", "shown"),
    [
        (
            19 << 20,
            "19M at most, which includes 20M of the launcher before exec; the program may have used less",
        ),
        (
            21 << 20,
            "21M at most, which includes 20M of the launcher before exec; the program may have used less",
        ),
        (23 << 20, "23M at most"),
    ],
)
def test_memory_that_may_be_the_launcher_s_is_not_told_as_the_program_s(peak: int, shown: str) -> None:
    told = made(program=Counters(memory_peak=peak), sandbox=None, launcher_memory=20 << 20, limits=())
    assert told.lines()[3] == f"  memory       {shown}"
    assert told.as_dict()["launcher_memory"] == 20 << 20


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (1, ["  left over    1 process was still running when the program ended, and ended with it"]),
        (2, ["  left over    2 processes were still running when the program ended, and ended with it"]),
        (0, []),
        (None, []),
    ],
)
def test_processes_that_ended_with_the_program_are_told(count: int | None, shown: list[str]) -> None:
    told = made(program=Counters(), sandbox=None, left_over=count, limits=())
    assert [line for line in told.lines() if "left over" in line] == shown
    assert told.as_dict()["left_over"] == count


@pytest.mark.parametrize(
    ("code", "init_code", "changes", "expected", "shown"),
    [
        (0, 0, {}, ("exit", None), "exit status 0"),
        (7, 7, {}, ("exit", None), "exit status 7"),
        # An exit status that the program chose is not taken for a signal.
        (137, 137, {"oom_kills": 1}, ("exit", None), "exit status 137"),
        (-15, 143, {}, ("signal", "SIGTERM"), "signal SIGTERM"),
        (-9, 137, {}, ("signal", "SIGKILL"), "signal SIGKILL"),
        (-9, 137, {"oom_kills": 1}, ("out of memory", "SIGKILL"), "out of memory (SIGKILL)"),
        (-11, 139, {"oom_kills": 1}, ("signal", "SIGSEGV"), "signal SIGSEGV"),
        (-24, 152, {"out_of_time": "program"}, ("cpu_time", "SIGXCPU"), "limits.cpu_time (SIGXCPU)"),
        (-9, 137, {"out_of_time": "program"}, ("cpu_time", "SIGKILL"), "limits.cpu_time (SIGKILL)"),
        # The program exited after SIGXCPU, or another signal ended it.
        (3, 3, {"out_of_time": "program"}, ("exit", None), "exit status 3"),
        (-15, 143, {"out_of_time": "program"}, ("signal", "SIGTERM"), "signal SIGTERM"),
        (-9, 137, {"out_of_time": "another"}, ("signal", "SIGKILL"), "signal SIGKILL"),
        # Process 1 was killed.
        (None, -9, {"oom_kills": 1}, ("out of memory", "SIGKILL"), "out of memory (SIGKILL)"),
        (None, -9, {"timed_out": True}, ("wall_time", "SIGKILL"), "limits.wall_time"),
        (None, 125, {"failed": True}, ("failure", None), "a failure of the sandbox"),
        # A signal interrupted the start, and process 1 was killed.
        (None, -9, {"interrupted": 15, "oom_kills": 1}, ("signal", "SIGTERM"), "signal SIGTERM"),
        (-34, 162, {}, ("signal", "SIGRTMIN"), "signal SIGRTMIN"),
        (-40, 168, {}, ("signal", "signal 40"), "signal 40"),
    ],
)
def test_what_ended_the_program(
    code: int | None, init_code: int, changes: dict[str, Any], expected: tuple[str, str | None], shown: str
) -> None:
    values = {"timed_out": False, "failed": False, "oom_kills": None, **changes}
    status = code if code is not None and code >= 0 else 99
    found = report.ending(status, code, init_code, **values)
    assert (found.how, found.signal) == expected
    assert str(found) == shown


def test_the_status_of_a_start_that_was_ended_is_that_of_up() -> None:
    found = report.ending(137, None, -9, timed_out=True, failed=True, oom_kills=None, interrupted=2)
    assert (found.status, found.signal) == (130, "SIGINT")


def test_what_was_short_is_said_with_the_limit() -> None:
    assert report.reached(PLAN, USED, frozenset({"size", "inodes"})) == [
        "out of memory: limits.memory of 64M was reached, and the kernel killed 2 processes",
        "limits.pids of 30 was reached, and 1 fork failed",
        "root.size of 8M was reached: the writable layer was full, and writing failed",
        "root.inodes of 100 was reached: the writable layer was full, and creating files failed",
    ]
    assert report.reached(PLAN, None, frozenset(), "program") == [
        "limits.cpu_time of 5s was reached by the program"
    ]
    assert report.reached(PLAN, None, frozenset(), "another") == [
        "limits.cpu_time of 5s was reached by another process"
    ]
    assert report.reached(PLAN, Counters(oom_kills=0, pids_max_events=0), frozenset()) == []
    assert report.reached(PLAN, None, frozenset()) == []


def test_a_machine_that_is_out_of_memory_is_not_called_a_limit() -> None:
    unlimited = plan('[root]\nlayers = ["dir:/"]\n', host(cgroups=HIERARCHY))
    assert report.reached(unlimited, Counters(oom_kills=1), frozenset()) == [
        "out of memory: the machine has no memory left, and the kernel killed 1 process"
    ]


def test_a_server_that_was_killed_for_its_memory_is_told_from_one_that_crashed() -> None:
    limits = CgroupLimits(memory=1 << 30)
    text = "it used more than the 1G of memory that it may use in addition to limits.memory"
    assert report.server_was_short(limits, Counters(oom_kills=1)) == text
    assert report.server_was_short(limits, Counters(oom_kills=0)) is None
    assert report.server_was_short(CgroupLimits(), Counters(oom_kills=1)) is None
