"""`sandbox up --dry-run` and `sandbox explain` refuse what `sandbox up` refuses, and change nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.e2e.support import HOST_ROOT, PATIENCE, Launcher, sandbox, several_ids
from tests.e2e.test_explain import SPECS

pytestmark = [pytest.mark.fuse, pytest.mark.userns]


def refusing_specs() -> dict[str, str]:
    """Return environment files that `up` refuses or cannot decode."""
    return {
        "absent layer": '[root]\nlayers = ["dir:absent"]\n',
        "unenforced": HOST_ROOT + '[network]\nhosts = { db = "10.0.0.2" }\n[health]\ncommand = ["true"]\n',
        "nothing to bind": HOST_ROOT + 'native = ["/usr"]\n',
        "unknown image": '[root]\nlayers = ["docker://localhost/none"]\npull = "never"\n',
        "hard limit": HOST_ROOT
        + f"[limits]\nfile_size = {1 << 40}\ncpu_time = 99999\nopen_files = 1073741816\n",
        "wrong": "[root]\nlayers = 5\nlayer = 6\n",
        "no toml": "[root\n",
    }


@pytest.mark.parametrize("name", list(refusing_specs()))
def test_exit_status_and_mistakes_are_those_of_up_where_it_refuses(launcher: Launcher, name: str) -> None:
    path = launcher.write(refusing_specs()[name])
    up = sandbox(launcher, "up", path, "--", "true")
    dry = sandbox(launcher, "up", "--dry-run", path, "--", "true")
    why = sandbox(launcher, "explain", path)
    assert up.status == 125
    assert dry == up
    assert why.status == (125 if name in ("wrong", "no toml") else 1)
    if why.status == 125:
        assert why.err == up.err
    else:
        heads = [line for line in up.err.splitlines() if line.startswith(path)]
        told = json.loads(sandbox(launcher, "explain", "--json", path).out)
        assert told["refused"]
        assert len(told["refusals"]) == len(heads) > 0
        assert all(item["message"] in up.err for item in told["refusals"])


def test_state_directory_that_cannot_be_used_is_refused_by_all_three(launcher: Launcher) -> None:
    launcher.state.mkdir(mode=0o777)
    launcher.state.chmod(0o777)
    path = launcher.write(HOST_ROOT)
    up, dry = (sandbox(launcher, "up", *options, path, "--", "true") for options in ((), ("--dry-run",)))
    assert (up.status, dry) == (125, up)
    assert "can be written by other users" in dry.err
    why = sandbox(launcher, "explain", path)
    assert why.status == 1
    assert "can be written by other users" in " ".join(why.out.split())  # `explain` folds long lines


def snapshot(*roots: Path) -> list[tuple[str, int, int, int]]:
    """Return every object below *roots* with its mode, size and time of change."""
    found = []
    for root in roots:
        for path in sorted([root, *root.rglob("*")]):
            info = path.lstat()
            found.append((str(path), info.st_mode, info.st_size, info.st_ctime_ns))
    return found


def session(pid: int) -> list[int]:
    """Return the processes of the session that *pid* leads."""
    found = []
    for name in os.listdir("/proc"):
        try:
            if name.isdigit() and os.getsid(int(name)) == pid:
                found.append(int(name))
        except ProcessLookupError:
            continue
    return found


AUDITED = """
import os, runpy, sys
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
STARTS = ("os.fork", "os.forkpty", "os.exec", "os.posix_spawn", "os.system", "subprocess.Popen", "_posixsubprocess.fork_exec")
CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.chmod", "os.chown", "os.truncate",
           "os.utime", "os.setxattr", "fcntl.flock", "fcntl.lockf", "socket.bind", "socket.connect", "os.kill", "os.putenv")
def hook(event, arguments):
    wrote = event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITES
    if wrote or event in STARTS + CHANGES:
        os.write(2, f"did {event} {arguments!r}\\n".encode())
sys.addaudithook(hook)
sys.argv = ["sandbox", *sys.argv[1:]]
runpy.run_module("sandbox", run_name="__main__")
"""


@pytest.mark.parametrize(
    "arguments", [("up", "--dry-run"), ("up", "--dry-run", "--json"), ("explain",), ("explain", "--json")]
)
def test_dry_run_and_explain_have_no_side_effect(launcher: Launcher, arguments: Sequence[str]) -> None:
    path = launcher.write(SPECS["limited"])
    before = snapshot(launcher.directory)
    with subprocess.Popen(
        [sys.executable, "-B", "-c", AUDITED, *arguments, path],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=launcher.environ,
    ) as process:
        out, err = process.communicate(timeout=PATIENCE)
        assert (process.returncode, out != "") == (0, True), err
        assert [line for line in err.splitlines() if line.startswith("did ")] == []
        assert session(process.pid) == []
    assert snapshot(launcher.directory) == before
    assert not launcher.state.exists()


def test_the_audit_hook_finds_the_side_effects_of_a_start(launcher: Launcher) -> None:
    path = launcher.write(HOST_ROOT)
    done = subprocess.run(
        [sys.executable, "-B", "-c", AUDITED, "up", path, "--", "true"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        env=launcher.environ,
    )
    assert {"os.mkdir", "os.fork", "fcntl.flock"} <= {
        line.split()[1] for line in done.stderr.splitlines() if line.startswith("did ")
    }


def test_dry_run_prints_the_plan_for_the_command_that_is_given(launcher: Launcher) -> None:
    path = launcher.write(SPECS["process"])
    done = sandbox(launcher, "up", "--dry-run", path, "--", "echo", "a b")
    lines = done.out.splitlines()
    assert lines[0] == "sandbox some-name"
    assert "set the host name inside" in lines
    assert lines[-1] == 'exec echo "a b"'
    plan = json.loads(sandbox(launcher, "up", "--dry-run", "--json", path, "--", "echo", "a b").out)
    assert plan["process"]["argv"] == ["echo", "a b"]
    assert [step["description"] for step in plan["operations"]] == [
        line for line in lines if line in {step["description"] for step in plan["operations"]}
    ]


def test_dry_run_prints_its_mistakes_as_json(launcher: Launcher) -> None:
    path = launcher.write(refusing_specs()["absent layer"])
    done = sandbox(launcher, "up", "--dry-run", "--json", path)
    assert done.status == 125
    (mistake,) = json.loads(done.out)["error"]["diagnostics"]
    assert mistake["key"] == "root.layers[0]"


def test_json_without_dry_run_is_refused(launcher: Launcher) -> None:
    done = sandbox(launcher, "up", "--json", launcher.write(HOST_ROOT))
    assert (done.status, done.out) == (125, "")
    assert done.err.startswith("sandbox: --json needs --dry-run")


@several_ids
def test_user_that_the_sandbox_lacks_is_an_error_at_its_place(launcher: Launcher) -> None:
    path = launcher.write(HOST_ROOT + '[process]\nuser = "no-such-user"\n')
    done = sandbox(launcher, "up", path, "--", "true")
    assert done.status == 125
    assert done.err.startswith(
        f"sandbox: {path}:4:8: process.user: user no-such-user is not in the sandbox's /etc/passwd\n"
    )


def test_directory_that_the_sandbox_lacks_is_an_error_at_its_place(launcher: Launcher) -> None:
    path = launcher.write(HOST_ROOT + '[process]\ncwd = "/no/such"\n')
    done = sandbox(launcher, "up", path, "--", "true")
    assert done.status == 125
    assert done.err.startswith(f"sandbox: {path}:4:7: process.cwd: ")


def test_mistake_in_a_file_of_variables_is_an_error_at_its_line(launcher: Launcher) -> None:
    (launcher.directory / "web.env").write_text("GOOD=1\nexport BAD=2\n", encoding="utf-8")
    path = launcher.write(HOST_ROOT + '[process]\nenv_file = "web.env"\n')
    done = sandbox(launcher, "up", path, "--", "true")
    place = f"{launcher.directory}/web.env:2:1"
    assert done.status == 125
    assert done.err == (
        f'{place}: "export BAD" cannot name an environment variable\n'
        "      hint: a name must not be empty or contain blanks\n"
    )
    assert sandbox(launcher, "up", "--dry-run", path, "--", "true") == done
