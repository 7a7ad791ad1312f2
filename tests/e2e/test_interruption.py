"""Signals, a hang-up of the terminal, or the death of the parent at the moments that need care."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from tests.e2e.support import HOST_ROOT, PATIENCE, Launcher, alive, children, first_line, wait_for
from tests.e2e.test_ending import READY, Family
from tests.e2e.test_terminal import person_at, start_at
from tests.support.requirements import has_subordinate_ids

pytestmark = [pytest.mark.fuse, pytest.mark.userns]


def servers(pid: int) -> list[int]:
    return [child for child, line in children(pid).items() if "--serve-fd" in line]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_ends_a_sandbox_that_is_starting(launcher: Launcher, number: int) -> None:
    arguments = launcher.arguments(HOST_ROOT, ["sh", "-c", "trap '' INT TERM HUP; sleep 1000"], ["--debug"])
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, env=launcher.environ) as supervisor:
        assert supervisor.stderr is not None
        server = wait_for(lambda: servers(supervisor.pid), "the server")[0]
        os.kill(server, signal.SIGSTOP)  # process 1 waits for the server's first reply
        while "mount proc" not in supervisor.stderr.readline():
            pass
        init = next(pid for pid in children(supervisor.pid) if pid != server)
        supervisor.send_signal(number)
        wait_for(lambda: not alive(init), "the end of process 1")
        os.kill(server, signal.SIGCONT)
        assert supervisor.wait(PATIENCE) == 128 + number
    assert launcher.runs() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_signal_is_not_lost_between_the_start_of_the_program_and_the_started_message(
    launcher: Launcher, number: int
) -> None:
    script = f"trap 'exit 42' {signal.Signals(number).name.removeprefix('SIG')}; echo go; while :; do sleep 0.02; done"
    arguments = launcher.arguments(HOST_ROOT, ["sh", "-c", script], ["--debug"])
    pipe = subprocess.PIPE
    with subprocess.Popen(arguments, stdout=pipe, stderr=pipe, text=True, env=launcher.environ) as supervisor:
        assert supervisor.stderr is not None
        assert supervisor.stdout is not None
        while "start was sent" not in supervisor.stderr.readline():
            pass
        supervisor.send_signal(
            signal.SIGSTOP
        )  # process 1 no longer needs the supervisor, which does not receive Started
        assert supervisor.stdout.readline() == "go\n"
        supervisor.send_signal(number)
        supervisor.send_signal(signal.SIGCONT)
        assert supervisor.wait(PATIENCE) == 42
    assert launcher.runs() == []


def test_signal_ends_a_start_that_waits_for_another_to_unpack_the_same_archive(launcher: Launcher) -> None:
    archive = launcher.directory / "base.tar"
    subprocess.run(["tar", "--create", "--file", archive, "--files-from", "/dev/null"], check=True)
    spec = f'[root]\nlayers = ["tar:{archive}"]\n'
    assert launcher.up(spec).status == 127  # makes the state directory; the archive has no /bin/sh
    layer = next((launcher.state / "images" / "archives").iterdir())
    guard = layer.with_name(layer.name.partition("-")[0] + ".importing")
    guard.touch()
    archive.write_bytes(archive.read_bytes() + b"\0" * 10240)  # another archive than that in the store
    with guard.open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with launcher.start(spec) as supervisor:
            wait_for(launcher.runs, "the run directory")
            supervisor.terminate()
            assert supervisor.wait(PATIENCE) == 128 + signal.SIGTERM
    assert launcher.runs() == []


def test_stop_signal_may_be_a_real_time_signal(launcher: Launcher) -> None:
    spec = HOST_ROOT + '[process]\nstop_signal = "SIGRTMIN+1"\n'
    script = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGRTMIN + 1, lambda *_: sys.exit(7))\n"
        "print('ready', flush=True)\n"
        "time.sleep(1000)\n"
    )
    with launcher.start(spec, ["/usr/bin/python3", "-c", script]) as supervisor:
        assert first_line(supervisor) == "ready"
        supervisor.terminate()
        assert supervisor.wait(PATIENCE) == 7


def test_run_directory_that_cannot_be_removed_does_not_replace_the_programs_status(
    launcher: Launcher,
) -> None:
    script = (
        "import sys\n"
        "from sandbox.state import sandbox_directory\n"
        "from sandbox.cli.main import main\n"
        "def refuse(path, ids): raise sandbox_directory.StateError(f'cannot remove {path}')\n"
        "sandbox_directory.remove_directory = refuse\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    command = [sys.executable, "-c", script, *launcher.arguments(HOST_ROOT, ["sh", "-c", "exit 9"])[3:]]
    done = subprocess.run(
        command, env=launcher.environ, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 9
    assert (
        "warning: the run directory cannot be removed, and the next command tries again: cannot remove"
        in done.stderr
    )
    assert len(launcher.runs()) == 1
    assert launcher.up(command=["true"]).status == 0
    assert launcher.runs() == []


@pytest.mark.root
@pytest.mark.cgroup
def test_cgroup_of_a_supervisor_that_is_killed_right_after_making_it_is_removed(launcher: Launcher) -> None:
    def left() -> list[str]:
        found = [path for path, _, _ in os.walk("/sys/fs/cgroup")]
        return [path for path in found if os.path.basename(path).startswith("sandbox-early-")]

    script = (
        "import os, signal, sys\n"
        "from sandbox.cli.main import main\n"
        "from sandbox.kernel.cgroups import CgroupFiles\n"
        "really = CgroupFiles.mkdir\n"
        "def make(self, path): really(self, path); os.kill(os.getpid(), signal.SIGKILL)\n"
        "CgroupFiles.mkdir = make\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    spec = HOST_ROOT + '[sandbox]\nname = "early"\n[limits]\npids = 50\n'
    command = [sys.executable, "-c", script, *launcher.arguments(spec, ["true"])[3:]]
    assert subprocess.run(command, env=launcher.environ, timeout=PATIENCE, check=False).returncode == -9
    assert left() != []
    assert launcher.up(command=["true"]).status == 0
    assert left() == []


def test_command_that_is_longer_than_a_packet_is_reported_like_any_other(launcher: Launcher) -> None:
    done = launcher.up(command=["/" + "x" * 100_000])
    assert done.status == 126
    assert done.err.endswith(": cannot be executed: file name too long\n")
    assert len(done.err) > 100_000


def test_terminal_that_hangs_up_ends_the_program_as_a_hang_up_does(launcher: Launcher) -> None:
    script = 'trap "exit 5" HUP; echo go; while :; do sleep 0.05; done'
    outer, inner = pty.openpty()
    arguments = launcher.arguments(HOST_ROOT, ["sh", "-c", script])
    pid = start_at(inner, arguments, launcher.environ)
    os.close(inner)
    seen = b""
    while b"go" not in seen:
        seen += os.read(outer, 1000)
    os.close(outer)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 5
    assert launcher.runs() == []


def test_terminal_that_takes_no_output_does_not_keep_the_supervisor_from_ending(launcher: Launcher) -> None:
    with person_at(launcher, ["sh", "-c", "echo go; exec yes"]) as person:
        person.read_until("go")
        wait_for(lambda: len(children(person.pid)) == 2, "the sandbox")
        init = next(pid for pid in children(person.pid) if pid not in servers(person.pid))
        time.sleep(0.5)  # until all buffers between program and terminal are full
        os.kill(person.pid, signal.SIGTERM)
        wait_for(lambda: not alive(init), "the end of process 1")
        os.kill(person.pid, signal.SIGTERM)
        wait_for(lambda: not alive(person.pid), "the end of the supervisor")
        assert os.waitstatus_to_exitcode(os.waitpid(person.pid, 0)[1]) == 128 + signal.SIGTERM


@pytest.mark.skipif(os.geteuid() != 0 and not has_subordinate_ids(), reason="this account has a single id")
def test_terminal_belongs_to_the_programs_user(launcher: Launcher) -> None:
    spec = HOST_ROOT + "[process]\nuser = 33\n"
    with person_at(
        launcher, ["sh", "-c", 'echo again > "$(tty)"; stat -c "<%u %a>" "$(tty)"'], spec
    ) as person:
        person.read_until("again\r\n<33 620>")
        assert person.status() == 0


def test_start_in_the_background_whose_parent_is_killed_goes_on(launcher: Launcher, tmp_path: Path) -> None:
    """The process group is orphaned then: reading the terminal, and changing its mode, returns EIO."""
    outer, inner = pty.openpty()
    shared = tmp_path / "shared"
    shared.mkdir(mode=0o777)
    shared.chmod(0o777)
    spec = HOST_ROOT + f'[[volumes]]\ntype = "bind"\nsource = "{shared}"\ntarget = "/mnt"\n'
    arguments = launcher.arguments(spec, ["sh", "-c", "sleep 0.3; echo done > /mnt/done; exit 6"])
    script = textwrap.dedent("""
        import fcntl, os, signal, sys, termios, time
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        shell = os.getpid()
        if os.fork() == 0:
            os.setpgid(0, 0)
            while os.getppid() == shell:
                time.sleep(0.01)
            os.execv(sys.argv[1], sys.argv[1:])
        time.sleep(0.1)
        os.kill(shell, signal.SIGKILL)
    """)
    shell = subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        stdin=inner,
        stdout=inner,
        stderr=inner,
        env=launcher.environ,
    )
    assert shell.wait(PATIENCE) == -9

    def orphans() -> list[int]:
        # Processes of earlier tests may have become children of this process, too.
        return [pid for pid, line in children(os.getpid()).items() if arguments[-1] in line]

    _, status = os.waitpid(wait_for(orphans, "the orphan")[0], 0)
    os.close(inner)
    os.close(outer)
    assert os.waitstatus_to_exitcode(status) == 6
    assert (shared / "done").read_text() == "done\n"
    assert launcher.runs() == []


def test_hang_up_is_ignored_where_the_caller_ignores_it(launcher: Launcher) -> None:
    with launcher.start(
        command=READY, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)
    ) as supervisor:
        assert first_line(supervisor) == "ready"
        family = Family(supervisor.pid)
        supervisor.send_signal(signal.SIGHUP)
        time.sleep(0.3)
        assert all(map(alive, family.all()))
        supervisor.send_signal(signal.SIGTERM)
        assert supervisor.wait(PATIENCE) == 128 + signal.SIGTERM


BUSY = [
    "sh",
    "-c",
    "echo ready; for i in 1 2 3 4; do (while :; do find /usr/share > /dev/null; touch /t$i; rm /t$i; done) & done; wait",
]


def test_server_that_is_killed_while_processes_wait_for_it_ends_the_sandbox(launcher: Launcher) -> None:
    """A client waits uninterruptibly for a request that the server has read, until the connection ends."""
    with launcher.start(command=BUSY) as supervisor:
        assert first_line(supervisor) == "ready"
        family = Family(supervisor.pid)
        time.sleep(0.2)
        os.kill(family.server, signal.SIGSTOP)
        time.sleep(0.2)
        os.kill(family.server, signal.SIGKILL)
        _, err = supervisor.communicate(timeout=PATIENCE)
        assert supervisor.returncode == 125
        family.wait_until_gone()
    assert err.count("sandbox: ") == 1
    assert "the file system's server: it ended unexpectedly" in err
    assert launcher.runs() == []


def test_sandbox_can_be_ended_while_its_server_does_not_reply(launcher: Launcher) -> None:
    spec = HOST_ROOT + "[process]\nstop_timeout = 0.5\n"
    with launcher.start(spec, BUSY) as supervisor:
        assert first_line(supervisor) == "ready"
        family = Family(supervisor.pid)
        time.sleep(0.2)
        os.kill(family.server, signal.SIGSTOP)
        supervisor.terminate()
        assert supervisor.wait(PATIENCE) in (128 + signal.SIGKILL, 128 + signal.SIGTERM)
        family.wait_until_gone()
    assert launcher.runs() == []
