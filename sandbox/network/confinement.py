"""Takes every right from `sandbox-net` and its children that they do not need. Nothing can be opened or imported afterwards."""

from __future__ import annotations

import errno
import os
import signal

from sandbox.kernel import capabilities, landlock, process, seccomp
from sandbox.kernel.capabilities import CapabilitySets
from sandbox.kernel.landlock import Rules

_NOTHING = CapabilitySets(bounding=frozenset(), permitted=frozenset())


def leave_parent() -> None:
    """Give up what a forked process shares with the supervisor: its signal handlers, its session, its mask of signals.

    SIGINT by ctrl-C is for the program; this process must outlive it.
    """
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.setsid()
    os.chdir("/")


def become(ids: tuple[int, int] | None, *, keep: frozenset[str] = frozenset()) -> None:
    """Change to the user and group *ids*, without other groups, and keep the capabilities *keep*; None changes no id.

    Raises:
        OSError: EPERM: this process may not do so.
    """
    try:
        capabilities.limit_bounding_set(keep)
    except OSError as error:
        if (
            error.errno != errno.EPERM
        ):  # of an ordinary user, who has no capability; no_new_privs keeps it that way
            raise
    if ids is not None:
        if keep:
            capabilities.keep_over_id_change()
        os.setgroups([])
        os.setresgid(ids[1], ids[1], ids[1])
        os.setresuid(ids[0], ids[0], ids[0])
    sets = CapabilitySets(bounding=keep, permitted=keep) if keep else _NOTHING
    capabilities.set_process_sets(sets)


def confine(
    parent: int,
    version: int,
    program: bytes | None,
    *,
    reads_files: bool = False,
    connect: tuple[int, ...] | None = None,
    bind: tuple[int, ...] | None = None,
) -> None:
    """Confine this process for good. Call it after :func:`become`, which clears the signal at the end of the parent.

    Args:
        parent: the process with which this one ends.
        version: of Landlock's ABI, 0 without Landlock.
        program: the seccomp filter, None if this machine has none.
        reads_files: whether it may read files; it may write or execute none.
        connect: TCP ports to which it may connect, None for all.
        bind: TCP ports that it may bind, None for all.

    Raises:
        OSError: a step failed, or the parent has ended.
    """
    process.set_parent_death_signal(signal.SIGKILL, parent=parent)
    process.set_dumpable(False)
    process.set_no_new_privileges()
    _restrict(version, reads_files=reads_files, connect=connect, bind=bind)
    if program is not None:
        seccomp.install(program)


def _restrict(
    version: int, *, reads_files: bool, connect: tuple[int, ...] | None, bind: tuple[int, ...] | None
) -> None:
    needed = landlock.NEEDED
    rules = Rules(
        read=() if version >= needed["read"] and not reads_files else None,
        write=() if version >= needed["write"] else None,
        execute=() if version >= needed["execute"] else None,
        connect=connect if version >= needed["connect"] else None,
        bind=bind if version >= needed["bind"] else None,
        scoped=version >= landlock.SCOPED,
    )
    if not rules.kinds():
        return
    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        landlock.restrict(landlock.make_ruleset(rules, (), root))
    finally:
        os.close(root)
