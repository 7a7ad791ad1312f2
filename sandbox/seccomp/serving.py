"""The seccomp filter of the file system server: it allows only the system calls that serving needs.

The server installs it after its confinement, when everything it needs is open. So the filter forbids programs, processes,
connections, signals and tracing.
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

#: Calls of these groups for other programs and processes, the scheduling of other processes, and unused interfaces.
_EXCLUDED = frozenset(
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
"""trio wakes itself up through a socket pair; the socket to the launcher is already open."""

_ID_QUERIES = frozenset("capget getegid geteuid getgid getgroups getresgid getresuid getuid".split())

_CLONE_THREAD = 0x00010000
_AF_UNIX = 1


def serving_filter(machine: str) -> Filter:
    """Return the filter for the server on *machine*, a name of libseccomp.

    Calls of other architectures are NOT_THERE. So is clone3, whose flags a filter cannot read: C libraries then make threads with
    clone.
    """
    flags_of_clone = 1 if machine in ("S390", "S390X") else 0
    names = _CHANNEL.union(_ID_QUERIES, *(ALLOWED[group] for group in _GROUPS)) - _EXCLUDED
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
