"""After the end of a sandbox nothing of it is left, or the next command removes it."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time

import pytest

from tests.e2e.support import PATIENCE, Launcher, alive, children, first_line, wait_for

pytestmark = [pytest.mark.fuse, pytest.mark.userns]

READY = ["sh", "-c", "echo ready; exec sleep 1000"]


class Family:
    """The processes of a running sandbox."""

    def __init__(self, supervisor: int) -> None:
        self.supervisor = supervisor
        below = children(supervisor)
        self.server = next(pid for pid, line in below.items() if "--serve-fd" in line)
        self.init = next(pid for pid in below if pid != self.server)
        self.program = next(iter(children(self.init)))

    def all(self) -> list[int]:
        return [self.supervisor, self.server, self.init, self.program]

    def wait_until_gone(self) -> None:
        wait_for(lambda: not any(alive(pid) for pid in self.all()), f"the end of {self.all()}")


def mounts() -> list[str]:
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        return [line for line in file if " fuse unionfs " in line]


@pytest.mark.parametrize(
    ("victim", "status"),
    [("supervisor", -9), ("server", 125), ("init", 137), ("program", 137)],
)
def test_killing_any_one_process_ends_all_of_them(launcher: Launcher, victim: str, status: int) -> None:
    before = mounts()
    with launcher.start(command=READY) as supervisor:
        assert first_line(supervisor) == "ready"
        family = Family(supervisor.pid)
        os.kill(getattr(family, victim), signal.SIGKILL)
        assert supervisor.wait(PATIENCE) == status
        family.wait_until_gone()
    assert mounts() == before
    if victim != "supervisor":
        assert launcher.runs() == []
    assert launcher.up(command=["true"]).status == 0
    assert launcher.runs() == []


def test_killing_the_whole_group_leaves_only_what_the_next_command_removes(launcher: Launcher) -> None:
    with launcher.start(command=READY) as supervisor:
        assert first_line(supervisor) == "ready"
        family = Family(supervisor.pid)
        os.killpg(supervisor.pid, signal.SIGKILL)
        supervisor.wait(PATIENCE)
        family.wait_until_gone()
    assert len(launcher.runs()) == 1
    assert launcher.up(command=["true"]).status == 0
    assert launcher.runs() == []


def test_end_of_the_server_is_reported_as_the_cause(launcher: Launcher) -> None:
    with launcher.start(command=READY) as supervisor:
        assert first_line(supervisor) == "ready"
        os.kill(Family(supervisor.pid).server, signal.SIGKILL)
        _, err = supervisor.communicate(timeout=PATIENCE)
    assert "the file system's server: it ended unexpectedly" in err


def test_files_of_other_ids_of_the_sandbox_are_removed_too(launcher: Launcher) -> None:
    script = "mkdir -p /data/deep && chown 33:33 /data /data/deep 2>/dev/null; touch /data/deep/file; chmod 0 /data/deep /data; true"
    assert launcher.shell(script).status == 0
    assert launcher.runs() == []


def test_sandbox_that_is_killed_at_any_moment_of_its_start_leaves_nothing(launcher: Launcher) -> None:
    before = mounts()
    generator = random.Random(20261123)
    for _ in range(12):
        with launcher.start(command=READY) as supervisor:
            time.sleep(generator.uniform(0.02, 0.5))
            below = [supervisor.pid, *children(supervisor.pid)]
            supervisor.kill()
            supervisor.wait(PATIENCE)
            wait_for(lambda pids=below: not any(alive(pid) for pid in pids), f"the end of {below}")
    assert launcher.up(command=["true"]).status == 0
    assert launcher.runs() == []
    assert mounts() == before


def test_twenty_sandboxes_at_once_do_not_disturb_each_other(launcher: Launcher) -> None:
    path = launcher.write('[root]\nlayers = ["dir:/"]\n', "many.toml")
    started = [
        subprocess.Popen(
            launcher.arguments(
                path, ["sh", "-c", f"echo {number} > /etc/number; sleep 0.5; exit $(cat /etc/number)"]
            ),
            env=launcher.environ,
        )
        for number in range(20)
    ]
    assert [process.wait(120) for process in started] == list(range(20))
    assert launcher.runs() == []


@pytest.mark.root
@pytest.mark.cgroup
@pytest.mark.parametrize("victim", ["supervisor", "init"])
def test_cgroups_are_removed_with_the_sandbox_or_by_the_next_command(launcher: Launcher, victim: str) -> None:
    def cgroups() -> list[str]:
        return [
            path
            for path, _, _ in os.walk("/sys/fs/cgroup")
            if os.path.basename(path).startswith("sandbox-limited")
        ]

    spec = '[sandbox]\nname = "limited"\n[root]\nlayers = ["dir:/"]\n[limits]\npids = 50\n'
    with launcher.start(spec, READY) as supervisor:
        assert first_line(supervisor) == "ready"
        assert cgroups() != []
        family = Family(supervisor.pid)
        os.kill(getattr(family, victim), signal.SIGKILL)
        supervisor.wait(PATIENCE)
        family.wait_until_gone()
    assert launcher.up(command=["true"]).status == 0
    assert cgroups() == []


def test_a_warning_that_cannot_be_written_leaves_the_programs_status(launcher: Launcher) -> None:
    spec = '[root]\nlayers = ["dir:/"]\nsize = "1M"\n'
    script = "head -c 4M /dev/zero 2>/dev/null > /tmp/large; exit 3"
    assert "root.size" in launcher.shell(script, spec).err
    with open("/dev/full", "w") as full:
        arguments = launcher.arguments(spec, ["sh", "-c", script])
        done = subprocess.run(
            arguments, stdin=subprocess.DEVNULL, stderr=full, env=launcher.environ, check=False
        )
    assert done.returncode == 3
