"""What a program can do to others through files that it shares with the host: leases, and its standard descriptors."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.e2e.support import HOST_ROOT, Launcher, first_line

pytestmark = [pytest.mark.fuse, pytest.mark.userns]

#: Prints the outcome of each way to take a lease of the file in its first argument, and keeps it.
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
    """Make *path* a file of the user that is root in the sandbox: a lease is its owner's only."""
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
        # A lease would have this wait, or with O_NONBLOCK fail: fcntl(2).
        os.close(os.open(shared / "file", os.O_WRONLY | os.O_NONBLOCK))
        assert said == (
            "F_RDLCK: EACCES, F_WRLCK: EACCES, high bits: EACCES, fcntl of 32 bits: EACCES,"
            " fcntl64 of 32 bits: EACCES, delegation: EINVAL, unknown command: EINVAL"
        )
