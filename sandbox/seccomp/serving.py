"""The filter of the file system's server: what serving takes, and nothing else.

It is put on when the server is confined already, with everything open that it was sent, so it starts no program, makes no
process and no connection, and signals and traces nobody.
"""

from __future__ import annotations

from sandbox.seccomp.calls import ALLOWED
from sandbox.seccomp.values import ALLOW, NOT_THERE, REFUSED, Comparison, Filter, Rule

_GROUPS = (
    "files and directories",
    "waiting for events, asynchronous input and output",
    "the program's own memory",
    "processes, threads and signals",
    "reading clocks, sleeping, timers",
    "limits, names and random numbers",
    "what only some processors have",
)

#: Of these groups: other programs and processes, other processes' scheduling, and interfaces that serving has no use for.
_NOT = frozenset(
    """
    clone execve execveat fork vfork unshare kill tkill pidfd_open pidfd_send_signal process_mrelease rt_sigqueueinfo
    rt_tgsigqueueinfo setpgid setpriority setsid ioprio_set sched_setaffinity sched_setattr sched_setparam sched_setscheduler
    wait4 waitid waitpid fanotify_mark inotify_add_watch inotify_init inotify_init1 io_cancel io_destroy io_getevents io_setup
    io_submit memfd_secret mbind set_mempolicy adjtimex clock_adjtime clock_adjtime64 remap_file_pages
    """.split()
)

_CHANNEL = frozenset(
    """
    getpeername getsockname getsockopt recv recvfrom recvmsg send sendmsg sendto setsockopt shutdown socketpair
    """.split()
)
"""trio wakes itself through a pair of sockets; the channel to the launcher is one that is open."""

_ASKING = frozenset("capget getegid geteuid getgid getgroups getresgid getresuid getuid".split())

_CLONE_THREAD = 0x00010000
_AF_UNIX = 1


def serving_filter(machine: str) -> Filter:
    """Return the filter for the server on *machine* (its name as libseccomp has it). Calls of other architectures are
    NOT_THERE, and so is clone3, whose flags no filter sees: C libraries make threads by clone then.
    """
    flags_of_clone = 1 if machine in ("S390", "S390X") else 0
    names = _CHANNEL.union(_ASKING, *(ALLOWED[group] for group in _GROUPS)) - _NOT
    return Filter(
        default=NOT_THERE,
        architectures=(),
        rules=(
            Rule(ALLOW, tuple(sorted(names))),
            Rule(ALLOW, ("clone",), (Comparison(flags_of_clone, "MASKED_EQ", _CLONE_THREAD, _CLONE_THREAD),)),
            Rule(REFUSED, ("execve", "execveat", "kill", "tkill", "ptrace", "socket", "connect")),
        ),
        forbidden=(Rule(REFUSED, ("socketpair",), (Comparison(0, "NE", _AF_UNIX),)),),
    )
