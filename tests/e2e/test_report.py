"""`sandbox up --report` states how the program ended, what it used, and what enforced each limit."""

from __future__ import annotations

import json
import os
import signal

import pytest

from tests.e2e.support import (
    HOST_ROOT,
    PATIENCE,
    Launcher,
    children,
    first_line,
    limits,
    run_reported,
    wait_for,
)

pytestmark = [pytest.mark.userns, pytest.mark.fuse]


@pytest.mark.parametrize(
    ("script", "status", "ended_by", "name"),
    [
        ("exit 0", 0, "exit", None),
        ("exit 3", 3, "exit", None),
        ("exit 137", 137, "exit", None),
        ("kill -TERM $$", 143, "signal", "SIGTERM"),
        ("kill -KILL $$", 137, "signal", "SIGKILL"),
    ],
)
def test_report_distinguishes_an_exit_status_from_a_signal(
    launcher: Launcher, script: str, status: int, ended_by: str, name: str | None
) -> None:
    done = launcher.shell(script, options=["--report", "--json"])
    report = json.loads(done.err.splitlines()[-1])
    assert (done.status, report["status"]) == (status, status)
    assert (report["ended_by"], report["signal"]) == (ended_by, name)


def test_report_is_measured_with_a_cgroup_or_gives_the_reason_without_one(launcher: Launcher) -> None:
    program = "import time\nx = bytearray(40 << 20)\nwhile time.process_time() < 0.3: pass"
    done, report = run_reported(launcher, HOST_ROOT, program)
    assert done.status == 0
    assert report["limits"] == {}
    assert report["program"]["memory_peak"] > 40 << 20
    assert report["program"]["cpu_nanoseconds"] > 250_000_000
    assert report["wall_seconds"] > 0.25
    if report["sandbox"] is None:
        assert report["measured_by"].startswith("wait4(2)")
        assert report["unmeasured"]
        assert 0 < report["launcher_memory"] < report["program"]["memory_peak"]
        small = launcher.up(HOST_ROOT, ["true"], options=["--report"]).err
        assert "at most, which includes " in small
    else:
        assert report["measured_by"].startswith("cgroup version ")
        assert report["sandbox"]["cpu_nanoseconds"] > report["program"]["cpu_nanoseconds"]
        assert report["launcher_memory"] is None


def test_report_as_text_is_on_standard_error_only(launcher: Launcher) -> None:
    spec = limits("open_files = 99")
    done = launcher.up(spec, ["echo", "hello"], options=["--report"])
    assert (done.status, done.out) == (0, "hello\n")
    first, *lines = done.err.splitlines()
    assert first.startswith("sandbox: report on test-")
    found = dict(line.strip().split("  ", 1) for line in lines)
    assert found["ended by"].strip() == "exit status 0"
    assert found["limits.open_files"].strip() == "99, enforced by an rlimit of each process"
    assert {"wall time", "cpu time", "memory", "measured by"} <= found.keys()


def test_report_of_a_command_that_is_not_found_comes_before_the_error(launcher: Launcher) -> None:
    done = launcher.up(HOST_ROOT, ["absent-command"], options=["--report", "--json"])
    assert done.status == 127
    lines = done.err.splitlines()
    assert json.loads(lines[0])["ended_by"] == "failure"
    assert "absent-command" in lines[1]


@pytest.mark.parametrize(
    ("script", "count"),
    [
        ("exit 0", 0),
        ("sleep 1000 & setsid sleep 1000 & exit 5", 2),
        # The zombie does not count. Its parent, which does not wait for it, is the process that is left over.
        ("(sh -c 'exit 3' & exec sleep 1000) & sleep 0.5", 1),
    ],
)
def test_report_counts_the_processes_that_ended_with_the_program(
    launcher: Launcher, script: str, count: int
) -> None:
    done = launcher.shell(script, options=["--report", "--json"])
    assert json.loads(done.err)["left_over"] == count
    told = launcher.shell(script, options=["--report"]).err
    assert ("left over" in told) == (count > 0)
    assert launcher.shell(script).err == ""


def test_processes_of_a_shared_pid_namespace_are_not_counted(launcher: Launcher) -> None:
    spec = HOST_ROOT + '[namespaces]\npid = "host"\n'
    done = launcher.shell("sleep 1000 & exit 0", spec, options=["--report", "--json"])
    assert json.loads(done.err)["left_over"] is None


def test_nothing_is_reported_without_the_option(launcher: Launcher) -> None:
    assert launcher.up(HOST_ROOT, ["true"]).err == ""


def test_json_alone_is_refused(launcher: Launcher) -> None:
    done = launcher.up(HOST_ROOT, ["true"], options=["--json"])
    assert done.status == 125
    assert "--json needs --dry-run or --report" in done.err


@pytest.mark.parametrize("killed", ["init", "server"])
def test_report_is_printed_when_init_or_the_server_is_killed(launcher: Launcher, killed: str) -> None:
    path = launcher.write(HOST_ROOT)
    command = ["sh", "-c", "echo ready; sleep 100"]
    with launcher.start(path, command, options=["--report", "--json"]) as supervisor:
        assert first_line(supervisor) == "ready"
        found = wait_for(lambda: children(supervisor.pid), "children")
        victims = {pid for pid, line in found.items() if ("--serve-fd" in line) == (killed == "server")}
        assert len(victims) == 1
        os.kill(victims.pop(), signal.SIGKILL)
        _, err = supervisor.communicate(timeout=PATIENCE)
    report = next(json.loads(line) for line in err.splitlines() if line.startswith("{"))
    assert (report["ended_by"], report["status"]) == (
        ("signal", 137) if killed == "init" else ("failure", 125)
    )
    assert supervisor.returncode == report["status"]


def test_a_sandbox_without_limits_imports_nothing_for_them(launcher: Launcher) -> None:
    done = launcher.up(HOST_ROOT, ["true"], environ={"PYTHONPROFILEIMPORTTIME": "1"})
    assert done.status == 0
    imported = {
        line.rpartition("|")[2].strip() for line in done.err.splitlines() if line.startswith("import time:")
    }
    assert "sandbox.runtime.supervisor" in imported
    unwanted = {"sandbox.runtime.report", "sandbox.kernel.disks", "sandbox.kernel.service_manager", "jeepney"}
    assert imported & (unwanted | {"sandbox.kernel.cgroups.scope"}) == set()
