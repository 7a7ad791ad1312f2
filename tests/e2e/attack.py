"""What a hostile program tries from inside. Runs under the host's python3 as the text of this file; prints one JSON object:
for each attempt "done" if it succeeded, else the name of its errno.
"""

import ctypes
import errno
import fcntl
import glob
import json
import os
import signal
import socket
import struct
import sys
import termios

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
PTRACE_SEIZE, PTRACE_ATTACH = 0x4206, 16
SYS_PIDFD_OPEN, SYS_PIDFD_GETFD = 434, 438
KEYCTL_SEARCH, SESSION, USER, USER_SESSION = 10, -3, -4, -5


# ruff: noqa: ANN201 - it is written for whatever Python the sandbox has


def check(result):
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def ptrace(request):
    check(libc.ptrace(ctypes.c_long(request), ctypes.c_long(1), None, None))


def read_memory():
    buffer = ctypes.create_string_buffer(8)
    vector = (ctypes.c_size_t * 2)(ctypes.addressof(buffer), 8)
    remote = (ctypes.c_size_t * 2)(ctypes.addressof(buffer), 8)
    check(libc.process_vm_readv(1, vector, 1, remote, 1, 0))


def steal_descriptor():
    pidfd = check(libc.syscall(SYS_PIDFD_OPEN, 1, 0))
    check(libc.syscall(SYS_PIDFD_GETFD, ctypes.c_int(pidfd), ctypes.c_int(0), 0))


def find_key(keyring):
    number = {"x86_64": 250}.get(os.uname().machine, 219)
    check(libc.syscall(number, KEYCTL_SEARCH, keyring, b"user", b"sandbox-test-secret", 0))


def open_file(path, flags=os.O_RDONLY):
    os.close(os.open(path, flags))


def read(path):
    with open(path, "rb") as file:
        if not file.read(1):
            raise OSError(errno.ENODATA, path)


def open_fuse_by_number():
    os.mknod("/fuse-device", 0o600 | 0o020000, os.makedev(10, 229))
    open_file("/fuse-device", os.O_RDWR)


def abort_fuse():
    for path in glob.glob("/sys/fs/fuse/connections/*/abort"):
        with open(path, "w") as file:
            file.write("1")
            return
    check(libc.mount(b"fusectl", b"/sys/fs/fuse/connections", b"fusectl", 0, None))


def write(path, text):
    with open(path, "w") as file:
        file.write(text)


def raise_priority():
    os.setpriority(os.PRIO_PROCESS, 0, -20)


def join(path):
    check(libc.setns(os.open(path, os.O_RDONLY), 0))


def load_filter_of_packets():
    socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close()


ATTEMPTS = {
    "ptrace attach 1": lambda: ptrace(PTRACE_ATTACH),
    "ptrace seize 1": lambda: ptrace(PTRACE_SEIZE),
    "process_vm_readv 1": read_memory,
    "pidfd_getfd 1": steal_descriptor,
    "/proc/1/mem": lambda: open_file("/proc/1/mem", os.O_RDWR),
    "/proc/1/fd": lambda: os.listdir("/proc/1/fd"),
    "/proc/1/root": lambda: os.listdir("/proc/1/root"),
    "/proc/1/cwd": lambda: os.listdir("/proc/1/cwd"),
    "/proc/1/exe": lambda: open_file("/proc/1/exe"),
    "/proc/1/environ": lambda: open_file("/proc/1/environ"),
    "/proc/1/maps": lambda: read("/proc/1/maps"),
    "/proc/1/oom_score_adj": lambda: write("/proc/1/oom_score_adj", "1000"),
    "join 1's mount namespace": lambda: join("/proc/1/ns/mnt"),
    "/dev/fuse": lambda: open_file("/dev/fuse", os.O_RDWR),
    "device of fuse": open_fuse_by_number,
    "abort fuse": abort_fuse,
    "mount": lambda: check(libc.mount(b"none", b"/mnt", b"tmpfs", 0, None)),
    "umount /proc": lambda: check(libc.umount2(b"/proc", 2)),
    "unshare user": lambda: check(libc.unshare(0x10000000)),
    "kernel key in session": lambda: find_key(SESSION),
    "kernel key of user": lambda: find_key(USER),
    "kernel key of user session": lambda: find_key(USER_SESSION),
    "sysctl": lambda: write("/proc/sys/kernel/core_pattern", "|/x"),
    "sysrq": lambda: write("/proc/sysrq-trigger", "h"),
    "kcore": lambda: read("/proc/kcore"),
    "host name": lambda: socket.sethostname("attacked"),
    "clock": lambda: libc.settimeofday and check(libc.settimeofday((ctypes.c_long * 2)(1, 0), None)),
    "module": lambda: check(libc.syscall({"x86_64": 175}.get(os.uname().machine, 105), b"", 0, b"")),
    "raw packets": load_filter_of_packets,
    "priority": raise_priority,
    "type into standard input": lambda: fcntl.ioctl(0, termios.TIOCSTI, b"x"),
    "take over standard input's terminal": lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 1),
    "group of standard input's terminal": lambda: fcntl.ioctl(
        0, termios.TIOCSPGRP, struct.pack("i", os.getpid())
    ),
}

found = {}
for name, attempt in ATTEMPTS.items():
    try:
        attempt()
        found[name] = "done"
    except OSError as error:
        found[name] = errno.errorcode.get(error.errno, str(error))
sys.stdout.write(json.dumps(found) + "\n")
sys.stdout.flush()
if "kill" in sys.argv:
    for target in (1, -1):
        try:
            os.kill(target, signal.SIGKILL)
        except ProcessLookupError:  # -1 spares the caller and process 1
            pass
