"""What is said of denied calls, without a kernel that denies them."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from sandbox.kernel import seccomp
from sandbox.kernel.capabilities import DEFAULT
from sandbox.kernel.seccomp import Call
from sandbox.plan import SeccompPlan
from sandbox.runtime.denials import Denials
from sandbox.seccomp import values
from sandbox.seccomp.builtin import default_filter
from sandbox.seccomp.compiler import compile_filter
from sandbox.seccomp.values import MACHINES, Filter, Rule

pytestmark = pytest.mark.skipif(os.uname().machine != "x86_64", reason="numbers and names of x86_64")

X86_64 = 0xC000003E
BASE = default_filter(MACHINES["x86_64"], DEFAULT)
PLAN = SeccompPlan(profile="default", filter=BASE)
MOUNT = Call(id=1, process=os.getpid(), number=165, architecture=X86_64, arguments=(1, 2, 0, 0, 0, 0))


class Kernel:
    """Has calls that wait, and keeps the answers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Stand in for the kernel."""
        self.waiting: list[Call | None] = []
        self.answers: list[int | None] = []
        self.signals: list[int] = []
        self.process_is_there = True
        monkeypatch.setattr(seccomp, "receive", lambda _fd: self.waiting.pop(0))
        monkeypatch.setattr(seccomp, "answer", lambda _fd, _call, number: self.answers.append(number))
        monkeypatch.setattr(seccomp, "still_waits", lambda _fd, _call: self.process_is_there)
        monkeypatch.setattr(os, "kill", lambda _pid, number: self.signals.append(number))


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    with monkeypatch.context() as patch:
        yield Kernel(patch)


def hear(kernel: Kernel, *calls: Call | None, plan: SeccompPlan = PLAN) -> tuple[list[str], list[str]]:
    """Return what is said while *calls* come, and the summary."""
    said: list[str] = []
    denials = Denials(plan, compile_filter(plan.filter), -1, said.append)
    kernel.waiting = list(calls)
    for _ in calls:
        denials.hear()
    return said, denials.summary()


def test_a_call_is_answered_as_the_filter_would_have_and_said_once(kernel: Kernel) -> None:
    said, summary = hear(kernel, MOUNT, replace(MOUNT, arguments=(9,) * 6), None)
    assert kernel.answers == [errno.EPERM, errno.EPERM]
    program = os.path.realpath("/proc/self/exe")
    (line,) = said
    assert line.startswith(f"denied: mount(0x1, 0x2, 0x0, 0x0, 0x0, 0x0) = EPERM in {program}, process ")
    assert summary == [
        "denied system calls: mount 2",
        'to allow them, with any arguments: [security] seccomp = { allow = ["mount"] }',
        (
            "the kernel wants the capability SYS_ADMIN for mount, too; adding it lets the filter allow the call: "
            '[security] capabilities = { add = ["SYS_ADMIN"] }'
        ),
    ]


def test_a_call_that_takes_no_capability_is_allowed_by_the_filter_alone(kernel: Kernel) -> None:
    _, summary = hear(kernel, replace(MOUNT, number=250))
    assert summary == [
        "denied system calls: keyctl 1",
        'to allow them, with any arguments: [security] seccomp = { allow = ["keyctl"] }',
    ]


def test_calls_of_other_architectures_have_their_own_names(kernel: Kernel) -> None:
    said, summary = hear(
        kernel,
        replace(MOUNT, number=21, architecture=0x40000003),
        replace(MOUNT, number=0x40000000 | 39),
        replace(MOUNT, number=5000),
    )
    assert kernel.answers == [errno.EPERM, errno.ENOSYS, errno.ENOSYS]
    assert [line.split("(")[0] for line in said] == [
        "denied: mount",
        "denied: call 0x40000027 of architecture 0xc000003e",
        "denied: call 0x1388 of architecture 0xc000003e",
    ]
    assert summary[1].endswith('allow = ["mount"] }')


def test_what_is_absent_on_purpose_is_not_to_be_allowed(kernel: Kernel) -> None:
    _, summary = hear(kernel, replace(MOUNT, number=435))
    assert kernel.answers == [errno.ENOSYS]
    assert summary == [
        "denied system calls: clone3 1",
        "absent on purpose, and no harm to most programs: clone3",
    ]


def test_under_log_every_call_goes_on(kernel: Kernel) -> None:
    hear(kernel, MOUNT, plan=replace(PLAN, log=True))
    assert kernel.answers == [None]


def test_what_a_filter_ends_is_ended(kernel: Kernel) -> None:
    rule = Rule(values.KILL_PROCESS, ("mount",))
    said, _ = hear(
        kernel,
        MOUNT,
        plan=replace(PLAN, filter=Filter(default=values.ALLOW, architectures=(), rules=(rule,))),
    )
    assert kernel.signals == [31]
    assert "= the end of the process in" in said[0]


def test_what_a_filter_ends_does_not_go_on_by_ignoring_the_signal(kernel: Kernel) -> None:
    before = signal.signal(signal.SIGSYS, signal.SIG_IGN)
    try:
        for action in (values.KILL_PROCESS, values.KILL_THREAD, values.TRAP):
            rule = Rule(action, ("mount",))
            plan = replace(PLAN, filter=Filter(default=values.ALLOW, architectures=(), rules=(rule,)))
            hear(kernel, MOUNT, plan=plan)
    finally:
        signal.signal(signal.SIGSYS, before)
    assert kernel.signals == [signal.SIGKILL, signal.SIGKILL, signal.SIGSYS]


def test_whoever_has_the_number_of_a_process_that_has_ended_meanwhile_is_left_alone(kernel: Kernel) -> None:
    kernel.process_is_there = False
    rule = Rule(values.KILL_PROCESS, ("mount",))
    plan = replace(PLAN, filter=Filter(default=values.ALLOW, architectures=(), rules=(rule,)))
    hear(kernel, MOUNT, plan=plan)
    assert kernel.signals == []


def test_made_up_numbers_take_up_no_more_than_a_bounded_space(kernel: Kernel) -> None:
    calls = [replace(MOUNT, number=5000 + number) for number in range(1500)]
    said, summary = hear(kernel, *calls, MOUNT, MOUNT)
    assert len(said) == 100
    assert len(summary[0].split(", ")) == 1001
    assert summary[0].endswith("others 502")
    assert len(summary) == 1


def test_the_line_that_would_allow_keeps_what_the_file_says(kernel: Kernel) -> None:
    plan = replace(PLAN, profile="/etc/p.json", allow=("keyctl",), deny=("mount", "ptrace"))
    _, summary = hear(kernel, MOUNT, plan=plan)
    assert summary[-1].endswith(
        '[security] seccomp = { profile = "/etc/p.json", allow = ["keyctl", "mount"], deny = ["ptrace"] }'
    )


def test_a_program_that_makes_up_calls_does_not_fill_the_terminal(kernel: Kernel) -> None:
    calls: list[Any] = [replace(MOUNT, number=5000 + number) for number in range(150)]
    said, _ = hear(kernel, *calls)
    assert len(said) == 100
    assert len(kernel.answers) == 150
