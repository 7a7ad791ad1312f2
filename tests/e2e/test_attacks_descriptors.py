"""Attacks through files that a program shares with the host: leases, and its standard descriptors."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.e2e.support import HOST_ROOT, PATIENCE, Launcher, first_line

pytestmark = [pytest.mark.fuse, pytest.mark.userns]

#: Tries each way to take a lease on the file in its first argument, prints the outcomes, and keeps the lease.
LEASES = """
import ctypes, errno, fcntl, mmap, os, platform, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
fd = os.open(sys.argv[1], os.O_RDONLY)
directory = os.open(os.path.dirname(sys.argv[1]), os.O_RDONLY)
native = {"x86_64": 72}.get(platform.machine(), 25)

def int80(number, *arguments):
    if platform.machine() != "x86_64":
        return -errno.EACCES
    memory = mmap.mmap(-1, 4096, prot=7)
    memory.write(b"\\x53\\x89\\xf8\\x89\\xf3\\x89\\xd1\\x31\\xd2\\xcd\\x80\\x5b\\xc3")  # the third argument is 0, F_RDLCK
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    call = ctypes.CFUNCTYPE(ctypes.c_long, *[ctypes.c_ulong] * 3)(address)
    return ctypes.c_int(call(number, *arguments)).value

def system_call(command, argument):
    return -ctypes.get_errno() if libc.syscall(native, fd, ctypes.c_ulong(command), argument) < 0 else 0

delegation = ctypes.byref((ctypes.c_uint32 * 2)(0, fcntl.F_RDLCK))
outcomes = {
    "F_RDLCK": system_call(1024, fcntl.F_RDLCK),
    "F_WRLCK": system_call(1024, fcntl.F_WRLCK),
    "high bits": system_call(1024 | 5 << 32, fcntl.F_RDLCK),
    "fcntl of 32 bits": int80(55, fd, 1024),
    "fcntl64 of 32 bits": int80(221, fd, 1024),
    "delegation": system_call(1040, delegation),
    "unknown command": system_call(1100, 0),
}
print(*(f"{name}: {errno.errorcode.get(-number, number)}" for name, number in outcomes.items()), sep=", ", flush=True)
import time; time.sleep(60)
"""


def give_to_the_program(path: Path) -> None:
    """Give *path* to the user that is root in the sandbox: only the owner of a file can take a lease."""
    if os.geteuid() == 0:
        os.chown(path, 1878982656, 1878982656)


def test_program_cannot_hold_up_the_host_by_a_lease_of_a_file_of_a_read_only_volume(
    launcher: Launcher, shared: Path
) -> None:
    give_to_the_program(shared / "file")
    spec = f'{HOST_ROOT}[[volumes]]\ntype = "bind"\nsource = "{shared}"\ntarget = "/v"\nread_only = true\n'
    command = ["/usr/bin/python3", "-c", LEASES, "/v/file"]
    with launcher.start(spec, command) as supervisor:
        said = first_line(supervisor)
        # With a lease, this would block, or fail with O_NONBLOCK: fcntl(2).
        os.close(os.open(shared / "file", os.O_WRONLY | os.O_NONBLOCK))
        assert said == (
            "F_RDLCK: EACCES, F_WRLCK: EACCES, high bits: EACCES, fcntl of 32 bits: EACCES,"
            " fcntl64 of 32 bits: EACCES, delegation: EINVAL, unknown command: EINVAL"
        )


#: Tries on each standard descriptor what its redirection does not intend; writes the outcomes to the file in its argument.
REDIRECTED = """
import errno, fcntl, json, os, sys
outcomes = {}
def attempt(name, function, *arguments):
    try:
        value = function(*arguments)
        outcomes[name] = value.decode() if isinstance(value, bytes) else "done"
    except OSError as error:
        outcomes[name] = errno.errorcode[error.errno]
def reopen(fd, flags, function):
    new = os.open(f"/proc/self/fd/{fd}", flags | os.O_NONBLOCK)
    try:
        return function(new)
    finally:
        os.close(new)
def overwrite(fd):
    fcntl.fcntl(fd, fcntl.F_SETFL, 0)
    os.pwrite(fd, b"over", 0)
for fd in (0, 1, 2):
    attempt(f"{fd} read anew", reopen, fd, os.O_RDONLY, lambda new: os.read(new, 5))
    attempt(f"{fd} written anew", reopen, fd, os.O_WRONLY, lambda new: os.pwrite(new, b"anew", 0))
for fd in (1, 2):
    attempt(f"{fd} overwritten", overwrite, fd)
    attempt(f"{fd} truncated", os.ftruncate, fd, 0)
attempt("0 truncated", reopen, 0, os.O_WRONLY | os.O_TRUNC, lambda new: None)
with open(sys.argv[1], "w") as file:
    json.dump({"name": os.readlink("/proc/self/fd/2"), **outcomes}, file)
"""
#: Attempts that need only the descriptor itself.
BY_DESCRIPTOR = dict.fromkeys(("1 overwritten", "1 truncated", "2 overwritten", "2 truncated"), "done")
READ_ANEW = {f"{fd} read anew": "first" for fd in (0, 1, 2)}
WRITTEN_ANEW = dict.fromkeys(("0 written anew", "1 written anew", "2 written anew", "0 truncated"), "done")


def redirected(launcher: Launcher, shared: Path, form: str, mode: int) -> tuple[dict[str, str], list[str]]:
    """Run the attempts under the redirections of the shell command *form*; return the outcomes and the files' contents."""
    files = [shared / name for name in ("input", "output", "log")]
    for file in files:
        file.write_text("first\n")
        file.chmod(mode)
    spec = f'{HOST_ROOT}[[volumes]]\ntype = "bind"\nsource = "{shared}"\ntarget = "/v"\n'
    command = launcher.arguments(spec, ["/usr/bin/python3", "-c", REDIRECTED, "/v/outcomes"])
    environ = {**launcher.environ, **dict(zip(("INPUT", "OUTPUT", "LOG"), map(str, files), strict=True))}
    subprocess.run(["sh", "-c", form, "sh", *command], check=True, timeout=PATIENCE, env=environ)
    found: dict[str, str] = json.loads((shared / "outcomes").read_text())
    return found, [file.read_text() for file in files]


@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_files_that_standard_descriptors_lead_to_are_given_to_the_program_as_their_mode_says(
    launcher: Launcher, shared: Path, mode: int
) -> None:
    """SECURITY.md states this under "What is not". Change it when this no longer holds."""
    form = '"$@" < "$INPUT" >> "$OUTPUT" 2>> "$LOG"'
    found, contents = redirected(launcher, shared, form, mode)
    assert found.pop("name").endswith("/log")
    refused = dict.fromkeys((*READ_ANEW, *WRITTEN_ANEW), "EACCES")
    if os.geteuid() != 0:  # the root of the sandbox is the owner
        assert found == {**BY_DESCRIPTOR, **READ_ANEW, **WRITTEN_ANEW}
        assert contents == ["", "", ""]
    else:  # the program's ids own no file
        assert found == {**BY_DESCRIPTOR, **refused, **(READ_ANEW if mode & 0o004 else {})}
        assert contents == ["first\n", "", ""]


def test_files_behind_pipes_are_out_of_reach(launcher: Launcher, shared: Path) -> None:
    """Pipes are the remedy that SECURITY.md names."""
    form = 'cat "$INPUT" | { "$@" 2>&3 | tee -a "$OUTPUT"; } 3>&1 | tee -a "$LOG"'
    found, contents = redirected(launcher, shared, form, 0o644)
    assert found.pop("name").startswith("pipe:")
    assert contents[0] == "first\n"
    assert all(content.startswith("first\n") for content in contents)
