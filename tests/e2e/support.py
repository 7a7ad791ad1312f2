"""Runs `sandbox up` for a test, and collects facts about the inside of the sandbox."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import PROJECT
from tests.support.requirements import has_subordinate_ids

#: Seconds for a sandbox that only starts and ends. Only a failing test waits that long, so the bound is generous.
PATIENCE = 60

#: The smallest environment file: its root is the host's root.
HOST_ROOT = '[root]\nlayers = ["dir:/"]\n'

#: The interpreter of the host, which every root with the layer `dir:/` has.
PYTHON = "/usr/bin/python3"

#: The environment files that come with the project.
CONFIGS = Path(PROJECT) / "configs"

#: Marks a test whose sandbox needs more than one user id.
several_ids = pytest.mark.skipif(
    os.geteuid() != 0 and not has_subordinate_ids(), reason="this account has a single id"
)

#: A program for the host's python3 that prints facts about its sandbox as one JSON object.
PROBE = """
import json, os
def read(path):
    try:
        with open(path) as file: return file.read()
    except OSError as error: return f"errno {error.errno}"
def listing(path):
    try: return sorted(os.listdir(path))
    except OSError as error: return f"errno {error.errno}"
status = dict(line.split(":", 1) for line in read("/proc/self/status").splitlines() if ":" in line)
print(json.dumps({
    "pid": os.getpid(), "uid": os.getuid(), "gid": os.getgid(), "groups": os.getgroups(), "cwd": os.getcwd(),
    "env": dict(os.environ), "hostname": os.uname().nodename, "umask": int(status["Umask"].strip(), 8),
    "namespaces": {name: os.readlink(f"/proc/self/ns/{name}") for name in listing("/proc/self/ns")},
    "uid_map": read("/proc/self/uid_map").split(), "gid_map": read("/proc/self/gid_map").split(),
    "capabilities": {key: status[key].strip() for key in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")},
    "no_new_privs": status["NoNewPrivs"].strip(), "session": os.getsid(0),
    "mounts": [line.split() for line in read("/proc/self/mountinfo").splitlines()],
    "processes": [name for name in listing("/proc") if name.isdigit()],
    "dev": listing("/dev"), "root": listing("/"), "interfaces": listing("/sys/class/net"),
    "fds": {name: os.readlink(f"/proc/self/fd/{name}") for name in ("0", "1", "2")},
    "open": sorted(int(fd) for fd in os.listdir("/proc/self/fd")),
}))
"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Exit status and output of a command that has ended."""

    status: int
    out: str
    err: str

    def facts(self) -> dict[str, Any]:
        """Return the facts that the probe printed."""
        facts: dict[str, Any] = json.loads(self.facts_text())
        return facts

    def facts_text(self) -> str:
        """Return the standard output of a program, which must have succeeded."""
        assert self.status == 0, (self.status, self.err)
        return self.out


class Launcher:
    """Runs `sandbox` with a state directory of its own."""

    def __init__(self, directory: Path) -> None:
        """Keep environment files and state below *directory*."""
        self.directory = directory
        self.state = directory / "state"
        self.run = directory / "run-directory"
        #: Begins each command, such as nsenter(1) with its options; `small_disk` sets it.
        self.prefix: tuple[str, ...] = ()
        self.environ: dict[str, str] = {
            **os.environ,
            "SANDBOX_STATE_DIR": str(self.state),
            "SANDBOX_RUN_DIR": str(self.run),
        }

    def write(self, text: str, name: str = "test.toml") -> str:
        """Write an environment file and return its path."""
        path = self.directory / name
        path.write_text(text, encoding="utf-8")
        return str(path)

    def arguments(self, spec: str, command: Sequence[str] = (), options: Sequence[str] = ()) -> list[str]:
        """Return the command line for the environment *spec* (its text, or the path of a file)."""
        path = spec if spec.endswith(".toml") and "\n" not in spec else self.write(spec)
        program = [*self.prefix, sys.executable, "-m", "sandbox"]
        return [*program, "up", *options, path, *(["--", *command] if command else [])]

    def up(
        self,
        spec: str = HOST_ROOT,
        command: Sequence[str] = (),
        *,
        options: Sequence[str] = (),
        stdin: str = "",
        environ: Mapping[str, str] | None = None,
    ) -> Outcome:
        """Run a sandbox to its end."""
        done = subprocess.run(
            self.arguments(spec, command, options),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
            env={**self.environ, **(environ or {})},
        )
        return Outcome(done.returncode, done.stdout, done.stderr)

    def shell(self, script: str, spec: str = HOST_ROOT, **others: Any) -> Outcome:
        """Run a shell script in a sandbox."""
        return self.up(spec, ["sh", "-c", script], **others)

    def probe(self, spec: str = HOST_ROOT, **others: Any) -> dict[str, Any]:
        """Run the probe in a sandbox and return its facts."""
        return self.up(spec, [PYTHON, "-c", PROBE], **others).facts()

    @contextmanager
    def start(
        self,
        spec: str = HOST_ROOT,
        command: Sequence[str] = (),
        *,
        options: Sequence[str] = (),
        **others: Any,
    ) -> Iterator[subprocess.Popen[str]]:
        """Start a sandbox and yield its supervisor, which is killed at the end. Standard output and error are pipes."""
        with subprocess.Popen(
            self.arguments(spec, command, options),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environ,
            start_new_session=True,
            **others,
        ) as supervisor:
            try:
                yield supervisor
            finally:
                supervisor.kill()

    def runs(self) -> list[str]:
        """List the runs that have a directory in the state directory or in the run directory."""
        found = set()
        for base in (self.state, self.run):
            try:
                found |= set(os.listdir(base / "run"))
            except (FileNotFoundError, NotADirectoryError):
                continue
        return sorted(found)


def sandbox(launcher: Launcher, *arguments: str, environ: Mapping[str, str] | None = None) -> Outcome:
    """Run `sandbox` with *arguments*."""
    done = subprocess.run(
        [*launcher.prefix, sys.executable, "-m", "sandbox", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        env={**launcher.environ, **(environ or {})},
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


class SmallDisk:
    """A tmpfs in a mount namespace of its own, which an ordinary user may mount, too. `small_disk` creates it."""

    def __init__(self, path: Path, enter: tuple[str, ...]) -> None:
        self.path = path
        self._enter = enter

    def run(self, *command: str) -> str:
        """Run *command* where the disk is mounted; return its output."""
        return subprocess.run(
            [*self._enter, *command], capture_output=True, text=True, check=True, timeout=PATIENCE
        ).stdout

    def used(self) -> int:
        """Return the bytes that are in use."""
        return int(self.run("df", "--output=used", "-B1", str(self.path)).split()[-1])

    def resize(self, size: int) -> None:
        """Give the disk *size* bytes in all."""
        # With a type and a source, mount(8) does not repeat the present options, whose owner has no id in this namespace.
        self.run("mount", "-t", "tmpfs", "-o", f"remount,size={size}", "none", str(self.path))

    def files(self, below: str) -> list[str]:
        """Return the paths of the files in the directory *below* of the disk; none if it does not exist."""
        found = self.run(
            "sh", "-c", 'cd "$1" && [ ! -e "$2" ] || find "$2" -type f', "sh", str(self.path), below
        )
        return sorted(found.split())


@contextmanager
def small_disk(launcher: Launcher, size: int) -> Iterator[SmallDisk]:
    """Yield a disk of *size* bytes with the images of *launcher*, whose commands run meanwhile where it is mounted.

    An ordinary user is root of a user namespace there, with a single id. The host's root is another user there, so the command
    reads only what every user may read.
    """
    let_in(launcher.directory)
    path = launcher.directory / "small"
    path.mkdir(mode=0o700)
    user = [] if os.geteuid() == 0 else ["--user"]
    root = ["--map-root-user"] if user else []
    mount = 'mount -t tmpfs -o "mode=0700,size=$2" none "$1" && echo && exec cat'
    with subprocess.Popen(
        [
            "unshare",
            *user,
            *root,
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            mount,
            "sh",
            path,
            str(size),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"\n"
            keep = ["--preserve-credentials"] if user else []
            enter = ("nsenter", *keep, *user, "--mount", "--target", str(holder.pid), "--")
            launcher.prefix = enter
            launcher.environ["SANDBOX_CACHE_DIR"] = str(path)
            yield SmallDisk(path, enter)
        finally:
            launcher.prefix = ()
            launcher.environ.pop("SANDBOX_CACHE_DIR", None)
            holder.kill()


def limits(text: str) -> str:
    """Return an environment file with the limits *text*."""
    return f"{HOST_ROOT}[limits]\n{text}\n"


def run_reported(
    launcher: Launcher, spec: str, program: str, *options: str
) -> tuple[Outcome, dict[str, Any]]:
    """Run Python code in a sandbox; return its outcome and the report."""
    done = launcher.up(spec, [PYTHON, "-c", program], options=["--report", "--json", *options])
    return done, json.loads(done.err.splitlines()[-1])


def config(name: str) -> str:
    """Return the path of the example *name*. test_configs.py finds by these calls whether each example is run."""
    return str(CONFIGS / f"{name}.toml")


def let_in(directory: Path) -> None:
    """Let every user enter and list *directory* and the directories above it that pytest made."""
    while not directory.stat().st_mode & stat.S_ISVTX and directory.stat().st_uid == os.geteuid():
        directory.chmod(0o755)
        if directory.parent == directory or directory.name.startswith("pytest-of-"):
            return
        directory = directory.parent


def wait_for(condition: Callable[[], Any], what: str, seconds: float = PATIENCE) -> Any:
    """Wait until *condition* is true and return what it returned."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(f"waited {seconds} seconds for {what}")


def first_line(process: subprocess.Popen[str]) -> str:
    """Return the first line that the program prints. The program is running then."""
    assert process.stdout is not None
    return process.stdout.readline().rstrip("\n")


def children(pid: int) -> dict[int, list[str]]:
    """Return the command lines of the direct children of *pid*."""
    found = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as file:
                parent = int(file.read().rpartition(")")[2].split()[1])
            with open(f"/proc/{name}/cmdline", encoding="utf-8", errors="replace") as file:
                line = file.read().split("\0")[:-1]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if parent == pid:
            found[int(name)] = line
    return found


def alive(pid: int) -> bool:
    """Return whether *pid* is a process that has not ended. A zombie has ended."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
