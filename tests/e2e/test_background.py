"""Sandboxes in the background: up --detach, logs, ps, wait, stop and rm."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.e2e.support import HOST_ROOT, PATIENCE, Launcher, Outcome, alive, sandbox, wait_for

pytestmark = [pytest.mark.fuse, pytest.mark.userns, pytest.mark.twice]

WAITING = "echo ready; while :; do sleep 0.2; done"


def up(launcher: Launcher, script: str, *options: str, name: str = "web", more: str = "") -> Outcome:
    """Start *script* in the background."""
    spec = launcher.write(f'[sandbox]\nname = "{name}"\n{HOST_ROOT}{more}', f"{name}.toml")
    return sandbox(launcher, "up", "--detach", *options, spec, "--", "sh", "-c", script)


def started(launcher: Launcher, script: str, *options: str, name: str = "web", more: str = "") -> str:
    """Start *script* in the background, and return the id of the run."""
    done = up(launcher, script, *options, name=name, more=more)
    assert (done.status, done.err) == (0, "")
    return done.out.strip()


def listed(launcher: Launcher, *options: str) -> dict[str, dict[str, object]]:
    """Return what `sandbox ps` lists, by id."""
    return {one["id"]: one for one in json.loads(sandbox(launcher, "ps", "--json", *options).out)}


def ended(launcher: Launcher) -> None:
    """Stop and remove everything, and check that nothing is left."""
    for identity in listed(launcher, "--all"):
        sandbox(launcher, "rm", "--force", identity)
    assert listed(launcher, "--all") == {}
    for directory in (launcher.run / "run", launcher.state / "run", launcher.state / "changes"):
        assert not directory.exists() or os.listdir(directory) == []


def test_a_program_in_the_background_is_listed_logged_stopped_and_removed(launcher: Launcher) -> None:
    identity = started(launcher, f"echo out; echo err >&2; trap 'exit 7' TERM; {WAITING}")
    assert identity.startswith("web-")
    found = listed(launcher)[identity]
    assert (found["state"], found["background"]) == ("running", True)
    wait_for(lambda: "ready" in sandbox(launcher, "logs", "web").out, "the log")
    done = sandbox(launcher, "logs", "web")
    assert (done.out, done.err) == ("out\nready\n", "err\n")
    assert sandbox(launcher, "logs", "--stderr", identity).out == ""
    assert sandbox(launcher, "stop", "web").status == 0
    assert listed(launcher) == {}
    assert listed(launcher, "--all")[identity]["state"] == "exited 7"
    assert sandbox(launcher, "wait", "web").out == "7\n"
    assert sandbox(launcher, "logs", "web").out == "out\nready\n"
    assert sandbox(launcher, "rm", "web").status == 0
    assert "there is no sandbox web" in sandbox(launcher, "logs", "web").err
    ended(launcher)


def test_a_failure_to_start_is_that_of_the_command(launcher: Launcher) -> None:
    done = up(launcher, "true", more='[process]\ncwd = "/absent"\n')
    assert done.status == 125
    assert "/absent" in done.err
    spec = launcher.write(HOST_ROOT, "x.toml")
    done = sandbox(launcher, "up", "--detach", spec, "--", "/absent")
    assert (done.status, done.out) == (127, "")
    for option in ("--report", "--diff", "--timings"):
        assert "--detach does not wait for" in sandbox(launcher, "up", "-d", option, spec).err
    restarting = '[network]\nmode = "private"\non_failure = "restart"\n'
    assert "works only in the foreground" in up(launcher, "true", more=restarting).err
    assert "has no terminal" in up(launcher, "true", more="[process]\nterminal = true\n").err
    assert "need --detach" in sandbox(launcher, "up", "--rm", spec).err
    ended(launcher)


def test_the_supervisor_keeps_nothing_of_the_command_that_started_it(launcher: Launcher) -> None:
    reader, writer = os.pipe()
    spec = launcher.write(f'[sandbox]\nname = "web"\n{HOST_ROOT}', "web.toml")
    command = [*launcher.arguments(spec, ["sh", "-c", WAITING])]
    command.insert(command.index("up") + 1, "-d")
    done = subprocess.run(
        command, env=launcher.environ, pass_fds=(writer,), capture_output=True, text=True, check=True
    )
    identity = done.stdout.strip()
    os.close(writer)
    assert os.read(reader, 1) == b""  # nobody has the other end
    os.close(reader)
    pid = int(listed(launcher)[identity]["supervisor"]["pid"])  # type: ignore[index]
    assert os.getsid(pid) == pid
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    places = {fd: os.readlink(f"/proc/{pid}/fd/{fd}") for fd in ("0", "1", "2")}
    assert places["0"] == "/dev/null"
    assert places["1"].startswith("pipe:[")
    assert places["1"] == places["2"]
    ended(launcher)


def test_a_name_in_use_is_an_error_and_can_be_replaced(launcher: Launcher) -> None:
    first = started(launcher, WAITING)
    done = up(launcher, "true")
    assert (done.status, done.out) == (125, "")
    assert "the name web is in use by a sandbox that is starting or running" in done.err
    assert first in listed(launcher)
    other = started(launcher, WAITING, name="db")
    second = started(launcher, "echo second; exit 0", "--replace")
    assert set(listed(launcher, "--all")) == {other, second}
    sandbox(launcher, "wait", "web")
    done = up(launcher, "true")
    assert "is kept although it has ended" in done.err
    ended(launcher)


def test_of_several_starts_with_one_name_at_once_one_succeeds(launcher: Launcher) -> None:
    spec = launcher.write(f'[sandbox]\nname = "web"\n{HOST_ROOT}', "web.toml")
    command = [*launcher.arguments(spec, ["sh", "-c", WAITING])]
    command.insert(command.index("up") + 1, "--detach")
    starting = [
        subprocess.Popen(command, env=launcher.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(4)
    ]
    for process in starting:
        process.communicate(timeout=PATIENCE)
    assert sorted(process.returncode for process in starting) == [0, 125, 125, 125]
    ended(launcher)


def test_prune_removes_ended_sandboxes_and_no_running_one(launcher: Launcher) -> None:
    gone, left = started(launcher, "true"), started(launcher, WAITING, name="db")
    sandbox(launcher, "wait", "web")
    assert gone in sandbox(launcher, "prune").out
    assert list(listed(launcher, "--all")) == [left]
    ended(launcher)


def test_changes_of_an_ended_sandbox_stay_until_it_is_removed(launcher: Launcher) -> None:
    identity = started(launcher, "echo kept >/root-of-web")
    assert sandbox(launcher, "wait", "web").out == "0\n"
    assert "/root-of-web" in sandbox(launcher, "diff", identity).out
    assert identity in sandbox(launcher, "ls").out
    sandbox(launcher, "rm", "web")
    assert sandbox(launcher, "ls").out == ""
    assert started(launcher, "echo gone >/root-of-web", "--rm")
    wait_for(lambda: listed(launcher, "--all") == {}, "the end")
    ended(launcher)


@pytest.mark.parametrize("victim", ["supervisor", "init"])
def test_after_a_kill_ps_tells_the_truth_at_once_and_rm_frees_the_name(
    launcher: Launcher, victim: str
) -> None:
    identity = started(launcher, f"echo before; {WAITING}")
    wait_for(lambda: "ready" in sandbox(launcher, "logs", "web").out, "the log")
    found = listed(launcher)[identity]
    pids = [int(found[name]["pid"]) for name in ("supervisor", "init")]  # type: ignore[index]
    os.kill(pids[0] if victim == "supervisor" else pids[1], signal.SIGKILL)
    wait_for(lambda: not any(map(alive, pids)), "the end")
    state = str(listed(launcher, "--all")[identity]["state"])
    assert (
        state == "exited, supervisor was killed" if victim == "supervisor" else state.startswith("exited 137")
    )
    assert sandbox(launcher, "logs", "web").out.startswith("before\nready\n")
    up(launcher, "true", name="other")  # it sweeps, and keeps the record and the log
    assert "exited" in str(listed(launcher, "--all")[identity]["state"])
    assert sandbox(launcher, "logs", "web").out.startswith("before\nready\n")
    assert not (launcher.run / "run" / identity).exists()
    assert sandbox(launcher, "rm", "web").status == 0
    started(launcher, "true")
    sandbox(launcher, "wait", "web")
    ended(launcher)


def test_many_lines_arrive_complete_and_in_order_over_rotations(launcher: Launcher) -> None:
    count = 300_000
    script = f"i=0; while [ $i -lt {count} ]; do echo $i; i=$((i+1)); done"
    started(launcher, script)
    done = sandbox(launcher, "logs", "--follow", "web")
    assert done.status == 0
    numbers = [int(line) for line in done.out.split()]
    assert numbers == list(range(count))
    identity = next(iter(listed(launcher, "--all")))
    assert (launcher.state / "run" / identity / "log.1").exists()
    ended(launcher)


def test_lines_are_selected_by_number_and_time(launcher: Launcher) -> None:
    started(launcher, "for i in 1 2 3; do echo $i; done; sleep 1.5; printf 4; sleep 0.3; echo 5")
    sandbox(launcher, "wait", "web")
    assert sandbox(launcher, "logs", "web").out == "1\n2\n3\n45\n"
    assert sandbox(launcher, "logs", "--tail", "2", "web").out == "3\n45\n"
    assert sandbox(launcher, "logs", "--tail", "0", "web").out == ""
    stamped = sandbox(launcher, "logs", "--timestamps", "web").out.splitlines()
    moment = stamped[-1].split()[0]
    assert sandbox(launcher, "logs", "--since", moment, "web").out == "45\n"
    assert sandbox(launcher, "logs", "--until", moment, "web").out == "1\n2\n3\n"
    assert sandbox(launcher, "logs", "--since", "1h", "web").out == "1\n2\n3\n45\n"
    assert "yesterday is no time" in sandbox(launcher, "logs", "--since", "yesterday", "web").err
    ended(launcher)


def test_a_program_cannot_send_commands_to_the_terminal_that_shows_its_log(launcher: Launcher) -> None:
    started(launcher, r"printf '\033[2Jred\t\342\202\254\n'")
    sandbox(launcher, "wait", "web")
    assert sandbox(launcher, "logs", "web").out == "\x1b[2Jred\t€\n"
    command = [*launcher.arguments("x.toml")[:-2], "logs", "web"]
    shown = subprocess.run(
        ["script", "--quiet", "--command", shlex.join(command), "/dev/null"],
        env={**launcher.environ, "SHELL": "/bin/sh"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
        timeout=PATIENCE,
    ).stdout.decode()
    assert "\x1b" not in shown
    assert "[2Jred" in shown
    ended(launcher)


def test_warnings_of_the_supervisor_are_in_the_log(launcher: Launcher) -> None:
    identity = started(launcher, f"trap '' TERM; {WAITING}", more='[process]\nstop_timeout = "1s"\n')
    sandbox(launcher, "stop", identity)
    assert (
        "sandbox: warning: the program did not end within process.stop_timeout"
        in sandbox(launcher, "logs", "web").err
    )
    ended(launcher)


def test_a_log_that_is_followed_ends_with_the_sandbox(launcher: Launcher, tmp_path: Path) -> None:
    started(launcher, f"trap 'echo last; exit 0' TERM; {WAITING}")
    out = tmp_path / "out"
    command = [*launcher.arguments("x.toml")[:-2], "logs", "-f", "web"]
    with out.open("w") as file, subprocess.Popen(command, env=launcher.environ, stdout=file) as following:
        wait_for(lambda: "ready" in out.read_text(), "the log")
        time.sleep(0.2)
        assert following.poll() is None
        sandbox(launcher, "stop", "web")
        assert following.wait(PATIENCE) == 0
    assert out.read_text() == "ready\nlast\n"
    ended(launcher)


def test_a_foreground_sandbox_has_no_log(launcher: Launcher) -> None:
    spec = launcher.write(f'[sandbox]\nname = "web"\n{HOST_ROOT}', "web.toml")
    with subprocess.Popen(
        launcher.arguments(spec, ["sh", "-c", WAITING]),
        env=launcher.environ,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        assert "sandbox up --detach" in sandbox(launcher, "logs", "web").err
        process.terminate()
        process.wait(PATIENCE)
