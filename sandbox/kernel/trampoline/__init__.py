"""Execute the program of a sandbox through the trampoline, a static program with 200 bytes of code (trampoline.c).

A process whose executable is a file of the host must not call execve(2) on a path of an image. /proc/self/exe would lead
to that file, past every mount of the sandbox (the class of CVE-2019-5736). The trampoline is executed from a sealed
memfd in between, so /proc/self/exe leads to the memfd.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Mapping, Sequence

from unionfs._stdlib.typing import NoReturn

_DIRECTORY = os.path.dirname(os.path.abspath(__file__))
_MFD_EXEC = 0x10  # Linux 6.3; memfd_create(2)
_F_SEAL_EXEC = 0x20  # Linux 6.3; fcntl(2)
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


def create(machine: str) -> int:
    """Return a read-only, close-on-exec descriptor of a sealed memfd with the trampoline for *machine*.

    Args:
        machine: as ``uname -m`` prints it.

    Raises:
        OSError: ENOENT if there is none for *machine*; EACCES if memfds may not be executed
            (/proc/sys/vm/memfd_noexec is 2); EMFILE, ENFILE, ENOMEM.
    """
    with open(os.path.join(_DIRECTORY, machine), "rb") as file:
        program = file.read()
    writable = _create_memfd()
    try:
        os.write(writable, program)
        os.fchmod(writable, 0o555)
        try:
            fcntl.fcntl(writable, fcntl.F_ADD_SEALS, _SEALS | _F_SEAL_EXEC)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            fcntl.fcntl(writable, fcntl.F_ADD_SEALS, _SEALS)
        # execve(2) refuses a file that is open for writing (ETXTBSY).
        return os.open(f"/proc/self/fd/{writable}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(writable)


def _create_memfd() -> int:
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        return os.memfd_create("sandbox-exec", flags | _MFD_EXEC)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    return os.memfd_create("sandbox-exec", flags)  # a kernel before 6.3: every memfd can be executed


def execute(
    trampoline_fd: int, report_fd: int, paths: Sequence[str], argv: Sequence[str], env: Mapping[str, str]
) -> NoReturn:
    """Execute the first of *paths* that is executable, as a shell searches PATH.

    Args:
        trampoline_fd: from :func:`create`.
        report_fd: the writing end of a pipe. Success closes it. If no path could be executed, the trampoline writes
            one byte to it: the errno of the first path that failed with an error other than ENOENT and ENOTDIR, else
            ENOENT.
        paths: none of them is empty; without paths the result is ENOENT.
        argv: the arguments of the program.
        env: its environment.

    Raises:
        OSError: the trampoline itself could not be executed: E2BIG if *argv* and *env* are too large.
    """
    os.set_inheritable(report_fd, True)  # the trampoline closes it at the next execve(2)
    arguments = [str(report_fd), *paths, "", *argv]
    try:
        # By path, because a filter may allow execve(2) but not execveat(2).
        os.execve(f"/proc/self/fd/{trampoline_fd}", arguments, env)
    except FileNotFoundError:
        os.execve(trampoline_fd, arguments, env)  # /proc is masked: execveat(2)
