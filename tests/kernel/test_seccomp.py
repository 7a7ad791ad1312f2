"""Seccomp filters on real processes, and the notifications that they send."""

from __future__ import annotations

import errno
import mmap
import os
import select
import shutil
import signal
import socket
import subprocess

import pytest

from sandbox.kernel import _libc as kernel_libc
from sandbox.kernel import bpf, process, seccomp
from sandbox.kernel.capabilities import DEFAULT
from sandbox.seccomp.builtin import default_filter
from sandbox.seccomp.compiler import compile_filter
from sandbox.seccomp.values import MACHINES, changed, lets_through
from tests.kernel.support import fork_and_run, in_child, refusal
from tests.support import _libc

pytestmark = pytest.mark.skipif(
    os.uname().machine not in MACHINES, reason="there is no profile for this machine"
)


def program(*, allow: tuple[str, ...] = (), deny: tuple[str, ...] = ()) -> bytes:
    machine = MACHINES[os.uname().machine]
    return compile_filter(changed(default_filter(machine, DEFAULT), allow, deny))


def filtered(made: bytes) -> None:
    process.set_no_new_privileges()
    seccomp.install(made)


def test_a_denied_call_fails_with_the_errno_of_the_filter_and_others_succeed():
    made = program(deny=("getpgid",))

    def action() -> bool:
        filtered(made)
        return (
            refusal(os.getpgid, 0) == "EPERM" and os.getsid(0) >= 0
        )  # 0: the process is outside of the pid namespace

    assert in_child(action) == 0


def test_without_no_new_privileges_a_filter_needs_a_capability():
    if os.geteuid() == 0:
        pytest.skip("root has the capability")
    assert refusal(seccomp.install, program()) == "EACCES"


def test_a_program_and_its_children_are_under_the_filter():
    made = program()

    def action() -> bool:
        filtered(made)
        return (
            subprocess.run(["unshare", "--user", "true"], stderr=subprocess.DEVNULL, check=False).returncode
            == 1
        )

    assert in_child(action) == 0


def traced(made: bytes, action, answer) -> int:
    """Run *action* in a child whose denied calls are notified, and return its status.

    *answer* returns an errno, or None to continue, for each call.
    """
    told = bpf.with_actions(made, lambda one: one if lets_through(one) else seccomp.NOTIFY)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def child() -> bool:
        def grandchild() -> bool:
            process.set_no_new_privileges()
            seccomp.install_traced(told, lambda fd: socket.send_fds(theirs, [b"x"], [fd]) and None)
            return action()

        status = in_child(grandchild)
        os.wait()  # the sibling that has sent the listener
        return status == 0

    pid = fork_and_run(child)
    theirs.close()
    _, (listener,), _, _ = socket.recv_fds(ours, 1, 1)
    ours.close()
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    try:
        while True:
            for _, events in poll.poll(10_000):
                if not events & select.POLLIN:
                    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                call = seccomp.receive(listener)
                if call is not None:
                    seccomp.answer(listener, call, answer(call, listener))
    finally:
        os.close(listener)


def test_notified_calls_have_process_and_arguments_and_fail_with_the_replied_errno():
    calls = []

    def action() -> bool:
        return refusal(os.getpgid, 1234) == "EDOM" and refusal(os.getpgid, 5) == "EDOM"

    def answer(call: seccomp.Call, _listener: int) -> int:
        calls.append(call)
        return errno.EDOM

    assert traced(program(deny=("getpgid",)), action, answer) == 0
    assert [call.arguments[0] for call in calls] == [1234, 5]
    assert len({call.process for call in calls}) == 1


def test_a_notification_is_valid_while_its_call_waits_and_not_after():
    found = []

    def answer(call: seccomp.Call, listener: int) -> int:
        pidfd = seccomp.open_process(listener, call, call.process)
        assert pidfd is not None
        os.close(pidfd)
        found.append(call)
        if len(found) == 2:
            # The first call has a reply, so its id is no longer valid.
            assert seccomp.open_process(listener, found[0], os.getpid()) is None
        return errno.EDOM

    def action() -> bool:
        return refusal(os.getpgid, 1) == refusal(os.getpgid, 2) == "EDOM"

    assert traced(program(deny=("getpgid",)), action, answer) == 0
    assert len(found) == 2


def test_notified_calls_can_continue():
    assert traced(program(deny=("getpgid",)), lambda: os.getpgid(0) >= 0, lambda *_: None) == 0


@pytest.mark.parametrize("name", ["write", "sendmsg", "futex", "close", "read"])
def test_a_listener_is_sent_although_the_filter_denies_a_needed_call(name):
    """The filtered process cannot make the calls that this needs: no process would receive their notifications."""
    assert traced(program(deny=(name,)), lambda: True, lambda *_: errno.ENOSYS) == 0


def test_a_call_whose_process_ends_before_the_reply_is_no_error():
    def answer(call: seccomp.Call, _listener: int) -> int:
        os.kill(call.process, signal.SIGKILL)
        return errno.EPERM

    assert traced(program(deny=("getpgid",)), lambda: refusal(os.getpgid, 0) == "EPERM", answer) == 1


def test_a_listener_cannot_be_made_twice():
    told = bpf.with_actions(program(), lambda one: one if lets_through(one) else seccomp.NOTIFY)

    def action() -> bool:
        process.set_no_new_privileges()
        seccomp.install_traced(told, lambda _fd: None)
        return refusal(kernel_libc.set_seccomp_listener, told) == "EBUSY"

    def child() -> bool:
        status = in_child(action)
        os.wait()
        return status == 0

    assert in_child(child) == 0


def test_the_version_of_the_library_is_returned():
    found = seccomp.library_version()
    assert found is not None
    assert len(found.split(".")) == 3


# Machine code: `mov eax, NUMBER; syscall; ret` and, for i386, `mov eax, NUMBER; push rbx; xor ebx, ebx; int 0x80; pop rbx; ret`.
SYSCALL = b"\xb8%b\x0f\x05\xc3"
INT_80 = b"\xb8%b\x53\x31\xdb\xcd\x80\x5b\xc3"


def machine_code(code: bytes, number: int) -> int:
    """Execute a call as no C library makes it, and return what the kernel returns."""
    memory = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    memory.write(code % number.to_bytes(4, "little"))
    return _libc.call_address_of(memory)


x86_64_only = pytest.mark.skipif(os.uname().machine != "x86_64", reason="machine code of x86_64")


@x86_64_only
@pytest.mark.parametrize(
    ("code", "number", "result"),
    [
        (SYSCALL, 39, "a pid"),
        (SYSCALL, 0x40000000 | 39, -errno.ENOSYS),  # getpid of x32
        (SYSCALL, 0x40000000 | 165, -errno.ENOSYS),  # mount
        (INT_80, 20, "a pid"),  # getpid of i386
        (INT_80, 21, -errno.EPERM),  # mount
        (INT_80, 357, -errno.EPERM),  # bpf
        (INT_80, 425, -errno.ENOSYS),  # io_uring_setup
    ],
)
def test_no_other_way_into_the_kernel_leads_past_the_filter(code, number, result):
    made = program()

    def action() -> bool:
        filtered(made)
        found = machine_code(code, number)
        if result == "a pid":
            # A kernel without CONFIG_IA32_EMULATION kills the process for int 0x80, which gives another status.
            return found == os.getpid()
        return found == result

    assert in_child(action) == 0


@x86_64_only
@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
def test_a_static_program_of_i386_is_under_the_filter(tmp_path):
    """The program exits with the errno of mount(2), called with int 0x80."""
    (tmp_path / "probe.s").write_text(
        ".globl _start\n_start:\n mov $21, %eax\n xor %ebx, %ebx\n xor %ecx, %ecx\n int $0x80\n"
        " neg %eax\n mov %eax, %ebx\n mov $1, %eax\n int $0x80\n"
    )
    command = [
        "gcc",
        "-m32",
        "-nostdlib",
        "-static",
        "-o",
        str(tmp_path / "probe"),
        str(tmp_path / "probe.s"),
    ]
    made_probe = subprocess.run(command, capture_output=True, check=False)
    if made_probe.returncode != 0:
        pytest.skip("gcc makes no programs of i386")
    made = program()

    def action() -> bool:
        filtered(made)
        return subprocess.run([tmp_path / "probe"], check=False).returncode == errno.EPERM

    assert in_child(action) == 0
