"""Create the file in memory through which the program is executed."""

from __future__ import annotations

import errno

from sandbox.errors import HostError, SetupError
from sandbox.kernel import trampoline


def create_trampoline(machine: str) -> int:
    """Return a descriptor of the memfd through which the program is executed.

    Raises:
        SandboxError: there is no trampoline for *machine*, or this machine forbids executing a memfd.
    """
    try:
        return trampoline.create(machine)
    except FileNotFoundError:
        raise HostError(
            f"no program can be started on the architecture {machine}: there is no trampoline for it",
            hint="add it to sandbox/kernel/trampoline/trampoline.c and run scripts/build-trampolines",
        ) from None
    except OSError as error:
        failure = SetupError.from_os_error("trampoline", "memfd_create", error)
        if error.errno == errno.EACCES:
            failure.hint = "this machine forbids executing a memfd: as root: sysctl vm.memfd_noexec=1"
        raise failure from None
