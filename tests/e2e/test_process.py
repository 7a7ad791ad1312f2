"""The program of a sandbox: its status, ids, privileges, environment, descriptors and limits."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from tests.e2e.support import HOST_ROOT, PATIENCE, Launcher, children, first_line
from tests.support.requirements import has_subordinate_ids

pytestmark = [pytest.mark.fuse, pytest.mark.userns]

#: CHOWN DAC_OVERRIDE FOWNER FSETID KILL SETGID SETUID SETPCAP NET_BIND_SERVICE SYS_CHROOT SETFCAP.
DEFAULT_CAPABILITIES = "00000000800405fb"

whole_map = pytest.mark.skipif(
    os.geteuid() != 0 and not has_subordinate_ids(), reason="this account has a single id"
)


@pytest.mark.parametrize("status", [0, 1, 7, 125, 255])
def test_exit_status_is_that_of_the_program(launcher: Launcher, status: int) -> None:
    assert launcher.shell(f"exit {status}").status == status


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV])
def test_exit_status_is_128_and_the_signal_that_ended_the_program(launcher: Launcher, number: int) -> None:
    assert launcher.shell(f"kill -{number} $$").status == 128 + number


def test_command_that_is_not_found_is_127_and_named(launcher: Launcher) -> None:
    done = launcher.up(command=["no-such-command"])
    assert done.status == 127
    assert done.err.startswith("sandbox: no-such-command: command not found in the sandbox\n")


def test_command_is_not_found_although_a_directory_of_path_may_not_be_searched(launcher: Launcher) -> None:
    spec = (
        HOST_ROOT
        + '[process]\nenv = { PATH = "/closed:/bin" }\n[security]\ncapabilities = { drop = ["all"] }\n'
        + '[[volumes]]\ntype = "tmpfs"\ntarget = "/closed"\nmode = "0000"\n'
    )
    done = launcher.up(spec, ["no-such-command"])
    assert done.status == 127
    assert done.err.startswith("sandbox: no-such-command: command not found in the sandbox\n")
    assert launcher.up(spec, ["true"]).status == 0


def test_command_that_cannot_be_executed_is_126_and_named(launcher: Launcher) -> None:
    done = launcher.up(command=["/etc/passwd"])
    assert done.status == 126
    assert done.err.startswith("sandbox: /etc/passwd: cannot be executed: permission denied\n")


def test_standard_input_and_output_pass_through_without_a_terminal(launcher: Launcher) -> None:
    done = launcher.up(command=["sh", "-c", "cat; echo problem >&2"], stdin="in and out\n")
    assert (done.status, done.out, done.err) == (0, "in and out\n", "problem\n")


def test_every_namespace_is_a_new_one(launcher: Launcher) -> None:
    inside = launcher.probe()["namespaces"]
    for name in ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup"):
        assert inside[name] != os.readlink(f"/proc/self/ns/{name}"), name


def test_namespaces_with_the_value_host_are_the_hosts(launcher: Launcher) -> None:
    spec = HOST_ROOT + '[namespaces]\nnet = "host"\nipc = "host"\nuts = "host"\ncgroup = "host"\n'
    inside = launcher.probe(spec)["namespaces"]
    for name in ("net", "ipc", "uts", "cgroup"):
        assert inside[name] == os.readlink(f"/proc/self/ns/{name}"), name


def test_program_is_root_of_its_namespace_and_unprivileged_on_the_host(launcher: Launcher) -> None:
    facts = launcher.probe()
    assert (facts["uid"], facts["gid"]) == (0, 0)
    inside, outside, count = (int(number) for number in facts["uid_map"][:3])
    if os.geteuid() == 0:
        assert (inside, outside, count) == (0, 1878982656, 65536)
    else:
        assert (inside, outside, count) == (0, os.geteuid(), 1)


@whole_map
def test_with_subordinate_ids_there_are_65536_users(launcher: Launcher) -> None:
    numbers = [int(number) for number in launcher.probe()["uid_map"]]
    assert sum(numbers[2::3]) == 65536


def test_capabilities_are_the_default_ones_and_no_program_gains_more(launcher: Launcher) -> None:
    facts = launcher.probe()
    assert facts["capabilities"] == {
        "CapInh": "0" * 16,
        "CapPrm": DEFAULT_CAPABILITIES,
        "CapEff": DEFAULT_CAPABILITIES,
        "CapBnd": DEFAULT_CAPABILITIES,
        "CapAmb": "0" * 16,
    }
    assert facts["no_new_privs"] == "1"


def test_capabilities_can_all_be_dropped(launcher: Launcher) -> None:
    spec = HOST_ROOT + '[security]\ncapabilities = { drop = ["all"] }\n'
    assert set(launcher.probe(spec)["capabilities"].values()) == {"0" * 16}


@whole_map
def test_user_is_looked_up_in_the_sandboxs_own_passwd_and_has_no_capability(launcher: Launcher) -> None:
    facts = launcher.probe(HOST_ROOT + '[process]\nuser = "daemon"\n')
    assert (facts["uid"], facts["gid"]) == (1, 1)
    assert facts["env"]["USER"] == "daemon"
    assert facts["capabilities"]["CapEff"] == facts["capabilities"]["CapPrm"] == "0" * 16


@whole_map
def test_user_group_groups_and_umask_are_as_the_file_says(launcher: Launcher) -> None:
    facts = launcher.probe(HOST_ROOT + '[process]\nuser = "1234:99"\ngroups = [5, 6]\numask = "0077"\n')
    assert (facts["uid"], facts["gid"], facts["groups"], facts["umask"]) == (1234, 99, [5, 6], 0o77)


@whole_map
def test_user_that_the_sandbox_does_not_have_is_an_error(launcher: Launcher) -> None:
    done = launcher.up(HOST_ROOT + '[process]\nuser = "no-such-user"\n', ["true"])
    assert done.status == 125
    assert "user no-such-user is not in the sandbox's /etc/passwd" in done.err


def test_environment_is_that_of_the_file_without_variables_of_the_host(launcher: Launcher) -> None:
    spec = HOST_ROOT + '[process]\ninherit_env = ["PASSED", "ABSENT"]\n[process.env]\nGIVEN = "given"\n'
    facts = launcher.probe(spec, environ={"PASSED": "passed", "KEPT_OUT": "secret"})
    env = {name: value for name, value in facts["env"].items() if name != "LC_CTYPE"}  # set by Python itself
    assert env == {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/root",
        "USER": "root",
        "container": "sandbox",
        "PASSED": "passed",
        "GIVEN": "given",
    }


def test_program_starts_in_its_working_directory(launcher: Launcher) -> None:
    assert launcher.probe(HOST_ROOT + '[process]\ncwd = "/usr/share"\n')["cwd"] == "/usr/share"


def test_working_directory_that_does_not_exist_is_an_error_that_names_it(launcher: Launcher) -> None:
    done = launcher.up(HOST_ROOT + '[process]\ncwd = "/no/such/place"\n', ["true"])
    assert done.status == 125
    assert "process.cwd" in done.err
    assert "/no/such/place" in done.err


def test_program_has_only_the_standard_descriptors(launcher: Launcher) -> None:
    facts = launcher.probe()
    assert [fd for fd in facts["open"] if fd > 2] == [3]  # the descriptor of the listing


def test_program_leads_a_session_of_its_own(launcher: Launcher) -> None:
    facts = launcher.probe()
    assert facts["session"] == facts["pid"]


def test_process_limits_are_enforced(launcher: Launcher) -> None:
    limits = "open_files = 99\nfile_size = 8192\ncore = 0\nstack = 1048576\nprocesses = 77\ncpu_time = 50\n"
    script = "ulimit -n; ulimit -c; ulimit -s; ulimit -t; dd if=/dev/zero of=/x bs=4096 count=9 2>/dev/null; stat -c %s /x"
    done = launcher.shell(script, HOST_ROOT + "[limits]\n" + limits)
    assert done.out.split() == ["99", "0", "1024", "50", "8192"], done.err


def test_wall_time_ends_the_sandbox_with_status_124(launcher: Launcher) -> None:
    done = launcher.shell("sleep 1000", HOST_ROOT + '[limits]\nwall_time = "1s"\n')
    assert done.status == 124
    assert "ended after limits.wall_time, 1s\n" in done.err


def test_orphans_are_reaped_by_process_one(launcher: Launcher) -> None:
    script = "(sh -c 'exit 3' & exec sleep 0.2) & sleep 1; ps -e -o stat= | grep -c Z"
    done = launcher.shell(script)
    assert done.out.strip() == "0", (done.out, done.err)


def test_sandbox_ends_with_its_program_whatever_else_still_runs(launcher: Launcher) -> None:
    assert launcher.shell("sleep 1000 & setsid sleep 1000 & exit 5").status == 5


def test_sigterm_becomes_the_stop_signal(launcher: Launcher) -> None:
    spec = HOST_ROOT + '[process]\nstop_signal = "SIGUSR1"\n'
    script = 'trap "exit 42" USR1; echo ready; while :; do sleep 0.05; done'
    with launcher.start(spec, ["sh", "-c", script]) as supervisor:
        assert first_line(supervisor) == "ready"
        supervisor.send_signal(signal.SIGTERM)
        assert supervisor.wait(PATIENCE) == 42


def test_program_that_ignores_the_stop_signal_is_killed_after_stop_timeout(launcher: Launcher) -> None:
    spec = HOST_ROOT + '[process]\nstop_timeout = "500ms"\n'
    with launcher.start(
        spec, ["sh", "-c", 'trap "" TERM; echo ready; while :; do sleep 0.05; done']
    ) as supervisor:
        assert first_line(supervisor) == "ready"
        supervisor.send_signal(signal.SIGTERM)
        _, err = supervisor.communicate(timeout=PATIENCE)
        assert supervisor.returncode == 128 + signal.SIGKILL
    assert "the program did not end within process.stop_timeout, 500ms, after SIGTERM, and was killed" in err


@pytest.mark.parametrize("name", ["HUP", "INT", "USR1", "USR2"])
def test_signals_are_passed_on_to_the_program(launcher: Launcher, name: str) -> None:
    script = f'trap "exit 42" {name}; echo ready; while :; do sleep 0.05; done'
    with launcher.start(command=["sh", "-c", script]) as supervisor:
        assert first_line(supervisor) == "ready"
        supervisor.send_signal(getattr(signal, f"SIG{name}"))
        assert supervisor.wait(PATIENCE) == 42


def test_closed_standard_descriptors_are_no_obstacle(launcher: Launcher) -> None:
    line = 'exec "$@" <&- >&- 2>&-'
    arguments = ["sh", "-c", line, "sh", *launcher.arguments(HOST_ROOT, ["sh", "-c", "exit 6"])]
    assert subprocess.run(arguments, env=launcher.environ, timeout=PATIENCE, check=False).returncode == 6


@pytest.mark.root
@pytest.mark.cgroup
def test_memory_limit_kills_a_program_that_exceeds_it(launcher: Launcher) -> None:
    spec = HOST_ROOT + '[limits]\nmemory = "64M"\n'
    done = launcher.up(spec, ["/usr/bin/python3", "-c", "x = bytearray(300 << 20); print('not limited')"])
    assert (done.status, done.out) == (128 + signal.SIGKILL, "")
    assert "out of memory: limits.memory of 64M was reached, and the kernel killed 1 process" in done.err


@pytest.mark.root
@pytest.mark.cgroup
def test_pids_limit_stops_a_fork_bomb(launcher: Launcher) -> None:
    spec = HOST_ROOT + "[limits]\npids = 30\n"
    bomb = "import os, time\nn = 0\ntry:\n  while True:\n    if os.fork() == 0: time.sleep(60)\n    n += 1\nexcept BlockingIOError: print(n)"
    done = launcher.up(spec, ["/usr/bin/python3", "-c", bomb])
    assert 20 <= int(done.out.split()[0]) <= 30


def test_process_1_has_no_group_of_the_host_where_groups_can_be_left(launcher: Launcher) -> None:
    others = {"extra_groups": [4, 6]} if os.getuid() == 0 else {}
    with launcher.start(command=["sh", "-c", "echo ready; exec sleep 1000"], **others) as supervisor:
        assert first_line(supervisor) == "ready"
        below = children(supervisor.pid)
        init = next(pid for pid, line in below.items() if "--serve-fd" not in line)
        setgroups = Path(f"/proc/{init}/setgroups").read_text(encoding="ascii").strip()
        status = Path(f"/proc/{init}/status").read_text(encoding="utf-8")
        groups = next(line.split()[1:] for line in status.splitlines() if line.startswith("Groups:"))
        if setgroups == "allow":
            assert groups == []
        else:
            assert groups == list(map(str, sorted(os.getgroups())))


PHASES = [
    "interpreter, command line", "environment file", "this machine, plan", "layers, filters, cgroup", "namespaces",
    "root mounted", "other mounts", "program executed", "program ran", "clean-up", "server: interpreter, imports",
    "server: waited for the layers", "server: confined, layers opened",
]  # fmt: skip


@pytest.mark.parametrize("more", ["", '[namespaces]\ntime = { monotonic = "30s", boottime = "2h" }\n'])
def test_timings_has_the_duration_of_each_phase_of_a_start(launcher: Launcher, more: str) -> None:
    done = launcher.up(HOST_ROOT + more, ["true"], options=["--timings"])
    first, *lines = done.err.splitlines()
    assert re.fullmatch(r"sandbox: started in \d+ ms", first)
    assert [line.strip().rpartition("  ")[0].strip() for line in lines] == PHASES
    done = launcher.up(HOST_ROOT + more, ["true"], options=["--timings", "--report", "--json"])
    timings = json.loads(done.err)["timings"]
    assert [phase["phase"] for phase in timings] == PHASES
    assert all(0 <= phase["milliseconds"] < 60_000 for phase in timings)


def test_timings_of_a_start_that_fails_end_where_it_failed(launcher: Launcher) -> None:
    done = launcher.up(HOST_ROOT, ["/no/such/program"], options=["--timings"])
    assert done.status == 127
    assert "sandbox: not started" in done.err.splitlines()
    assert "program executed" not in done.err
