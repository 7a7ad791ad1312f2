"""The built-in profile: the compiled program is run on calls, as in the kernel."""

from __future__ import annotations

import errno
import json
import os

import pyseccomp
import pytest

from sandbox.kernel import bpf
from sandbox.kernel.capabilities import DEFAULT
from sandbox.seccomp.builtin import default_filter
from sandbox.seccomp.calls import ABSENT, ALLOWED, DENIED, KNOWN
from sandbox.seccomp.compiler import compile_filter
from sandbox.seccomp.profile import parse_profile
from sandbox.seccomp.values import ALLOW, MACHINES, NOT_THERE, REFUSED, changed, fail, lets_through
from tests.unit.sandbox.seccomp.programs import ARCHES, I386, X86, X86_64, ask, builtin, number

pytestmark = pytest.mark.skipif(os.uname().machine != "x86_64", reason="numbers and names of x86_64")

ECOSYSTEM = "/usr/share/containers/seccomp.json"
NO_FAMILY = fail(errno.EAFNOSUPPORT)
NO_LEASE = fail(errno.EACCES)
EVERY = frozenset(
    denied.capability for denied in DENIED if denied.capability
) | DEFAULT | {"AUDIT_WRITE"}  # fmt: skip


@pytest.mark.parametrize("architecture", [X86_64, I386])
@pytest.mark.parametrize(
    ("name", "arguments", "action"),
    [
        ("read", (), ALLOW),
        ("execve", (), ALLOW),
        ("futex", (), ALLOW),
        ("ptrace", (), ALLOW),
        ("seccomp", (), ALLOW),
        ("clone", (0x11,), ALLOW),
        ("clone", (0x3D0F00,), ALLOW),  # a thread
        *(("clone", (flag | 0x11,), REFUSED) for flag in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000)),
        *(("clone", (flag | 0x11,), REFUSED) for flag in (0x20000000, 0x40000000)),
        ("clone3", (), NOT_THERE),
        ("unshare", (0x400,), ALLOW),  # CLONE_FILES
        ("unshare", (0x10000400,), REFUSED),
        ("unshare", (0x80,), REFUSED),  # CLONE_NEWTIME
        ("setns", (), REFUSED),
        ("mount", (), REFUSED),
        ("umount2", (), REFUSED),
        ("pivot_root", (), REFUSED),
        ("open_tree", (), REFUSED),
        ("bpf", (), REFUSED),
        ("perf_event_open", (), REFUSED),
        ("userfaultfd", (), REFUSED),
        ("keyctl", (), REFUSED),
        ("add_key", (), REFUSED),
        ("io_uring_setup", (), NOT_THERE),
        ("io_uring_enter", (), REFUSED),
        ("personality", (0,), ALLOW),
        ("personality", (0xFFFFFFFF,), ALLOW),
        ("personality", (0x40000,), NOT_THERE),  # ADDR_NO_RANDOMIZE
        ("personality", (0x400000,), NOT_THERE),  # READ_IMPLIES_EXEC
        ("ioctl", (0, 0x5401), ALLOW),
        ("ioctl", (0, 0x5412), REFUSED),  # TIOCSTI
        ("ioctl", (0, 0x541C), REFUSED),  # TIOCLINUX
        ("ioctl", (0, 0x5423), REFUSED),  # TIOCSETD
        ("fcntl", (0, 1024), NO_LEASE),  # F_SETLEASE
        ("fcntl", (0, 1025), ALLOW),  # F_GETLEASE
        ("fcntl", (0, 1026), ALLOW),  # F_NOTIFY
        ("fcntl", (0, 1030), ALLOW),  # F_DUPFD_CLOEXEC
        ("fcntl", (0, 1038), ALLOW),  # F_SET_FILE_RW_HINT
        ("fcntl", (0, 1039), fail(errno.EINVAL)),  # F_GETDELEG
        ("fcntl", (0, 1040), fail(errno.EINVAL)),  # F_SETDELEG
        ("reboot", (), REFUSED),
        ("kexec_load", (), REFUSED),
        ("init_module", (), REFUSED),
        ("open_by_handle_at", (), REFUSED),
        ("pidfd_getfd", (), REFUSED),
        ("sethostname", (), REFUSED),
        ("chroot", (), ALLOW),
        ("mknodat", (), ALLOW),
    ],
)  # fmt: skip
def test_what_the_profile_says_of_a_call(
    architecture: int, name: str, arguments: tuple[int, ...], action: int
) -> None:
    assert ask(builtin(), name, *arguments, architecture=architecture) == action


@pytest.mark.parametrize(
    ("arguments", "action"),
    [
        ((1, 1, 0), ALLOW),
        ((2, 1, 6), ALLOW),
        ((10, 2, 17), ALLOW),
        ((16, 3, 0), ALLOW),
        ((17, 3, 0), ALLOW),
        ((16, 3, 9), fail(errno.EINVAL)),  # the audit system
        ((16, 3, 9 | 1 << 32), fail(errno.EINVAL)),  # an int argument: the kernel ignores the upper bits
        ((15, 3, 2), NO_FAMILY),
        ((29, 3, 1), NO_FAMILY),
        ((31, 1, 0), NO_FAMILY),
        ((38, 5, 0), NO_FAMILY),  # AF_ALG
        ((40, 1, 0), NO_FAMILY),  # AF_VSOCK
        ((40 | 1 << 32, 1, 0), NO_FAMILY),
        ((1 << 32, 1, 0), NO_FAMILY),
    ],
)
def test_sockets_are_those_of_a_network_namespace(arguments: tuple[int, ...], action: int) -> None:
    assert ask(builtin(), "socket", *arguments) == action


@pytest.mark.parametrize("high", [1 << 32, 0xFFFFFFFF << 32])
def test_bits_that_the_kernel_does_not_look_at_hide_no_request(high: int) -> None:
    assert ask(builtin(), "ioctl", 0, high | 0x5412) == REFUSED
    assert not lets_through(ask(builtin(), "fcntl", 0, high | 1024))
    assert not lets_through(ask(builtin(), "fcntl", 0, high | 1040))
    assert not lets_through(ask(builtin(), "clone", high | 0x10000011))


@pytest.mark.parametrize("call", [55, 221], ids=["fcntl", "fcntl64"])
def test_a_32_bit_program_takes_no_lease_by_either_of_its_calls(call: int) -> None:
    assert bpf.run(builtin(), call, I386, (0, 1024)) == NO_LEASE
    assert bpf.run(builtin(), call, I386, (0, 1025)) == ALLOW


def test_sockets_of_a_32_bit_program_come_by_the_call_whose_family_can_be_seen() -> None:
    assert not lets_through(ask(builtin(), "socketcall", 1, architecture=I386))
    assert ask(builtin(), "socketcall", 3, architecture=I386) == ALLOW  # connect
    # As `socket`, which Linux has had on i386 since 4.3 (arch/x86/entry/syscalls/syscall_32.tbl).
    assert bpf.run(builtin(), 359, I386, (1, 1, 0)) == ALLOW
    assert bpf.run(builtin(), 359, I386, (40, 1, 0)) == NO_FAMILY


@pytest.mark.parametrize("name", ["read", "execve", "mount", "bpf"])
def test_x32_and_other_architectures_have_no_calls(name: str) -> None:
    assert bpf.run(builtin(), 0x40000000 | number(name), X86_64) == NOT_THERE
    assert bpf.run(builtin(), 0x40000000 | 520, X86_64) == NOT_THERE  # execve of x32 only
    for architecture in (0x40000028, 0xC00000B7, 0, 0xFFFFFFFF):
        assert bpf.run(builtin(), number(name), architecture) == NOT_THERE


def test_a_call_that_nobody_knows_is_absent() -> None:
    assert {bpf.run(builtin(), unknown, X86_64) for unknown in (400, 600, 0x3FFFFFFF, 0xFFFFFFFF)} == {
        NOT_THERE
    }


@pytest.mark.parametrize("denied", [one for one in DENIED if one.capability], ids=lambda one: one.capability)
def test_a_capability_that_the_file_adds_brings_its_calls(denied: object) -> None:
    group = next(one for one in DENIED if one is denied)
    assert group.capability is not None
    program = builtin(DEFAULT | {group.capability})
    without = builtin(DEFAULT - {group.capability})
    for name in group.names:
        if number(name) >= 0:
            assert (ask(program, name), ask(without, name)) == (ALLOW, REFUSED), name


def test_who_may_mount_may_also_make_namespaces() -> None:
    program = builtin(DEFAULT | {"SYS_ADMIN"})
    assert (
        ask(program, "clone", 0x10000011)
        == ask(program, "unshare", 0x10000000)
        == ask(program, "clone3")
        == ALLOW
    )
    assert ask(program, "bpf") == ask(program, "keyctl") == REFUSED
    assert ask(program, "ioctl", 0, 0x5412) == REFUSED


@pytest.mark.skipif(not os.path.exists(ECOSYSTEM), reason="needs golang-github-containers-common")
@pytest.mark.parametrize("capabilities", [DEFAULT, frozenset(), EVERY], ids=["default", "none", "every"])
def test_the_profile_is_at_least_as_strict_as_that_of_the_containers_ecosystem(
    capabilities: frozenset[str],
) -> None:
    """Every call of both architectures, with arguments at and around every value with which a filter compares."""
    with open(ECOSYSTEM, "rb") as file:
        text = file.read()
    theirs_of = parse_profile(text, X86, capabilities, (6, 12))
    ours_of = default_filter(X86, capabilities)
    ours, theirs = compile_filter(ours_of), compile_filter(theirs_of)
    conditional = [rule for rule in (*theirs_of.rules, *ours_of.rules, *ours_of.forbidden) if rule.conditions]
    compared = {
        (one.index, value)
        for rule in conditional
        for one in rule.conditions
        for value in (one.value - 1, one.value, one.value + 1, one.masked, 1 << 32 | one.value)
        if value >= 0
    }
    plain = {(), (16, 3, 9), (1, 1, 1, 1, 1, 1)}
    every = plain | {(0,) * index + (value,) for index, value in compared}
    names = {name for rule in conditional for name in rule.names} | {"socketcall", "clone3"}
    wider = set()
    for architecture in ARCHES:
        # On i386, `socket` means two calls: the second is tested by its number.
        numbers = {number(name, architecture) for name in names} | {359, 360}
        for call in (*range(600), *range(0x40000000, 0x40000300)):
            for given in every if call in numbers else plain:
                ours_says, theirs_says = (bpf.run(one, call, architecture, given) for one in (ours, theirs))
                if lets_through(ours_says) and not lets_through(theirs_says):
                    wider.add((hex(architecture), call, given))
    assert wider == set()
    assert lets_through(bpf.run(theirs, 0, X86_64))


def test_every_call_of_this_table_stands_in_one_group() -> None:
    names = [name for group in (*ALLOWED.values(), *(one.names for one in DENIED)) for name in group]
    assert sorted(name for name in set(names) if names.count(name) > 1) == []
    assert not set(ABSENT) & frozenset().union(*ALLOWED.values())


def test_every_call_up_to_linux_6_10_is_in_the_table() -> None:
    """Newer calls have higher numbers. They fail with ENOSYS until they are added to the table."""
    names = []
    for call in range(463):
        try:
            names.append(pyseccomp.resolve_syscall(pyseccomp.Arch.X86_64, call).decode())
        except ValueError:
            continue
    assert len(names) > 350
    assert sorted(set(names) - KNOWN - {"uretprobe"}) == []  # called by the kernel's signal trampoline


@pytest.mark.parametrize("machine", MACHINES.values(), ids=list(MACHINES))
def test_every_machine_has_the_profile(machine: object) -> None:
    found = next(one for one in MACHINES.values() if one is machine)
    filtered = default_filter(found, DEFAULT)
    assert filtered.default == NOT_THERE
    assert filtered.digest() != default_filter(found, DEFAULT | {"BPF"}).digest()
    assert all(hasattr(pyseccomp.Arch, name) for name in found.others)


def test_what_a_file_allows_and_denies_wins_over_the_profile() -> None:
    base = default_filter(X86, DEFAULT)
    program = compile_filter(changed(base, ("keyctl", "clone", "ioctl", "read"), ("read", "getpid")))
    assert ask(program, "keyctl") == ALLOW
    assert ask(program, "clone", 0x10000011) == ALLOW
    assert ask(program, "ioctl", 0, 0x5412) == ALLOW
    assert ask(program, "read") == ask(program, "getpid") == ask(program, "bpf") == REFUSED
    assert ask(program, "keyctl", architecture=I386) == ALLOW


def test_a_filter_is_told_from_every_other_by_its_digest() -> None:
    base = default_filter(X86, DEFAULT)
    filters = [
        base,
        changed(base, ("keyctl",), ()),
        changed(base, (), ("keyctl",)),
        default_filter(X86, frozenset()),
        parse_profile(json.dumps({"defaultAction": "SCMP_ACT_ALLOW"}).encode(), X86, DEFAULT, (6, 12)),
    ]
    assert len({one.digest() for one in filters}) == len(filters)
    assert base.digest() == default_filter(X86, DEFAULT).digest()
