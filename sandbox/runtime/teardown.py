"""Ending the processes of a sandbox, and reaping process 1."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable

from sandbox.kernel import process
from sandbox.runtime.phase import GRACE
from sandbox.runtime.startup import SandboxHandle


def reap_init(
    handle: SandboxHandle, label: str | None, warn: Callable[[str], None]
) -> tuple[int, resource.struct_rusage]:
    """Wait for process 1 and end what it leaves; returns its exit code, negative for a signal, and what it used.

    Args:
        handle: the sandbox.
        label: the name of its root in the mount table where it shares processes, so that no pid namespace ends them; else None.
        warn: receives what cannot be ended now.
    """
    _, status, usage = os.wait4(handle.init_pid, 0)
    handle.init_pid = 0
    if label is not None:
        _end_processes(handle, label, warn)
    return os.waitstatus_to_exitcode(status), usage


def end_init(handle: SandboxHandle, label: str | None, warn: Callable[[str], None]) -> None:
    """Kill and reap process 1, if there is one: with it everything in its pid namespace ends. Arguments as of :func:`reap_init`.

    A process that waits for the server cannot be killed before it has an answer. The end of the server is one.
    """
    if not handle.init_pid:
        return
    process.kill_quietly(handle.init_pid)
    if not process.ends_within(handle.init_pid, GRACE):
        handle.server.kill()
    reap_init(handle, label, warn)


def _end_processes(handle: SandboxHandle, label: str, warn: Callable[[str], None]) -> None:
    """End the processes that shared their pid namespace.

    Process 1 has ended them, unless it was killed. Then its children are this process's, or those of the init of the pid namespace
    that the sandbox joined.
    """
    spare = (handle.server.pid, *handle.network_pids)
    namespace = handle.mount_namespace_fd if handle.mount_namespace_fd >= 0 else None
    try:
        process.end_descendants(spare=spare)
        process.end_rooted(label, namespace=namespace, spare=spare)
    except OSError as error:
        warn(f"{error.strerror}: the next command tries again to end them")
