"""Commands on running sandboxes: ps, stop, kill, wait and top."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.e2e.support import HOST_ROOT, PATIENCE, Launcher, alive, first_line, sandbox, wait_for

pytestmark = [pytest.mark.fuse, pytest.mark.userns, pytest.mark.twice]

WAITING = "echo ready; while :; do sleep 1; done"


@contextmanager
def running(
    launcher: Launcher, name: str, script: str = WAITING, more: str = ""
) -> Iterator[subprocess.Popen[str]]:
    """Run *script*, which prints "ready", in a sandbox *name* until the end of the block."""
    spec = launcher.write(f'[sandbox]\nname = "{name}"\n{HOST_ROOT}{more}', f"{name}.toml")
    with subprocess.Popen(
        launcher.arguments(spec, ["sh", "-c", script]),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=launcher.environ,
    ) as process:
        try:
            assert first_line(process) == "ready"
            yield process
        finally:
            process.terminate()
            process.wait(PATIENCE)


def listed(launcher: Launcher, *options: str) -> dict[str, dict[str, object]]:
    """Return what `sandbox ps` lists, by name."""
    return {one["name"]: one for one in json.loads(sandbox(launcher, "ps", "--json", *options).out)}


def test_ps_lists_running_sandboxes_with_their_state_and_program(launcher: Launcher) -> None:
    assert sandbox(launcher, "ps").out == ""
    with running(launcher, "web") as web, running(launcher, "db"):
        wait_for(lambda: {one["state"] for one in listed(launcher).values()} == {"running"}, "the state")
        found = listed(launcher)
        assert list(found) == ["web", "db"]
        assert found["web"]["command"] == ["sh", "-c", WAITING]
        assert found["web"]["file"] == str(launcher.directory / "web.toml")
        assert found["web"]["supervisor"] == {"pid": web.pid}
        assert str(found["web"]["id"]).startswith("web-")
        lines = [line.split("\t") for line in sandbox(launcher, "ps").out.splitlines()]
        assert [line[1] for line in lines] == ["web", "db"]
        assert lines[0][2].startswith("running (")
    assert sandbox(launcher, "ps", "--all").out == ""


def test_ps_tells_at_once_that_a_supervisor_was_killed(launcher: Launcher) -> None:
    with running(launcher, "web") as web:
        init = int(listed(launcher)["web"]["init"]["pid"])  # type: ignore[index]
        os.kill(web.pid, signal.SIGKILL)
        web.wait(PATIENCE)
        assert listed(launcher) == {}
        assert listed(launcher, "--all")["web"]["state"] == "exited, supervisor was killed"
        wait_for(lambda: not alive(init), "the end of process 1")
    sandbox(launcher, "prune")
    assert listed(launcher, "--all") == {}


def test_stop_sends_the_stop_signal_and_returns_when_the_sandbox_is_gone(launcher: Launcher) -> None:
    script = f"trap 'echo stopped; exit 3' USR1; {WAITING}"
    with (
        running(launcher, "web", script, '[process]\nstop_signal = "USR1"\n') as web,
        running(launcher, "db"),
    ):
        done = sandbox(launcher, "stop", "web")
        assert web.poll() == 3 or web.wait(1) == 3
        assert done.status == 0
        assert done.err.endswith(": ended by its stop signal\n")
        assert web.stdout is not None
        assert web.stdout.read() == "stopped\n"
        assert list(listed(launcher)) == ["db"]
        assert (
            json.loads(sandbox(launcher, "stop", "--json", "--all").out)["ended"][0]["by"]
            == "its stop signal"
        )
        assert listed(launcher) == {}
    done = sandbox(launcher, "stop", "web")
    assert (done.status, "no sandbox web is running" in done.err) == (125, True)
    assert sandbox(launcher, "stop", "--all").status == 0


def test_what_does_not_end_in_time_is_killed_and_its_launcher_says_so(launcher: Launcher) -> None:
    stubborn = f"trap '' TERM; {WAITING}"
    with running(launcher, "web", stubborn) as web, running(launcher, "db", stubborn) as db:
        wait_for(lambda: listed(launcher)["web"]["state"] == "running", "the state")
        began = time.monotonic()
        done = sandbox(launcher, "stop", "--time", "1", "web", str(launcher.directory / "db.toml"))
        assert done.err.count(": ended by SIGKILL\n") == 2
        assert (
            time.monotonic() - began < PATIENCE / 2
        )  # both at the same time, and long before their stop_timeout
        for process in (web, db):
            assert process.wait(PATIENCE) == 137
            assert process.stderr is not None
            assert process.stderr.read() == (
                "sandbox: warning: `sandbox stop` or `sandbox kill` has killed the sandbox\n"
            )


def test_a_sandbox_that_stops_is_listed_as_stopping(launcher: Launcher) -> None:
    with running(launcher, "web", f"trap '' TERM; {WAITING}") as web:
        web.terminate()
        wait_for(lambda: listed(launcher)["web"]["state"] == "stopping", "the state")
        sandbox(launcher, "kill", "web")
        assert web.wait(PATIENCE) == 137


def test_kill_sends_signals_that_the_supervisor_passes_on(launcher: Launcher) -> None:
    with running(launcher, "web", f"trap 'echo again' HUP; {WAITING}") as web:
        wait_for(lambda: listed(launcher)["web"]["state"] == "running", "the state")
        assert sandbox(launcher, "kill", "--signal", "HUP", "web").status == 0
        assert web.stdout is not None
        assert web.stdout.readline() == "again\n"
        done = sandbox(launcher, "kill", "--signal", "STOP", "web")
        assert (done.status, "SIGSTOP cannot be sent to a sandbox" in done.err) == (125, True)
        assert "XYZ is no signal" in sandbox(launcher, "kill", "-s", "XYZ", "web").err
        assert json.loads(sandbox(launcher, "kill", "--json", "web").out)["sent"][0].startswith("web-")
        assert web.wait(PATIENCE) == 137


def test_a_stopped_launcher_is_continued_to_be_ended(launcher: Launcher) -> None:
    with running(launcher, "web") as web:
        web.send_signal(signal.SIGSTOP)
        assert sandbox(launcher, "stop", "web").status == 0
        web.wait(PATIENCE)


def test_wait_returns_at_the_end_of_the_sandbox(launcher: Launcher) -> None:
    with running(launcher, "web") as web:
        command = [*launcher.arguments("x.toml")[:-2], "wait", "web"]
        with subprocess.Popen(command, env=launcher.environ) as waiting:
            time.sleep(0.5)
            assert waiting.poll() is None
            web.terminate()
            assert waiting.wait(PATIENCE) == 0
    assert sandbox(launcher, "wait", "web").status == 125


def test_several_runs_of_one_name_are_told_apart_by_the_beginnings_of_their_ids(launcher: Launcher) -> None:
    with running(launcher, "web") as first, running(launcher, "web") as second:
        runs = {
            one["supervisor"]["pid"]: one["id"] for one in json.loads(sandbox(launcher, "ps", "--json").out)
        }
        assert sandbox(launcher, "stop", runs[first.pid]).status == 0
        assert first.poll() is not None or first.wait(1) is not None
        assert second.poll() is None
        assert sandbox(launcher, "stop", "web").status == 0
        second.wait(PATIENCE)


def test_inspect_prints_what_is_known_of_a_sandbox(launcher: Launcher) -> None:
    with running(launcher, "web") as web:
        wait_for(lambda: listed(launcher)["web"]["state"] == "running", "the state")
        found = json.loads(sandbox(launcher, "inspect", "--json", "web").out)
        assert (found["name"], found["state"], found["supervisor"]) == ("web", "running", {"pid": web.pid})
        assert all(alive(found[role]["pid"]) for role in ("init", "server"))
        assert found["record"] == str(launcher.state / "run" / found["id"])
        assert found["log"] is None
        assert os.readlink(found["namespaces"]["pid"]).startswith("pid:[")
        lines = sandbox(launcher, "inspect", "web").out.splitlines()
        assert "state: running" in lines
        assert f"supervisor: pid {web.pid}" in lines
    assert "there is no sandbox web" in sandbox(launcher, "inspect", "web").err


def test_top_lists_the_processes_with_their_ids_inside_and_outside(launcher: Launcher) -> None:
    with running(launcher, "web", "sleep 600 & echo ready; wait"):
        found = json.loads(sandbox(launcher, "top", "--json", "web").out)
        assert [(one["pid_inside"], one["uid_inside"]) for one in found] == [(1, 0), (2, 0), (3, 0)]
        commands = [one["command"] for one in found]
        assert (commands[0], commands[2]) == ("sandbox-init", "sleep 600")
        assert all(alive(one["pid"]) and one["memory"] > 0 for one in found)
    assert sandbox(launcher, "top", "web").status == 125
