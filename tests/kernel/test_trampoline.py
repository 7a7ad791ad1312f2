"""The trampoline that executes the program of a sandbox, on this machine and on emulated ones."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from sandbox.kernel import trampoline
from sandbox.seccomp.values import MACHINES

PROJECT = Path(__file__).parents[2]
DIRECTORY = Path(trampoline.__file__).parent
EMULATORS = {
    "x86_64": "qemu-x86_64",
    "i686": "qemu-i386",
    "aarch64": "qemu-aarch64",
    "armv7l": "qemu-arm",
    "riscv64": "qemu-riscv64",
    "ppc64le": "qemu-ppc64le",
    "s390x": "qemu-s390x",
    "loongarch64": "qemu-loongarch64",
}
SCRIPT = 'printf "%s," "$0" "$@" "$VARIABLE"; readlink /proc/$$/fd/* | grep -c memfd; exit 5'


@pytest.fixture
def fd() -> Iterator[int]:
    fd = trampoline.create(os.uname().machine)
    yield fd
    os.close(fd)


def run(fd: int, paths: Sequence[str], argv: Sequence[str]) -> tuple[bytes, str, int]:
    """Return the report of the trampoline, the output of the program, and the exit status."""
    report, writer = os.pipe()
    reader, out = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(out, 1)
        try:
            trampoline.execute(fd, writer, paths, argv, {"VARIABLE": "value", "PATH": "/usr/bin:/bin"})
        finally:
            os._exit(99)
    os.close(writer)
    os.close(out)
    with open(report, "rb") as reported, open(reader) as printed:
        result = reported.read(), printed.read()
    return *result, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_program_gets_its_arguments_and_environment_and_no_descriptor(fd: int) -> None:
    argv = ["name", "-c", SCRIPT, "zero", "", "two words"]
    assert run(fd, ["/bin/sh"], argv) == (b"", "zero,,two words,value,0\n", 5)


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["/nonexistent/sh", "/etc/passwd/sh", "/bin/sh"], 0),
        (["/nonexistent/sh", "/etc/passwd/sh"], errno.ENOENT),
        (["/etc/passwd/sh"], errno.ENOENT),
        (["/etc/passwd", "/nonexistent"], errno.EACCES),
        (["/nonexistent", "/etc/passwd", "/proc/self/mem/x"], errno.EACCES),
        (["/etc/passwd", "/bin/sh"], 0),
        (["/etc"], errno.EACCES),
    ],
)
def test_first_executable_path_is_executed_or_else_the_most_useful_errno_is_reported(
    fd: int, paths: list[str], expected: int
) -> None:
    report, _, status = run(fd, paths, ["sh", "-c", "exit 3"])
    assert (list(report), status) == ([expected] if expected else [], 127 if expected else 3)


def test_trampoline_cannot_be_changed(fd: int) -> None:
    path = f"/proc/self/fd/{fd}"
    with pytest.raises(PermissionError):
        os.close(os.open(path, os.O_WRONLY))
        os.truncate(path, 0)  # root may open a file that no mode bit makes writable
    for size in (0, 1 << 20):
        with pytest.raises(PermissionError):
            os.truncate(path, size)
    assert fcntl.fcntl(fd, fcntl.F_GET_SEALS) & 0xF == 0xF
    with pytest.raises(PermissionError):
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, 0)
    if fcntl.fcntl(fd, fcntl.F_GET_SEALS) & 0x20:  # Linux 6.3
        with pytest.raises(PermissionError):
            os.chmod(path, 0o644)


def test_trampoline_that_an_image_executes_again_ends(fd: int) -> None:
    """The trampoline is the program here."""
    assert run(fd, [f"/proc/self/fd/{fd}", "/proc/self/exe"], ["x", "-c", "y"]) == (b"", "", 127)


def test_each_machine_with_a_seccomp_filter_has_a_trampoline() -> None:
    built = {path.name for path in DIRECTORY.iterdir() if path.is_file() and not path.suffix}
    assert built == set(MACHINES) == set(EMULATORS)
    with pytest.raises(FileNotFoundError):
        trampoline.create("pdp11")


@pytest.mark.long
@pytest.mark.qemu_user
@pytest.mark.parametrize("machine", EMULATORS)
def test_each_machine_executes_its_trampoline(machine: str, tmp_path: Path) -> None:
    program = tmp_path / machine
    shutil.copyfile(DIRECTORY / machine, program)
    program.chmod(0o755)

    def emulate(*paths: str) -> tuple[bytes, str, int]:
        reader, writer = os.pipe()
        done = subprocess.run(
            [
                EMULATORS[machine],
                "-0",
                str(writer),
                program,
                *paths,
                "",
                "sh",
                "-c",
                "echo $0 $1; exit 5",
                "a",
                "b",
            ],
            pass_fds=[writer],
            capture_output=True,
            text=True,
            check=False,
        )
        os.close(writer)
        with open(reader, "rb") as file:
            return file.read(), done.stdout, done.returncode

    assert emulate("/nonexistent", "/bin/sh") == (b"", "a b\n", 5)
    assert emulate("/nonexistent", "/etc/passwd/x", "/etc/passwd", "/etc/x") == (
        bytes([errno.EACCES]),
        "",
        127,
    )
    assert emulate("/nonexistent") == (bytes([errno.ENOENT]), "", 127)


@pytest.mark.long
@pytest.mark.clang
def test_files_equal_the_compiled_source(tmp_path: Path) -> None:
    subprocess.run([PROJECT / "scripts/build-trampolines", tmp_path], check=True, timeout=120)
    for machine in EMULATORS:
        assert (tmp_path / machine).read_bytes() == (DIRECTORY / machine).read_bytes(), machine
