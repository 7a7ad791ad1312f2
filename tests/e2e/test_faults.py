"""A start that fails at any of its steps: one error, the launcher's exit status, and nothing is left.

`faulty` lets one system call of one process fail, as with a full disk, without free descriptors, processes or memory, or
under a container's filter. Without --long one call of each of a third of the kinds of calls fails. Each account of
scripts/test takes another third.
"""

from __future__ import annotations

import errno
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.conftest import PROJECT
from tests.e2e.archive import RootArchive
from tests.e2e.faulty import ROLES
from tests.e2e.support import PATIENCE, Launcher, children
from tests.e2e.test_namespaces import anchor
from tests.support.requirements import has_subordinate_ids

pytestmark = [pytest.mark.fuse, pytest.mark.userns]

#: Environment files that together use every step of a start. Keys that exclude each other are in different files.
SPECS = {
    "alone": """
[sandbox]
name = "faulty"
[root]
layers = ["dir:/"]
[process]
terminal = true
command = ["sh", "-c", "echo fine"]
[limits]
pids = 100
core = 0
oom_score_adj = 10
optional = ["pids"]
[[volumes]]
type = "tmpfs"
target = "/scratch"
[[volumes]]
type = "bind"
source = "SOURCE"
target = "/mnt/data"
read_only = true
""",
    "joined": """
[sandbox]
name = "faulty"
[root]
layers = ["dir:/", "tar:ARCHIVE"]
writable = "persistent"
native = ["/own/native"]
[process]
command = ["sh", "-c", "echo fine"]
user = "root"
[namespaces]
net = "path:NET"
time = { boottime = "1d" }
[limits]
memory = "256M"
cpus = 1
optional = ["memory", "cpus"]
[security]
masked_paths = ["/etc/ssh"]
readonly_paths = ["/usr"]
[security.landlock]
read = ["/"]
write = ["/dev", "/kept"]
execute = ["/"]
connect = [443]
[[devices]]
path = "/dev/fuse"
target = "/dev/below/fuse"
[[volumes]]
type = "named"
source = "kept"
target = "/kept"
[[volumes]]
type = "file"
target = "/kept/file"
content = "text"
[[volumes]]
type = "tmpfs"
target = "/scratch"
read_only = true
[[volumes]]
type = "file"
target = "/scratch/below/file"
content = "text"
[[volumes]]
type = "bind"
source = "SOURCE"
target = "/mnt/data"
""",
    "networked": """
[sandbox]
name = "faulty"
[root]
layers = ["dir:/"]
[process]
command = ["sh", "-c", "echo fine"]
[network]
networks = ["inner", "outer"]
ports = ["0:80", "0:81/udp"]
host_access = ["127.0.0.1:9"]
[networks.inner]
internal = true
[networks.outer]
""",
    "private": """
[sandbox]
name = "faulty"
[root]
layers = ["dir:/"]
[process]
command = ["sh", "-c", "echo fine"]
[network]
mode = "private"
ports = ["0:80"]
""",
    "limited": """
[sandbox]
name = "faulty"
[root]
layers = ["dir:/"]
[process]
command = ["sh", "-c", "echo fine"]
[network]
egress = { allow = ["192.0.2.0/24", "example.org:443"] }
ports = ["0:80"]
""",
    "bound": """
[sandbox]
name = "faulty"
[root]
layers = ["tar:ROOT"]
writable = "none"
server = "none"
[process]
command = ["sh", "-c", "echo fine"]
[[volumes]]
type = "bind"
source = "/usr"
target = "/usr"
read_only = true
""",
}

_PROCESS, _SPACE, _REFUSED = (
    "fork posix_spawn",
    "mkdir makedirs rename symlink link write flush pwrite ftruncate setxattr unlink rmdir mknod",
    (
        "unshare setns setresuid setresgid setgroups chown fchown chmod fchmod prctl capset keep_capabilities setsid chdir fchdir"
        " utime setrlimit set_seccomp_filter landlock_restrict_self join_new_session_keyring change"
    ),
)
_ASKING = "stat fstat lstat readlink listdir"
_MEMORY = (
    "mount fsopen fsconfig fsmount move_mount open_tree mount_setattr pivot_root execve landlock_allow_beneath"
    f" landlock_allow_port {_ASKING}"
)


def reason(name: str) -> int:
    """Return the errno with which the call *name* fails when a resource is exhausted."""
    for names, number in (
        (_PROCESS, errno.EAGAIN),
        (_SPACE, errno.ENOSPC),
        (_REFUSED, errno.EPERM),
        (_MEMORY, errno.ENOMEM),
    ):
        if name in names.split():
            return number
    return errno.EMFILE


class Fault(NamedTuple):
    role: str
    number: int
    name: str


def completed(
    command: Sequence[str], environ: Mapping[str, str], *, seconds: float = PATIENCE
) -> subprocess.CompletedProcess[str]:
    """Run *command* to its end in the project, without input, and capture its output."""
    return subprocess.run(
        command,
        env=environ,
        cwd=PROJECT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


class Machine:
    """Runs sandboxes with faults. Each run has a state directory of its own."""

    def __init__(self, directory: Path, name: str, spec: str) -> None:
        self.directory = directory
        self.name = name
        self.spec = directory / "faulty.toml"
        self.spec.write_text(spec)
        self.has_network = "[network]" in spec
        #: Begins each command: a network namespace in place of the machine's, in which root would make a bridge.
        self.prefix: tuple[str, ...] = ()
        if self.has_network and os.geteuid() == 0:
            self.prefix = ("unshare", "--net", "sh", "-c", 'ip link set lo up; exec "$@"', "sh")
        self._calls: dict[str, list[str]] = {}

    def run(self, role: str, number: int, failure: str) -> tuple[Launcher, subprocess.CompletedProcess[str]]:
        place = self.directory / f"{role}-{number}"
        place.mkdir()
        launcher = Launcher(place)
        command = [sys.executable, "-m", "tests.e2e.faulty", role, str(number), failure, "up", str(self.spec)]
        launcher.prefix = self.prefix
        command = [*launcher.prefix, *command]
        return launcher, completed(command, {**launcher.environ, "FAULTY_RECORD": str(place / "record")})

    def calls(self) -> dict[str, list[str]]:
        """Return the names of the calls of a successful start, by role."""
        if self._calls:
            return self._calls
        for attempt in range(1, 4):
            launcher, done = self.run("none", -attempt, "0")
            assert (done.returncode, done.stdout) == (0, "fine\n"), done.stderr
            record = launcher.directory / "record"
            server = record.with_name("record.server")
            # On a busy machine, a slow server is killed before it has written the names.
            if not server.exists() or server.stat().st_size:
                break
        found: dict[str, list[str]] = json.loads(record.read_text())
        # A start without a server has no calls of that role.
        self._calls = {**found, "server": json.loads(server.read_text()) if server.exists() else []}
        return self._calls

    def problem(self, fault: Fault) -> str | None:
        """Let one call fail; return a description of what is wrong with the outcome."""
        try:
            launcher, done = self.run(fault.role, fault.number, str(reason(fault.name)))
        except subprocess.TimeoutExpired as error:
            return f"{fault}: does not end: {error.stderr!r}"
        return self.judge(str(fault), launcher, done)

    def judge(self, what: str, launcher: Launcher, done: subprocess.CompletedProcess[str]) -> str | None:
        """Return what is wrong with the outcome of a start with the fault *what*; remove its directory if nothing is."""
        said = [
            line for line in done.stderr.splitlines() if not line.startswith("   ")
        ]  # hints, lines of the file
        # Some calls are for optional steps, or are repeated after a failure.
        went_on = done.returncode == 0 and done.stdout == "fine\n" and not any(map(_is_error, said))
        warned = all(line.startswith("sandbox: warning: ") for line in said)
        wrong = []
        if not went_on and not (
            done.returncode in (125, 126, 127) and len(list(filter(_is_error, said))) == 1
        ):
            wrong.append(f"status {done.returncode}, output {done.stdout!r}")
        if re.search(r"Traceback|internal error|unexpectedly", done.stderr):
            wrong.append("not a clear error")
        if any(not line.startswith(("sandbox: ", f"{self.spec}:")) for line in said):
            wrong.append("more than an error")
        if launcher.runs() and not (warned and said and "the next command tries again" in done.stderr):
            wrong.append(f"left {launcher.runs()}")
        if unfinished := [str(path) for path in launcher.state.rglob("*.new")]:
            wrong.append(f"left {unfinished}")
        # The next start must succeed with what the failed one has kept.
        if launcher.runs() or "persistent" in self.spec.read_text():
            again = launcher.up(str(self.spec))
            if (again.status, again.out) != (0, "fine\n") or launcher.runs():
                wrong.append(f"the next start left {launcher.runs()}: {again}")
        if wrong:
            return f"{what}: {'; '.join(wrong)}: {done.stderr.strip()}"
        shutil.rmtree(launcher.directory)
        return None


def _is_error(line: str) -> bool:
    """Return whether *line* is an error. The end of what connects the network is a warning, and stops the sandbox."""
    return not line.startswith("sandbox: warning: ") or "which connects the network, " in line


@pytest.fixture(scope="module", params=list(SPECS))
def machine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    directory = tmp_path_factory.mktemp("faults")
    (directory / "source").mkdir()
    with tarfile.open(directory / "layer.tar", "w") as archive:
        for name, text in (("etc/passwd", b"root:x:0:0::/:/bin/sh\n"), ("own/native/file", b"text\n")):
            member = tarfile.TarInfo(name)
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text))
    RootArchive(directory / "root.tar").layer()
    spec = (
        SPECS[request.param]
        .replace("SOURCE", str(directory / "source"))
        .replace("ARCHIVE", str(directory / "layer.tar"))
        .replace("ROOT", str(directory / "root.tar"))
    )
    if "NET" not in spec:
        yield Machine(directory, request.param, spec)
        return
    with anchor(Launcher(directory)) as (supervisor, _):
        init = next(pid for pid, line in children(supervisor.pid).items() if "--serve-fd" not in line)
        program = next(iter(children(init)))
        yield Machine(directory, request.param, spec.replace("NET", f"/proc/{program}/ns/net"))


def _let_fail(machine: Machine, role: str, wanted: Callable[[list[str]], list[int]]) -> None:
    names = machine.calls()[role]
    faults = [Fault(role, number, names[number]) for number in wanted(names)]
    if role == "server" and not names:
        pytest.skip("nobody serves it")
    if role == "helper" and not names:
        pytest.skip("this account needs no helper for it")
    assert faults
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        problems = [problem for problem in pool.map(machine.problem, faults) if problem is not None]
    if problems:
        pytest.fail("\n".join([f"{len(problems)} of {len(faults)}", *problems]), pytrace=False)


#: Which third this account takes.
SHARE = 0 if os.geteuid() == 0 else 1 if has_subordinate_ids() else 2


@pytest.mark.parametrize("role", [*ROLES, "server"])
def test_one_failing_call_of_a_third_of_the_kinds_is_one_error(machine: Machine, role: str) -> None:
    def first_of_some(names: list[str]) -> list[int]:
        kinds = [name for name in dict.fromkeys(names) if name not in _ASKING.split()]
        assert len(kinds) >= 5 or not names
        # Choose by name, not by number, because accounts make different calls. The other file gets another third.
        shares = [zlib.crc32(f"{machine.name} {role} {name}".encode()) % 3 for name in kinds]
        ours = [name for name, share in zip(kinds, shares, strict=True) if share == SHARE] or kinds[:1]
        return [names.index(name) for name in ours]

    _let_fail(machine, role, first_of_some)


@pytest.mark.long
@pytest.mark.parametrize("role", [*ROLES, "server"])
def test_every_failing_call_is_one_error(machine: Machine, role: str) -> None:
    _let_fail(machine, role, lambda names: list(range(len(names))))
