"""Programs that fork without end, and the files in /proc of a sandbox's processes that other accounts can read."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.support import HOST_ROOT, PATIENCE, Launcher, alive, first_line, let_in, wait_for
from tests.e2e.test_ending import Family

pytestmark = [pytest.mark.fuse, pytest.mark.userns]

#: Forks without end: three chains of processes fork and exit as fast as they can, each process in a session of its own.
#: Other processes become more and more, up to the limit of 100 that keeps the machine usable.
BOMB = """
import os, resource, time
resource.setrlimit(resource.RLIMIT_NPROC, (100, 100))
def forked(pause):
    while True:
        try:
            return os.fork()
        except OSError:
            time.sleep(pause)
for _ in range(3):
    if os.fork() == 0:
        while True:
            if forked(0.001):
                os._exit(0)
            os.setsid()
if os.fork() == 0:
    while True:
        forked(0.05)
time.sleep(0.5)
print("ready", flush=True)
time.sleep(1000)
"""


def bomb(launcher: Launcher, namespace: str, more: str) -> str:
    """Return an environment file whose program forks without end. Only its command lines name the launcher's directory."""
    command = json.dumps(["/usr/bin/python3", "-c", f"{BOMB}# {launcher.directory}"])
    return f'{HOST_ROOT}[process]\ncommand = {command}\n[namespaces]\npid = "{namespace}"\n{more}'


def left_of(launcher: Launcher) -> list[int]:
    """Return the processes of :func:`bomb` that have not ended."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            line = Path(f"/proc/{name}/cmdline").read_bytes()
        except OSError:
            continue
        if b"resource.RLIMIT_NPROC" in line and os.fsencode(launcher.directory) in line and alive(int(name)):
            found.append(int(name))
    return found


@pytest.mark.twice
@pytest.mark.parametrize(
    ("namespace", "end"),
    [
        ("private", "SIGTERM"),
        ("private", "supervisor killed"),
        ("host", "SIGTERM"),
        ("host", "wall time"),
        ("host", "supervisor killed"),
        ("host", "init killed"),
    ],
)
def test_program_that_forks_without_end_ends_when_it_is_told_to(
    launcher: Launcher, namespace: str, end: str
) -> None:
    more = '[limits]\nwall_time = "4s"\n' if end == "wall time" else ""
    with launcher.start(bomb(launcher, namespace, more)) as supervisor:
        assert first_line(supervisor) == "ready"
        family = Family(supervisor.pid)
        assert len(left_of(launcher)) > 40
        if end == "SIGTERM":
            supervisor.terminate()
        elif end == "supervisor killed":
            supervisor.kill()
        elif end == "init killed":
            os.kill(family.init, signal.SIGKILL)
        status = supervisor.wait(PATIENCE)
        expected = {"SIGTERM": 143, "wall time": 124, "supervisor killed": -9, "init killed": 137}[end]
        assert status == expected, supervisor.stderr and supervisor.stderr.read()
        if end == "supervisor killed":
            wait_for(lambda: not left_of(launcher), "the end of the bomb")
        assert left_of(launcher) == []
    if end == "supervisor killed":
        assert launcher.up(command=["true"]).status == 0  # removes its run directory
    assert launcher.runs() == []


@pytest.mark.cgroup
@pytest.mark.parametrize(
    ("namespace", "limit"),
    [("private", 'memory = "1G"'), ("host", "pids = 60")],
    ids=["private, other", "host, pids"],
)
def test_program_that_forks_without_end_in_a_cgroup_ends_and_leaves_none(
    launcher: Launcher, namespace: str, limit: str
) -> None:
    """A cgroup can be removed only when it has no process; the leak check fails a test that leaves one."""
    with launcher.start(bomb(launcher, namespace, f"[limits]\n{limit}\n")) as supervisor:
        assert first_line(supervisor) == "ready"
        assert len(left_of(launcher)) > 40
        supervisor.terminate()
        assert supervisor.wait(PATIENCE) == 143
        assert left_of(launcher) == []
    assert launcher.runs() == []


#: Prints for each process of its arguments the files of /proc in which it reads the word SECRET.
LOOK = """
import json, os, sys
def contents(path):
    try:
        if os.path.islink(path):
            return os.fsencode(os.readlink(path))
        if os.path.isdir(path):
            return b"".join(contents(os.path.join(path, name)) for name in os.listdir(path))
        with open(path, "rb") as file:
            return file.read(1 << 20)
    except OSError:
        return b""
def found(pid):
    files = [name for name in os.listdir(f"/proc/{pid}") if name != "task"] if os.path.isdir(f"/proc/{pid}") else []
    return sorted(name for name in files if b"SECRET" in contents(f"/proc/{pid}/{name}"))
print(json.dumps([found(pid) for pid in sys.argv[1:]]))
"""


def private_environment(directory: Path) -> str:
    """Return an environment file whose layer, volume, variables file and command have the word SECRET in their names."""
    let_in(directory)
    for name in ("SECRET-layer", "SECRET-volume"):
        (directory / name).mkdir()
    (directory / "SECRET-env").write_text("VARIABLE=SECRET\n")
    script = json.dumps(["sh", "-c", "echo ready; sleep 1000; :", "SECRET-argument"])
    return (
        f'[root]\nlayers = ["dir:/", "dir:{directory}/SECRET-layer"]\n'
        f'[[volumes]]\ntype = "bind"\nsource = "{directory}/SECRET-volume"\ntarget = "/v"\n'
        f'[process]\ncommand = {script}\nenv_file = "{directory}/SECRET-env"\nenv = {{ OTHER = "SECRET" }}\n'
    )


def seen_by_another(pids: list[int], prefix: tuple[str, ...] = ()) -> list[list[str]]:
    """Return the files of /proc/PID in which another account reads the word SECRET."""
    command = ["setpriv", "--reuid=61235", "--regid=61235", "--clear-groups", "/usr/bin/python3", "-c", LOOK]
    done = subprocess.run(
        [*prefix, *command, *map(str, pids)], capture_output=True, check=True, timeout=PATIENCE
    )
    found: list[list[str]] = json.loads(done.stdout)
    return found


@pytest.mark.root
def test_other_accounts_read_in_proc_only_what_the_kernel_shows_of_every_process(
    launcher: Launcher, tmp_path: Path
) -> None:
    """SECURITY.md lists these under "What is not": command lines, and mounts of the sandbox with their sources."""
    path = launcher.write(private_environment(tmp_path), "SECRET.toml")
    launcher.state = tmp_path / "SECRET-state"
    launcher.environ["SANDBOX_STATE_DIR"] = str(launcher.state)
    with launcher.start(path) as supervisor:
        assert first_line(supervisor) == "ready"
        family = Family(supervisor.pid)
        shown = dict(
            zip(("supervisor", "server", "init", "program"), seen_by_another(family.all()), strict=True)
        )
        assert shown == {
            "supervisor": ["cmdline"],
            "server": [],
            "init": ["mountinfo"],
            "program": ["cmdline", "mountinfo"],
        }
        # The remedy is a /proc that hides the processes of other users.
        hiding = (
            "unshare",
            "--mount",
            "sh",
            "-c",
            'mount -t proc -o hidepid=invisible proc /proc && exec "$@"',
            "sh",
        )
        assert seen_by_another(family.all(), hiding) == [[], [], [], []]
        supervisor.terminate()
        supervisor.wait(PATIENCE)


@pytest.mark.root
def test_sandbox_starts_where_proc_hides_the_processes_of_others(launcher: Launcher, tmp_path: Path) -> None:
    let_in(tmp_path)
    tmp_path.chmod(0o777)
    account = "--reuid=61234", "--regid=61234", "--clear-groups"
    readable = ["setpriv", *account, sys.executable, "-c", "import sandbox"]
    if subprocess.run(readable, check=False, capture_output=True).returncode:
        pytest.skip("other accounts cannot read this checkout or its interpreter; chmod o+rX would let them")
    environ = {
        **launcher.environ,
        "SANDBOX_STATE_DIR": str(tmp_path / "own"),
        "HOME": str(tmp_path),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    script = 'mount -t proc -o hidepid=invisible proc /proc && exec setpriv "$@"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", *account, *launcher.arguments(HOST_ROOT, ["echo", "there"])],
        capture_output=True, text=True, check=False, timeout=PATIENCE, env=environ,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "there\n", "")
