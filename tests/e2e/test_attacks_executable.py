"""An image whose program is a link to the launcher's interpreter, and a program that interferes with process 1."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.e2e.support import HOST_ROOT, PATIENCE, Launcher, first_line, let_in
from tests.support.requirements import has_subordinate_ids

pytestmark = [pytest.mark.fuse, pytest.mark.userns]

PROJECT = Path(__file__).parents[2]


class Interpreter:
    """A copy of this Python's executable that belongs to the user, as in virtual environments and pyenv."""

    def __init__(self, directory: Path) -> None:
        """Copy the executable into *directory*."""
        self.path = directory / "python"
        shutil.copyfile(os.path.realpath(sys.executable), self.path)
        self.path.chmod(0o755)
        self.state = self.look()

    def look(self) -> tuple[int, bytes]:
        """Return the mode and the content of the copy."""
        return self.path.stat().st_mode, self.path.read_bytes()

    def environ(self, launcher: Launcher) -> Mapping[str, str]:
        """Return an environment in which the copy finds the standard library and this checkout."""
        packages = [path for path in sys.path if path.endswith("-packages")]
        return {
            **launcher.environ,
            "PYTHONHOME": sys.base_prefix,
            "PYTHONPATH": os.pathsep.join([str(PROJECT), *packages]),
        }


@pytest.fixture
def interpreter(tmp_path: Path) -> Interpreter:
    (tmp_path / "bin").mkdir()
    return Interpreter(tmp_path / "bin")


def elf_with_loader(loader: str) -> bytes:
    """Return an ELF file for this machine whose program interpreter is *loader*; elf(5)."""
    with open("/proc/self/exe", "rb") as file:
        head = file.read(64)
    if head[4] != 2:
        pytest.skip("the test makes 64-bit ELF files")
    order = "<" if head[5] == 1 else ">"
    (machine,) = struct.unpack_from(f"{order}H", head, 18)
    name = loader.encode() + b"\0"
    at = 64 + 2 * 56
    header = head[:16] + struct.pack(
        f"{order}HHIQQQIHHHHHH", 2, machine, 1, 0x400000, 64, 0, 0, 64, 56, 2, 0, 0, 0
    )
    interpreter = struct.pack(f"{order}IIQQQQQQ", 3, 4, at, 0x400000 + at, 0, len(name), len(name), 1)
    segment = struct.pack(f"{order}IIQQQQQQ", 1, 5, 0, 0x400000, 0, at + len(name), at + len(name), 4096)
    return header + interpreter + segment + name


@pytest.mark.parametrize("kind", ["link", "link to the thread", "script", "loader", "link of PATH"])
@pytest.mark.parametrize("pid", ["private", "host"])
def test_program_is_never_executed_by_way_of_a_file_of_the_host(
    launcher: Launcher, tmp_path: Path, interpreter: Interpreter, kind: str, pid: str
) -> None:
    """An attack like CVE-2019-5736: the host's interpreter would run in the sandbox, which could change its file."""
    layer = tmp_path / "layer"
    (layer / "opt").mkdir(parents=True)
    app = layer / "opt/app"
    if kind == "script":
        app.write_text("#!/proc/self/exe\nprint('reached')\n")
    elif kind == "loader":
        app.write_bytes(elf_with_loader("/proc/self/exe"))
    else:
        app.symlink_to("/proc/thread-self/exe" if "thread" in kind else "/proc/self/exe")
    if not app.is_symlink():
        app.chmod(0o755)
    let_in(layer)
    spec = (
        f'[root]\nlayers = ["dir:/", "dir:{layer}"]\n[namespaces]\npid = "{pid}"\n'
        '[process]\nenv = { PATH = "/nowhere:/opt", PYTHONHOME = "/usr" }\n'
    )
    code = (
        "import os\nprint('reached')\nprint(os.readlink('/proc/self/exe'))\n"
        "try: os.chmod('/proc/self/exe', 0o6755)\nexcept OSError: pass\n"
    )
    command = ["app" if "PATH" in kind else "/opt/app", "-c", code]
    done = subprocess.run(
        [str(interpreter.path), *launcher.arguments(spec, command)[1:]],
        env=interpreter.environ(launcher),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert "reached" not in done.stdout + done.stderr
    assert done.stdout == ""
    assert done.returncode != 0
    assert interpreter.look() == interpreter.state
    assert launcher.runs() == []


def test_program_that_is_executed_has_its_own_file_as_executable(
    launcher: Launcher, interpreter: Interpreter
) -> None:
    """The copied interpreter runs the launcher; otherwise the test above would prove nothing."""
    done = subprocess.run(
        [str(interpreter.path), *launcher.arguments(HOST_ROOT, ["/usr/bin/readlink", "/proc/self/exe"])[1:]],
        env=interpreter.environ(launcher),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "/usr/bin/readlink\n", "")


_EXECUTABLES = """
import os
def read(path):
    try: return open(path, "rb").read(1) and "read"
    except OSError as error: return error.strerror
for pid in sorted(int(name) for name in os.listdir("/proc") if name.isdigit()):
    if pid != os.getpid():
        try: print(pid, os.readlink(f"/proc/{pid}/exe"))
        except OSError as error: print(pid, error.strerror)
        print(pid, read(f"/proc/{pid}/exe"))
"""


def test_executable_of_process_one_is_closed_to_a_program_with_every_capability(launcher: Launcher) -> None:
    """Process 1 is the launcher's interpreter, so neither its link nor its content may be accessible."""
    spec = HOST_ROOT + '[security]\ncapabilities.add = ["all"]\n'
    done = launcher.up(spec, ["/usr/bin/python3", "-c", _EXECUTABLES])
    assert done.out == "1 Permission denied\n1 Permission denied\n", done.err


_LIMIT = """
import errno, resource, sys, time
def limit(number):
    try: resource.prlimit(1, number, (0, 0))
    except OSError as error: return errno.errorcode[error.errno]
    return "done"
names = "RLIMIT_NOFILE", "RLIMIT_AS", "RLIMIT_DATA", "RLIMIT_CPU", "RLIMIT_NPROC", "RLIMIT_FSIZE", "RLIMIT_STACK"
print(*[limit(getattr(resource, name)) for name in names], flush=True)
time.sleep(0.2)
raise SystemExit(7)
"""


@pytest.mark.skipif(os.geteuid() != 0 and not has_subordinate_ids(), reason="this account has a single id")
@pytest.mark.parametrize("user", ["0", "33"])
def test_program_cannot_set_the_limits_of_process_one(launcher: Launcher, user: str) -> None:
    spec = HOST_ROOT + f'[process]\nuser = {user}\n[security]\nseccomp = "unconfined"\n'
    done = launcher.up(spec, ["/usr/bin/python3", "-c", _LIMIT])
    assert (done.out.split(), done.status, done.err) == (["EPERM"] * 7, 7, "")


def test_limits_that_a_program_sets_on_process_one_are_reported_and_no_failure_of_the_launcher(
    launcher: Launcher,
) -> None:
    spec = HOST_ROOT + '[ids]\nmap = "single"\n'
    if os.geteuid() == 0:
        pytest.skip("root has no single id")
    done = launcher.up(spec, ["/usr/bin/python3", "-c", _LIMIT])
    assert done.out.split() == ["done"] * 7
    assert done.status == 7 or "can change its limits: prlimit(2)" in done.err, (done.status, done.err)
    assert launcher.runs() == []


_WATCH = """
import json, os, time
seen, opened = set(), set()
print("watching", flush=True)
deadline = time.monotonic() + 20
while time.monotonic() < deadline and "/usr/bin/sleep" not in opened:
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) not in (1, os.getpid()):
            seen.add(name)
            try: opened.add(os.readlink(f"/proc/{name}/exe"))
            except OSError: pass
print(json.dumps([len(seen), *sorted(opened)]), flush=True)
time.sleep(60)
"""


def test_sandbox_that_is_joined_reaches_no_executable_of_the_launcher(launcher: Launcher) -> None:
    """The program of the joining sandbox sees the other's processes from its start, with every capability over them."""
    watcher = (
        '[sandbox]\nname = "anchor"\n[root]\nlayers = ["dir:/"]\n[security]\ncapabilities.add = ["all"]\n'
    )
    joining = HOST_ROOT + '[namespaces]\nuser = "sandbox:anchor"\npid = "sandbox:anchor"\n'
    with launcher.start(watcher, ["/usr/bin/python3", "-c", _WATCH]) as supervisor:
        assert first_line(supervisor) == "watching"
        done = launcher.up(launcher.write(joining, "joining.toml"), ["sleep", "1"])
        assert done.status == 0, done.err
        seen, *opened = json.loads(first_line(supervisor))
        supervisor.terminate()
        supervisor.wait(PATIENCE)
    assert seen >= 2  # process 1 of the joined sandbox, and its program
    assert set(opened) - {"/memfd:sandbox-exec (deleted)"} == {"/usr/bin/sleep"}


@pytest.mark.parametrize("seccomp", ["default", "unconfined"])
def test_program_is_executed_where_proc_is_masked(launcher: Launcher, seccomp: str) -> None:
    """The trampoline is executed through /proc, or by its descriptor."""
    spec = HOST_ROOT + f'[security]\nmasked_paths = ["/proc"]\nseccomp = "{seccomp}"\n'
    done = launcher.up(spec, ["sh", "-c", "echo ran; ls /proc"])
    assert (done.status, done.out, done.err) == (0, "ran\n", "")


def test_empty_command_is_not_found(launcher: Launcher) -> None:
    done = launcher.up(HOST_ROOT, ["", "argument"])
    assert done.status == 127
    assert "command not found in the sandbox" in done.err


def test_too_many_arguments_are_a_failure_of_the_program(launcher: Launcher) -> None:
    many = " ".join(f'"{number:0100}",' for number in range(10_000))
    spec = HOST_ROOT + f'[process]\ncommand = ["/bin/true"]\nargs = [{many}]\n[limits]\nstack = "256K"\n'
    done = launcher.up(spec)
    assert done.status == 126, done.err
    assert "argument list too long" in done.err
