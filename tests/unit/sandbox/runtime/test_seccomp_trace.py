"""The reports about denied system calls, with a simulated kernel."""

from __future__ import annotations

import errno
import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from sandbox.kernel import process, seccomp
from sandbox.kernel.capabilities import DEFAULT
from sandbox.kernel.seccomp import Call
from sandbox.plan import SeccompPlan
from sandbox.runtime.seccomp_trace import DenialTracer
from sandbox.seccomp import values
from sandbox.seccomp.builtin import default_filter
from sandbox.seccomp.compiler import compile_filter
from sandbox.seccomp.values import MACHINES, Filter, Rule

pytestmark = pytest.mark.skipif(os.uname().machine != "x86_64", reason="numbers and names of x86_64")

X86_64 = 0xC000003E
GONE = 99  # the call of a thread that ended while it was examined
BASE = default_filter(MACHINES["x86_64"], DEFAULT)
PLAN = SeccompPlan(profile="default", filter=BASE)
MOUNT = Call(id=1, process=os.getpid(), number=165, architecture=X86_64, arguments=(1, 2, 0, 0, 0, 0))


class Kernel:
    """A simulated listener with waiting calls, which records the answers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Replace the functions that call the kernel."""
        self.waiting: list[Call | None] = []
        self.answers: list[int | None] = []
        self.signals: list[int] = []
        self.opened: list[int] = []
        monkeypatch.setattr(seccomp, "receive", lambda _fd: self.waiting.pop(0))
        monkeypatch.setattr(seccomp, "answer", lambda _fd, _call, number: self.answers.append(number))
        monkeypatch.setattr(seccomp, "open_process", self._open)
        monkeypatch.setattr(process, "send_signal", lambda _pidfd, number: self.signals.append(number))

    def _open(self, _listener: int, call: Call, number: int) -> int | None:
        self.opened.append(number)
        return None if call.id == GONE else os.open(os.devnull, os.O_RDONLY)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    with monkeypatch.context() as patch:
        yield Kernel(patch)


def answer_call(kernel: Kernel, *calls: Call | None, plan: SeccompPlan = PLAN) -> tuple[list[str], list[str]]:
    """Return the reports while *calls* arrive, and the summary."""
    said: list[str] = []
    denials = DenialTracer(plan, compile_filter(plan.filter), -1, said.append)
    kernel.waiting = list(calls)
    for _ in calls:
        denials.answer_call()
    return said, denials.summary()


def test_a_call_is_answered_as_the_filter_would_have_and_said_once(kernel: Kernel) -> None:
    said, summary = answer_call(kernel, MOUNT, replace(MOUNT, arguments=(9,) * 6), None)
    assert kernel.answers == [errno.EPERM, errno.EPERM]
    program = os.path.realpath("/proc/self/exe")
    (line,) = said
    assert line.startswith(f"denied: mount(0x1, 0x2, 0x0, 0x0, 0x0, 0x0) = EPERM in {program}, process ")
    assert summary == [
        "denied system calls: mount 2",
        'to allow them, with any arguments: [security] seccomp = { allow = ["mount"] }',
        (
            "the kernel also requires the capability SYS_ADMIN for mount; with it the filter allows the call: "
            '[security] capabilities = { add = ["SYS_ADMIN"] }'
        ),
    ]


def test_a_call_that_takes_no_capability_is_allowed_by_the_filter_alone(kernel: Kernel) -> None:
    _, summary = answer_call(kernel, replace(MOUNT, number=250))
    assert summary == [
        "denied system calls: keyctl 1",
        'to allow them, with any arguments: [security] seccomp = { allow = ["keyctl"] }',
    ]


def test_calls_of_other_architectures_have_their_own_names(kernel: Kernel) -> None:
    said, summary = answer_call(
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
    _, summary = answer_call(kernel, replace(MOUNT, number=435))
    assert kernel.answers == [errno.ENOSYS]
    assert summary == [
        "denied system calls: clone3 1",
        "absent by design, harmless for most programs: clone3",
    ]


def test_under_log_every_call_goes_on(kernel: Kernel) -> None:
    answer_call(kernel, MOUNT, plan=replace(PLAN, log=True))
    assert kernel.answers == [None]


def with_mount(action: int) -> SeccompPlan:
    rule = Rule(action, ("mount",))
    return replace(PLAN, filter=Filter(default=values.ALLOW, architectures=(), rules=(rule,)))


@pytest.fixture
def disposition() -> Iterator[Callable[[Any], None]]:
    """Set how this process, which stands for the program, handles SIGSYS."""
    before = signal.getsignal(signal.SIGSYS)
    yield lambda wanted: signal.signal(signal.SIGSYS, wanted) and None
    signal.signal(signal.SIGSYS, before)


def test_what_a_filter_ends_is_ended(kernel: Kernel) -> None:
    said, _ = answer_call(kernel, MOUNT, plan=with_mount(values.KILL_PROCESS))
    assert kernel.signals == [signal.SIGSYS]
    assert "= the end of the process in" in said[0]


@pytest.mark.parametrize(
    ("action", "wanted", "sent"),
    [
        (values.KILL_PROCESS, signal.SIG_IGN, signal.SIGKILL),
        (values.KILL_THREAD, lambda *_: None, signal.SIGKILL),
        (values.TRAP, signal.SIG_IGN, signal.SIGKILL),
        (values.TRAP, lambda *_: None, signal.SIGSYS),
    ],
)
def test_no_program_escapes_the_signal_by_ignoring_it(
    kernel: Kernel, disposition: Callable[[Any], None], action: int, wanted: Any, sent: int
) -> None:
    disposition(wanted)
    answer_call(kernel, MOUNT, plan=with_mount(action))
    assert kernel.signals == [sent]


def test_the_process_of_a_thread_is_ended(kernel: Kernel) -> None:
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        assert thread.native_id is not None
        answer_call(kernel, replace(MOUNT, process=thread.native_id), plan=with_mount(values.KILL_THREAD))
    finally:
        done.set()
        thread.join()
    assert (kernel.opened, kernel.signals) == ([os.getpid()], [signal.SIGSYS])


def test_nobody_is_ended_for_a_thread_that_is_gone(kernel: Kernel) -> None:
    answer_call(kernel, replace(MOUNT, id=GONE), plan=with_mount(values.KILL_PROCESS))
    assert kernel.signals == []


def test_what_a_filter_leaves_to_a_tracer_that_is_not_there_fails_and_ends_nobody(kernel: Kernel) -> None:
    said, _ = answer_call(kernel, MOUNT, plan=with_mount(values.TRACE))
    assert (kernel.signals, kernel.answers) == ([], [errno.ENOSYS])
    assert "= ENOSYS in" in said[0]


def test_made_up_numbers_take_up_no_more_than_a_bounded_space(kernel: Kernel) -> None:
    calls = [replace(MOUNT, number=5000 + number) for number in range(1500)]
    said, summary = answer_call(kernel, *calls, MOUNT, MOUNT)
    assert len(said) == 100
    assert len(summary[0].split(", ")) == 1001
    assert summary[0].endswith("others 502")
    assert len(summary) == 1


def test_the_line_that_would_allow_keeps_what_the_file_says(kernel: Kernel) -> None:
    plan = replace(PLAN, profile="/etc/p.json", allow=("keyctl",), deny=("mount", "ptrace"))
    _, summary = answer_call(kernel, MOUNT, plan=plan)
    assert summary[-1].endswith(
        '[security] seccomp = { profile = "/etc/p.json", allow = ["keyctl", "mount"], deny = ["ptrace"] }'
    )


def test_a_program_that_makes_up_calls_does_not_fill_the_terminal(kernel: Kernel) -> None:
    calls: list[Any] = [replace(MOUNT, number=5000 + number) for number in range(150)]
    said, _ = answer_call(kernel, *calls)
    assert len(said) == 100
    assert len(kernel.answers) == 150
