"""Start slirp4netns(1), which connects a network namespace where pasta(1) is not installed. It has no IPv6."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack

from sandbox.network.connecting_program import NETWORK_FD, OTHER_FD, ConnectingProgram, Entered


def command_line(interface: str) -> list[str]:
    """Return the arguments with which slirp4netns connects the network namespace `NETWORK_FD`.

    slirp4netns has to be root of the user namespace that owns it. It makes *interface*, and writes to `OTHER_FD` once it is ready.
    """
    return [
        *("slirp4netns", "--configure", "--mtu=65520", f"--ready-fd={OTHER_FD}"),
        # The gate forwards names. slirp4netns would send queries to a name server at the loopback address of the host, too.
        *("--disable-host-loopback", "--disable-dns", "--enable-sandbox", "--enable-seccomp"),
        *("--netns-type=path", f"/proc/self/fd/{NETWORK_FD}", interface),
    ]


def start(path: str, pid: int, interface: str, trace: Callable[[str], None]) -> ConnectingProgram:
    """Start slirp4netns at *path*, which connects the network namespace of the process *pid* by *interface*.

    It becomes root of the user namespace of *pid*, where every sandbox has an id 0, before it is executed. By itself it would do so
    later for --enable-sandbox. Then it would lose the signal at the end of its parent, and outlast a supervisor that is killed.

    Args:
        path: of the program.
        pid: of a process in the namespaces.
        interface: the name of the interface to make.
        trace: receives the command line.

    Raises:
        OSError: the namespaces cannot be opened.
        SetupError: it cannot connect the network namespace.
    """
    arguments = command_line(interface)
    trace(" ".join(arguments))
    with ExitStack() as stack:
        fds = []
        for kind in ("user", "net"):
            fds.append(os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC))
            stack.callback(os.close, fds[-1])
        return ConnectingProgram(path, arguments, ready_fd=OTHER_FD, entered=Entered(*fds))
