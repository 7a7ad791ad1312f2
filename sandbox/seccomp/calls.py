"""Every system call by purpose: which calls the built-in profile allows, and why it refuses the others.

A name belongs to one group. The groups contain the names of all architectures; each architecture has a part of them. A call
that is in no group, because it is newer than this table, fails with ENOSYS, as on an older kernel.
"""

from __future__ import annotations

from collections.abc import Mapping

from unionfs._stdlib.dataclasses import dataclass

_FILES = """
    access chdir chmod chown chown32 close close_range copy_file_range creat dup dup2 dup3 faccessat faccessat2
    fadvise64 fadvise64_64 fallocate fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl fcntl64
    fdatasync fgetxattr flistxattr flock fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 fsync
    ftruncate ftruncate64 futimesat getcwd getdents getdents64 getxattr ioctl lchown lchown32 lgetxattr link
    linkat listxattr llistxattr _llseek lremovexattr lseek lsetxattr lstat lstat64 mkdir mkdirat mknod mknodat
    name_to_handle_at newfstatat open openat openat2 pipe pipe2 pread64 preadv preadv2 pwrite64 pwritev pwritev2
    read readahead readlink readlinkat readv removexattr rename renameat renameat2 rmdir sendfile sendfile64
    setxattr splice stat stat64 statfs statfs64 statx symlink symlinkat sync sync_file_range syncfs tee truncate
    truncate64 umask unlink unlinkat utime utimensat utimensat_time64 utimes write writev
"""

_WAITING = """
    epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2
    fanotify_mark inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel io_destroy io_getevents
    io_setup io_submit _newselect poll ppoll ppoll_time64 pselect6 pselect6_time64 select signalfd signalfd4
    timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64
"""

_MEMORY = """
    brk get_mempolicy madvise mbind membarrier memfd_create memfd_secret mincore mlock mlock2 mlockall mmap mmap2 mprotect
    mremap msync munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect remap_file_pages set_mempolicy
"""

_PROCESSES = """
    clone execve execveat exit exit_group fork futex futex_time64 get_robust_list get_thread_area getcpu getpgid getpgrp
    getpid getppid getpriority getrusage getsid gettid ioprio_get ioprio_set kill pause pidfd_open pidfd_send_signal prctl
    process_mrelease restart_syscall rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend
    rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min
    sched_getaffinity sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64
    sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield set_robust_list set_thread_area
    set_tid_address setpgid setpriority setsid sigaltstack signal sigprocmask sigreturn tgkill times tkill unshare vfork
    wait4 waitid waitpid
"""

_CREDENTIALS = """
    capget capset getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getresgid getresgid32 getresuid
    getresuid32 getuid getuid32 setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 setregid
    setregid32 setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 setuid setuid32
"""

_CONFINEMENT = """
    landlock_add_rule landlock_create_ruleset landlock_restrict_self seccomp
"""

_DEBUGGING = """
    process_vm_readv process_vm_writev ptrace
"""

_NETWORK = """
    accept accept4 bind connect getpeername getsockname getsockopt listen recv recvfrom recvmmsg recvmmsg_time64 recvmsg send
    sendmmsg sendmsg sendto setsockopt shutdown socket socketcall socketpair
"""

_IPC = """
    ipc mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink
    msgctl msgget msgrcv msgsnd semctl semget semop semtimedop semtimedop_time64 shmat shmctl shmdt shmget
"""

_CLOCKS = """
    adjtimex alarm clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64
    clock_nanosleep clock_nanosleep_time64 getitimer gettimeofday nanosleep setitimer time timer_create timer_delete
    timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64
"""

_SYSTEM = """
    getrandom getrlimit prlimit64 setrlimit sysinfo ugetrlimit uname
"""

_ARCHITECTURE = """
    arch_prctl arm_fadvise64_64 arm_sync_file_range breakpoint cacheflush riscv_flush_icache set_tls swapcontext
    sync_file_range2
"""

ALLOWED: Mapping[str, frozenset[str]] = {
    "files and directories": frozenset(_FILES.split()),
    "waiting for events, asynchronous input and output": frozenset(_WAITING.split()),
    "the program's own memory": frozenset(_MEMORY.split()),
    "processes, threads and signals": frozenset(_PROCESSES.split()),
    "user and group ids, capabilities": frozenset(_CREDENTIALS.split()),
    "confining itself further": frozenset(_CONFINEMENT.split()),
    # For processes of the sandbox: the kernel compares their credentials. Other profiles refused ptrace because a tracer could
    # change a call after the filter had checked it. Linux 4.8 fixed that.
    "debugging its own processes": frozenset(_DEBUGGING.split()),
    "sockets": frozenset(_NETWORK.split()),
    "message queues, semaphores and shared memory": frozenset(_IPC.split()),
    # Setting a clock needs CAP_SYS_TIME over the whole machine; reading uses the same calls.
    "reading clocks, sleeping, timers": frozenset(_CLOCKS.split()),
    "limits, names and random numbers": frozenset(_SYSTEM.split()),
    "what only some processors have": frozenset(_ARCHITECTURE.split()),
}
"""The calls that every program may make. sandbox.seccomp.builtin restricts the arguments of some."""


@dataclass(frozen=True, slots=True)
class Denied:
    """Calls that are refused, the reason, and the capability that allows them if the spec adds it; None if there is none."""

    why: str
    names: frozenset[str]
    capability: str | None = None


DENIED: tuple[Denied, ...] = (
    # Each of these gives the program root's access to a part of the kernel. Most escapes from user namespaces began there. A spec
    # that adds SYS_ADMIN allows it explicitly.
    Denied(
        "mounts",
        frozenset(
            """fsconfig fsmount fsopen fspick mount mount_setattr move_mount open_tree pivot_root umount umount2""".split()
        ),
        "SYS_ADMIN",
    ),
    Denied("other namespaces", frozenset({"setns"}), "SYS_ADMIN"),
    Denied("the host name", frozenset({"setdomainname", "sethostname"}), "SYS_ADMIN"),
    Denied("watching whole file systems", frozenset({"fanotify_init"}), "SYS_ADMIN"),
    Denied("changing its root", frozenset({"chroot"}), "SYS_CHROOT"),
    Denied("files by handle instead of by path", frozenset({"open_by_handle_at"}), "DAC_READ_SEARCH"),
    Denied("inside of other processes", frozenset({"kcmp", "pidfd_getfd", "process_madvise"}), "SYS_PTRACE"),
    Denied("restarting", frozenset({"reboot"}), "SYS_BOOT"),
    Denied("the kernel's messages", frozenset({"syslog"}), "SYSLOG"),
    Denied("hanging up terminals", frozenset({"vhangup"}), "SYS_TTY_CONFIG"),
    Denied("programs in the kernel (bpf)", frozenset({"bpf"}), "BPF"),
    Denied("performance counters", frozenset({"perf_event_open"}), "PERFMON"),
    # Keyrings belong to no namespace: possession of a key is enough to read it, whichever user the sandbox has.
    Denied("the kernel's keyrings", frozenset({"add_key", "keyctl", "request_key"})),
    # No filter checks the operations that are submitted through it.
    Denied("io_uring", frozenset({"io_uring_enter", "io_uring_register", "io_uring_setup"})),
    # Lets a program stop the kernel in the middle of a copy for any time, which exploits use.
    Denied("page faults in the program's hands", frozenset({"userfaultfd"})),
    Denied("pages lent to pipes", frozenset({"vmsplice"})),
    Denied("pages of other processes", frozenset({"migrate_pages", "move_pages"})),
    Denied("16-bit segments", frozenset({"modify_ldt", "vm86", "vm86old"})),
    # The kernel requires capabilities over the whole machine for these. No sandbox has them.
    Denied(
        "what is the machine's",
        frozenset(
            """acct clock_settime clock_settime64 delete_module finit_module init_module ioperm iopl kexec_file_load kexec_load
            lookup_dcookie nfsservctl pciconfig_iobase pciconfig_read pciconfig_write query_module quotactl quotactl_fd
            s390_pci_mmio_read s390_pci_mmio_write settimeofday stime swapoff swapon""".split()
        ),
    ),
    Denied(
        "what nothing has used for decades",
        frozenset(
            """_sysctl afs_syscall bdflush create_module get_kernel_syms getpmsg nice oldfstat oldlstat oldolduname oldstat
            olduname putpmsg security sgetmask ssetmask sysfs tuxcall uselib ustat vserver""".split()
        ),
    ),
)
"""The calls that fail with EPERM, or with ENOSYS if they are also in `ABSENT`."""

ABSENT: Mapping[str, str] = {
    # The flags are in memory, which a filter cannot read. C libraries fall back to clone.
    "clone3": "its flags cannot be checked; callers fall back to clone",
    # Programs try these first and have an alternative. ENOSYS makes them use it.
    "io_uring_setup": "callers fall back to what every kernel has",
    "cachestat": "callers do without",
    "futex_requeue": "callers fall back to futex",
    "futex_wait": "callers fall back to futex",
    "futex_waitv": "callers fall back to futex",
    "futex_wake": "callers fall back to futex",
    "io_pgetevents": "callers fall back to io_getevents",
    "io_pgetevents_time64": "callers fall back to io_getevents",
    "map_shadow_stack": "callers do without",
    "set_mempolicy_home_node": "callers do without",
    "mseal": "callers do without",
    "statmount": "callers fall back to /proc/self/mountinfo",
    "listmount": "callers fall back to /proc/self/mountinfo",
    "lsm_get_self_attr": "callers fall back to /proc/self/attr",
    "lsm_set_self_attr": "callers fall back to /proc/self/attr",
    "lsm_list_modules": "callers do without",
}
"""The calls that fail with ENOSYS, and what their callers do then."""

PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)
"""PER_LINUX, PER_LINUX32, both with UNAME26, and the value that queries the current one; see personality(2). Flags that make
memory executable or its addresses predictable are left out."""

KNOWN = (
    frozenset().union(*ALLOWED.values())
    | frozenset().union(*(denied.names for denied in DENIED))
    | ABSENT.keys()
    | {"personality"}
)
"""Every name in this table."""
