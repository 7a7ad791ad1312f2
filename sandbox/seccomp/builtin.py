"""The built-in profile: the filter of `security.seccomp = "default"` for a machine and the capabilities of a program.

It is at least as strict as podman's default; a test compares the programs call by call. For namespaces it is as strict as
docker's: as root of a user namespace a program could reach parts of the kernel that are otherwise reserved for root.
"""

from __future__ import annotations

import errno

from sandbox.seccomp.calls import ABSENT, ALLOWED, DENIED, PERSONALITIES
from sandbox.seccomp.values import ALLOW, NOT_THERE, REFUSED, Comparison, Filter, Machine, Rule, fail

_LOW = 0xFFFFFFFF
"""The bits that the kernel uses of an int argument. The caller may set the upper bits to any value."""

_NAMESPACES = (0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000)
"""CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET; linux/sched.h"""
_NEWTIME = 0x00000080  # only for unshare: in the flags of clone this bit belongs to the exit signal

_TERMINAL_REQUESTS = (0x5412, 0x541C, 0x5423)
"""TIOCSTI inserts input into a terminal, TIOCLINUX pastes into a console: both can leave a command for the shell outside.
TIOCSETD selects a line discipline: drivers for modems and serial networks, which make the user's terminal unusable."""

_FAMILIES = (1, 2, 10, 16, 17)
"""AF_UNIX, AF_INET, AF_INET6, AF_NETLINK, AF_PACKET: the families that programs use and that belong to a network namespace. Most
others (Bluetooth, CAN, virtual machine sockets, kernel cryptography...) belong to the machine or make the kernel load modules."""

_F_SETLEASE = 1024  # linux/fcntl.h, the same on every machine
_LAST_FCNTL = 1038
"""F_SET_FILE_RW_HINT, the last command before F_GETDELEG and F_SETDELEG of Linux 6.19."""

NO_LEASES = (
    Rule(fail(errno.EACCES), ("fcntl", "fcntl64"), (Comparison(1, "MASKED_EQ", _LOW, _F_SETLEASE),)),
    Rule(fail(errno.EINVAL), ("fcntl", "fcntl64"), (Comparison(1, "GT", _LAST_FCNTL),)),
)
"""A lease makes open(2) of every other process wait for up to /proc/sys/fs/lease-break-time, 45 seconds. The owner of a file may
take one even through a read-only mount. EACCES is the documented error for another user's file (fcntl(2)), and programs continue
without a lease. With EAGAIN some programs assume that the file is in use. Delegations (F_SETDELEG) are leases too. They and
commands that are newer than this profile fail as on an older kernel."""

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
        # Programs that report to the audit system (useradd, login) take EINVAL as "there is no audit system".
        conditions = (
            Comparison(0, "EQ", _AF_NETLINK),
            Comparison(2, "MASKED_EQ", _LOW, _NETLINK_AUDIT),
        )
        rules.append(Rule(fail(errno.EINVAL), ("socket",), conditions))
    if {machine.native, *machine.others} & {"X86", "S390", "S390X"}:
        # The address family is in memory, which a filter cannot read. 32-bit programs with old C libraries have no other call,
        # so they cannot create sockets.
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
