"""The built-in profile: what `security.seccomp = "default"` means for a machine and the capabilities of a program.

It is at least as strict as the default of podman (a test compares the programs, call by call) and, on namespaces, as that of
docker: a program that may make a user namespace reaches as root of it what the kernel otherwise keeps for root.
"""

from __future__ import annotations

import errno

from sandbox.seccomp.calls import ABSENT, ALLOWED, DENIED, PERSONALITIES
from sandbox.seccomp.values import ALLOW, NOT_THERE, REFUSED, Comparison, Filter, Machine, Rule, fail

_LOW = 0xFFFFFFFF
"""What the kernel looks at where an argument is an int: a caller may set the bits above to anything."""

_NAMESPACES = (0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000)
"""CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET; linux/sched.h"""
_NEWTIME = 0x00000080  # only of unshare: to clone it is a part of the signal's number

_TERMINAL_REQUESTS = (0x5412, 0x541C, 0x5423)
"""TIOCSTI types into a terminal, TIOCLINUX pastes into a console: both can leave a command for the shell outside. TIOCSETD selects a line
discipline: drivers for modems and serial networks, with which the user's terminal is of no use."""

_FAMILIES = (1, 2, 10, 16, 17)
"""AF_UNIX, AF_INET, AF_INET6, AF_NETLINK, AF_PACKET: what programs use and what belongs to a network namespace. Most others
(Bluetooth, CAN, virtual machine sockets, kernel cryptography...) are of the machine, or modules that their use would load."""

_F_SETLEASE = 1024  # linux/fcntl.h, the same on every machine
_LAST_FCNTL = 1038
"""F_SET_FILE_RW_HINT, the last command before F_GETDELEG and F_SETDELEG of Linux 6.19."""

NO_LEASES = (
    Rule(fail(errno.EACCES), ("fcntl", "fcntl64"), (Comparison(1, "MASKED_EQ", _LOW, _F_SETLEASE),)),
    Rule(fail(errno.EINVAL), ("fcntl", "fcntl64"), (Comparison(1, "GT", _LAST_FCNTL),)),
)
"""A lease makes open(2) of every other process wait for up to /proc/sys/fs/lease-break-time, 45 seconds. The owner of a file may take
one, also through a read-only mount. EACCES is the documented error for a file of somebody else, fcntl(2): programs go on without a
lease, whereas EAGAIN means to some that the file is in use. Delegations (F_SETDELEG) are leases, too. They and commands that are
younger than this profile fail as on an older kernel."""

_AF_NETLINK, _NETLINK_AUDIT = 16, 9
_SOCKETCALL_SOCKET = 1


def default_filter(machine: Machine, capabilities: frozenset[str]) -> Filter:
    """Return the profile for a program that may have *capabilities* on *machine*."""
    admin = "SYS_ADMIN" in capabilities
    rules = [Rule(ALLOW, tuple(sorted(names))) for names in ALLOWED.values()]
    if admin:
        rules.append(Rule(ALLOW, ("clone3",)))
    rules += [Rule(ALLOW, ("personality",), (Comparison(0, "EQ", persona),)) for persona in PERSONALITIES]
    for denied in DENIED:
        action = ALLOW if denied.capability in capabilities else REFUSED
        if names := tuple(sorted(denied.names - ABSENT.keys())):
            rules.append(Rule(action, names))
    forbidden = [*NO_LEASES, *_terminal(), *_sockets(machine, audit="AUDIT_WRITE" in capabilities)]
    if not admin:
        forbidden += _namespaces(machine)
    return Filter(
        default=NOT_THERE,
        architectures=machine.others,
        rules=tuple(rules),
        forbidden=tuple(forbidden),
    )


def _terminal() -> list[Rule]:
    return [
        Rule(REFUSED, ("ioctl",), (Comparison(1, "MASKED_EQ", _LOW, request),))
        for request in _TERMINAL_REQUESTS
    ]


def _sockets(machine: Machine, *, audit: bool) -> list[Rule]:
    last = max(_FAMILIES)
    unknown = fail(errno.EAFNOSUPPORT)
    calls = ("socket", "socketpair")
    rules = [
        Rule(unknown, calls, (Comparison(0, "EQ", family),))
        for family in range(last)
        if family not in _FAMILIES
    ]
    rules.append(Rule(unknown, calls, (Comparison(0, "GT", last),)))
    if not audit:
        # EINVAL is what programs that report to the audit system (useradd, login) take for "there is none".
        conditions = (
            Comparison(0, "EQ", _AF_NETLINK),
            Comparison(2, "MASKED_EQ", _LOW, _NETLINK_AUDIT),
        )
        rules.append(Rule(fail(errno.EINVAL), ("socket",), conditions))
    if {machine.native, *machine.others} & {"X86", "S390", "S390X"}:
        # The family is in memory, where no filter can look. What uses this call, 32-bit programs, has no other on old
        # C libraries: it gets no sockets of its own.
        rules.append(Rule(REFUSED, ("socketcall",), (Comparison(0, "MASKED_EQ", _LOW, _SOCKETCALL_SOCKET),)))
    return rules


def _namespaces(machine: Machine) -> list[Rule]:
    flags_of_clone = 1 if machine.native in ("S390", "S390X") else 0
    rules = [
        Rule(REFUSED, ("clone",), (Comparison(flags_of_clone, "MASKED_EQ", flag, flag),))
        for flag in _NAMESPACES
    ]
    rules += [
        Rule(REFUSED, ("unshare",), (Comparison(0, "MASKED_EQ", flag, flag),))
        for flag in (*_NAMESPACES, _NEWTIME)
    ]
    return rules
