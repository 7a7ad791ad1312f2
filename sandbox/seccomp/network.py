"""The seccomp filters of the network process `sandbox-net`: it uses sockets and pipes that are there, and makes IP sockets.

It opens no file, executes no program and starts no process. The process that resolves names has a filter of its own, because
getaddrinfo(3) reads files and connects to services of the host, and each name has a thread.
"""

from __future__ import annotations

from sandbox.seccomp.calls import ALLOWED
from sandbox.seccomp.values import ALLOW, NOT_THERE, REFUSED, Comparison, Filter, Rule

_DESCRIPTORS = frozenset(
    """
    close close_range dup fcntl fcntl64 fstat fstat64 ioctl lseek pipe2 read readv splice write writev
    """.split()
)
_WAITING = frozenset(
    """
    epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 epoll_wait poll ppoll ppoll_time64 restart_syscall
    """.split()
)
_MEMORY = frozenset("brk madvise mmap mmap2 mprotect mremap munmap".split())
_PROCESS = frozenset(
    """
    exit exit_group futex futex_time64 getpid gettid rt_sigaction rt_sigprocmask rt_sigreturn sigaltstack sigreturn tgkill
    wait4 waitpid
    """.split()
)
_SOCKETS = frozenset(
    """
    accept accept4 bind connect getpeername getsockname getsockopt listen recv recvfrom recvmsg send sendmsg sendto setsockopt
    shutdown
    """.split()
)
_CLOCKS = frozenset(
    "clock_gettime clock_gettime64 clock_nanosleep clock_nanosleep_time64 gettimeofday nanosleep time".split()
)
_OF_THREADS = frozenset(
    """
    get_robust_list rseq sched_getaffinity sched_yield set_robust_list set_tid_address getcpu sched_getparam sched_getscheduler
    sched_get_priority_max sched_get_priority_min prlimit64 getrlimit ugetrlimit
    """.split()
)
_OF_RESOLVING = frozenset(
    """
    access faccessat faccessat2 getcwd getdents getdents64 newfstatat fstatat64 open openat pread64 readlink readlinkat stat
    stat64 statfs statfs64 statx fstatfs fstatfs64 lstat lstat64 recvmmsg recvmmsg_time64 sendmmsg geteuid geteuid32 getuid getuid32
    getegid getegid32 getgid getgid32 uname sysinfo getppid _llseek membarrier
    """.split()
)
_REFUSED = Rule(REFUSED, ("execve", "execveat", "kill", "tkill", "ptrace", "open", "openat", "openat2"))
_CLONE_THREAD = 0x00010000
_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK = 1, 2, 10, 16
_SOCK_STREAM, _SOCK_DGRAM = 1, 2
_SOCK_TYPE_MASK = 0xF


def _socket_rules(families: tuple[int, ...], types: tuple[int, ...]) -> tuple[Rule, ...]:
    return tuple(
        Rule(
            ALLOW,
            ("socket",),
            (Comparison(0, "EQ", family), Comparison(1, "MASKED_EQ", _SOCK_TYPE_MASK, kind)),
        )
        for family in families
        for kind in types
    )


def network_filter() -> Filter:
    """Return the filter for `sandbox-net` itself, and for its process that makes sockets inside the gate."""
    names = _DESCRIPTORS | _WAITING | _MEMORY | _PROCESS | _SOCKETS | _CLOCKS
    names |= frozenset({"getrandom"}) | ALLOWED["what only some processors have"]
    return Filter(
        default=NOT_THERE,
        architectures=(),
        rules=(
            Rule(ALLOW, tuple(sorted(names))),
            *_socket_rules((_AF_INET, _AF_INET6), (_SOCK_STREAM, _SOCK_DGRAM)),
            _REFUSED,
        ),
    )


def resolver_filter(machine: str) -> Filter:
    """Return the filter for the process that resolves names on *machine*, a name of libseccomp.

    It may read files and make threads, and may connect to services of the host such as nscd and systemd-resolved.
    """
    names = _DESCRIPTORS | _WAITING | _MEMORY | _PROCESS | _SOCKETS | _CLOCKS | _OF_THREADS | _OF_RESOLVING
    names |= frozenset({"getrandom"}) | ALLOWED["what only some processors have"]
    flags_of_clone = 1 if machine in ("S390", "S390X") else 0
    return Filter(
        default=NOT_THERE,
        architectures=(),
        rules=(
            Rule(ALLOW, tuple(sorted(names))),
            *_socket_rules((_AF_UNIX, _AF_INET, _AF_INET6), (_SOCK_STREAM, _SOCK_DGRAM)),
            *_socket_rules(
                (_AF_NETLINK,), (3, _SOCK_DGRAM)
            ),  # getaddrinfo lists the addresses of the host (AI_ADDRCONFIG)
            Rule(ALLOW, ("clone",), (Comparison(flags_of_clone, "MASKED_EQ", _CLONE_THREAD, _CLONE_THREAD),)),
            Rule(REFUSED, ("execve", "execveat", "kill", "tkill", "ptrace")),
        ),
    )
