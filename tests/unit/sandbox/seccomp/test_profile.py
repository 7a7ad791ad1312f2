"""JSON seccomp profiles in the format of docker and podman."""

from __future__ import annotations

import errno
import json
import os
from typing import Any

import pytest

from sandbox.kernel import bpf
from sandbox.kernel.capabilities import DEFAULT
from sandbox.seccomp.compiler import UnknownCallError, compile_filter
from sandbox.seccomp.profile import ProfileError, parse_profile
from sandbox.seccomp.values import ALLOW, KILL_PROCESS, LOG, NOT_THERE, REFUSED, TRAP, Filter, fail
from tests.unit.sandbox.seccomp.programs import I386, X86, X86_64, ask

pytestmark = pytest.mark.skipif(os.uname().machine != "x86_64", reason="numbers and names of x86_64")


def filter_of(
    profile: dict[str, Any], capabilities: frozenset[str] = DEFAULT, kernel: tuple[int, int] = (6, 12)
) -> Filter:
    return parse_profile(json.dumps(profile).encode(), X86, capabilities, kernel)


def compiled(profile: dict[str, Any], **others: Any) -> bytes:
    return compile_filter(filter_of(profile, **others))


def allowing(**call: Any) -> dict[str, Any]:
    return {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"action": "SCMP_ACT_ALLOW", **call}]}


def test_names_and_the_older_name_are_read() -> None:
    assert ask(compiled(allowing(names=["read", "write"])), "write") == ALLOW
    assert ask(compiled(allowing(name="read")), "read") == ALLOW
    assert ask(compiled(allowing(name="read")), "write") == REFUSED


@pytest.mark.parametrize(
    ("call", "action"),
    [
        ({"action": "SCMP_ACT_ERRNO"}, REFUSED),
        ({"action": "SCMP_ACT_ERRNO", "errnoRet": 13}, fail(errno.EACCES)),
        ({"action": "SCMP_ACT_ERRNO", "errnoRet": 1, "errno": "ENOSYS"}, NOT_THERE),
        ({"action": "SCMP_ACT_KILL_PROCESS"}, KILL_PROCESS),
        ({"action": "SCMP_ACT_KILL"}, 0),
        ({"action": "SCMP_ACT_TRAP"}, TRAP),
        ({"action": "SCMP_ACT_LOG"}, LOG),
        ({"action": "SCMP_ACT_TRACE", "errnoRet": 7}, 0x7FF00007),
    ],
)
def test_actions(call: dict[str, Any], action: int) -> None:
    program = compiled({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], **call}]})
    assert ask(program, "read") == action
    assert ask(program, "write") == ALLOW


def test_the_default_has_an_errno_of_its_own() -> None:
    assert filter_of({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38}).default == NOT_THERE
    assert filter_of({"defaultAction": "SCMP_ACT_ERRNO"}).default == REFUSED


@pytest.mark.parametrize(
    ("condition", "met", "unmet"),
    [
        ({"op": "SCMP_CMP_EQ", "value": 5}, 5, 6),
        ({"op": "SCMP_CMP_NE", "value": 5}, 6, 5),
        ({"op": "SCMP_CMP_LT", "value": 5}, 4, 5),
        ({"op": "SCMP_CMP_LE", "value": 5}, 5, 6),
        ({"op": "SCMP_CMP_GT", "value": 5}, 6, 5),
        ({"op": "SCMP_CMP_GE", "value": 5}, 5, 4),
        ({"op": "SCMP_CMP_MASKED_EQ", "value": 0xF0, "valueTwo": 0x10}, 0x1F, 0x2F),
        ({"op": "SCMP_CMP_EQ", "value": 1 << 40}, 1 << 40, 0),
    ],
)
def test_comparisons(condition: dict[str, Any], met: int, unmet: int) -> None:
    program = compiled(allowing(names=["ioctl"], args=[{"index": 1, **condition}]))
    assert ask(program, "ioctl", 0, met) == ALLOW
    assert ask(program, "ioctl", 0, unmet) == REFUSED


def test_all_conditions_have_to_be_met_but_of_two_on_one_argument_either() -> None:
    def equal(index: int, value: int) -> dict[str, Any]:
        return {"index": index, "value": value, "op": "SCMP_CMP_EQ"}

    both = compiled(allowing(names=["ioctl"], args=[equal(0, 1), equal(1, 2)]))
    assert [ask(both, "ioctl", *one) for one in ((1, 2), (1, 0), (0, 2))] == [ALLOW, REFUSED, REFUSED]
    either = compiled(allowing(names=["ioctl"], args=[equal(1, 1), equal(1, 2)]))
    assert [ask(either, "ioctl", 0, one) for one in (1, 2, 3)] == [ALLOW, ALLOW, REFUSED]


@pytest.mark.parametrize(
    ("call", "applies"),
    [
        ({"includes": {"arches": ["amd64"]}}, True),
        ({"includes": {"arches": ["arm64", "s390x"]}}, False),
        ({"excludes": {"arches": ["amd64"]}}, False),
        ({"excludes": {"arches": ["arm64"]}}, True),
        ({"includes": {"caps": ["CAP_CHOWN"]}}, True),
        ({"includes": {"caps": ["CAP_CHOWN", "CAP_BPF"]}}, False),
        ({"excludes": {"caps": ["CAP_BPF", "CAP_CHOWN"]}}, False),
        ({"excludes": {"caps": ["CAP_BPF"]}}, True),
        ({"includes": {"minKernel": "4.8"}}, True),
        ({"includes": {"minKernel": "6.13"}}, False),
        ({"excludes": {"minKernel": "4.8"}}, False),
        ({"includes": {}, "excludes": None}, True),
    ],
)
def test_what_a_rule_applies_to(call: dict[str, Any], applies: bool) -> None:
    assert bool(filter_of(allowing(names=["read"], **call)).rules) == applies


def test_architectures_are_those_that_the_profile_names_and_this_machine_runs() -> None:
    both = {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]}
    other = {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]}
    assert filter_of({**allowing(names=["read"]), "archMap": [other, both]}).architectures == ("X86", "X32")
    listed = ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_ARM"]
    program = compiled({**allowing(names=["read"]), "architectures": listed})
    assert ask(program, "read", architecture=I386) == ALLOW
    assert bpf.run(program, 0x40000000, X86_64) == NOT_THERE
    alone = compiled(allowing(names=["read"]))
    assert ask(alone, "read", architecture=I386) == NOT_THERE


def test_a_denied_call_that_libseccomp_does_not_know_is_an_error_where_it_would_pass() -> None:
    denying = {"names": ["no_such_call"], "action": "SCMP_ACT_ERRNO"}
    with pytest.raises(UnknownCallError, match="no_such_call"):
        compiled({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [denying]})
    assert ask(compiled({"defaultAction": "SCMP_ACT_KILL", "syscalls": [denying]}), "read") == 0


@pytest.mark.parametrize(
    ("profile", "message"),
    [
        ([], "is not an object"),
        ({}, "defaultAction: None is not an action"),
        ({"defaultAction": "ALLOW"}, "defaultAction: 'ALLOW' is not an action"),
        ({"defaultAction": "SCMP_ACT_NOTIFY"}, "defaultAction: needs a seccomp agent, which sandbox does not support"),
        ({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/x"}, "listenerPath: needs a seccomp agent, which sandbox does not support"),
        ({"defaultAction": "SCMP_ACT_ALLOW", "extra": 1}, "extra: is not a known key"),
        ({"defaultAction": "SCMP_ACT_ALLOW", "flags": ["X"]}, "flags[0]: 'X' is not a known flag"),
        ({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": {}}, "syscalls: is not an array"),
        (allowing(), "syscalls[0]: names no system call"),
        (allowing(names=[1]), "syscalls[0]: names no system call"),
        (allowing(names=["read"], action="SCMP_ACT_NOTIFY"), "syscalls[0].action: needs a seccomp agent, which sandbox does not support"),
        (allowing(names=["read"], arg=[]), "syscalls[0].arg: is not a known key"),
        (allowing(names=["read"], args=[{"index": 6, "op": "SCMP_CMP_EQ"}]), "syscalls[0].args[0].index: 6 is not the number of an argument, 0 to 5"),
        (allowing(names=["read"], args=[{"index": 0, "op": "EQUAL"}]), "syscalls[0].args[0].op: 'EQUAL' is not a comparison"),
        (allowing(names=["read"], args=[{"index": 0, "op": "SCMP_CMP_EQ", "value": -1}]), "syscalls[0].args[0].value: -1 is not a number of 64 bits"),
        (allowing(names=["read"], includes={"archs": []}), "syscalls[0].includes.archs: is not a known key"),
        (allowing(names=["read"], includes={"minKernel": "4"}), "syscalls[0].includes.minKernel: '4' is not a version such as 4.8"),
        ({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 5000}, "defaultAction: 5000 is not an errno"),
        ({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrno": "EWHAT"}, "defaultAction: 'EWHAT' is not the name of an errno"),
    ],
)  # fmt: skip
def test_what_is_not_understood_is_an_error(profile: Any, message: str) -> None:
    with pytest.raises(ProfileError) as caught:
        filter_of(profile)
    assert str(caught.value) == message


@pytest.mark.parametrize("text", [b"", b"{", b"\xff", b"[" * 100_000])
def test_what_is_not_json_is_an_error(text: bytes) -> None:
    with pytest.raises(ProfileError, match="is not JSON"):
        parse_profile(text, X86, DEFAULT, (6, 12))
