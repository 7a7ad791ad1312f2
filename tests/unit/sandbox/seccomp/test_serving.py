"""The filter of the file system server: the compiled program is run on calls, as in the kernel."""

from __future__ import annotations

import os

import pytest

from sandbox.seccomp.builtin import default_filter
from sandbox.seccomp.calls import KNOWN
from sandbox.seccomp.compiler import compile_filter
from sandbox.seccomp.serving import serving_filter
from sandbox.seccomp.values import ALLOW, NOT_THERE, REFUSED, lets_through
from tests.unit.sandbox.seccomp.programs import I386, X86, X86_64, ask, number

pytestmark = pytest.mark.skipif(os.uname().machine != "x86_64", reason="numbers and names of x86_64")

PROGRAM = compile_filter(serving_filter("X86_64"))


@pytest.mark.parametrize(
    ("name", "arguments", "action"),
    [
        *((name, (), ALLOW) for name in ("openat2", "statx", "renameat2", "mknodat", "fsetxattr", "copy_file_range")),
        *((name, (), ALLOW) for name in ("epoll_pwait", "futex", "setitimer", "exit_group", "tgkill", "sendmsg")),
        ("clone", (0x3D0F00,), ALLOW),  # a thread
        ("clone", (0x11,), NOT_THERE),
        ("clone3", (), NOT_THERE),
        ("socketpair", (1,), ALLOW),
        ("socketpair", (16,), REFUSED),
        *((name, (), REFUSED) for name in ("execve", "execveat", "kill", "ptrace", "socket", "connect")),
        *((name, (), NOT_THERE) for name in ("fork", "vfork", "mount", "umount2", "setns", "unshare", "setresuid")),
        *((name, (), NOT_THERE) for name in ("process_vm_readv", "pidfd_send_signal", "open_by_handle_at", "chroot")),
    ],
)  # fmt: skip
def test_what_the_server_may_call(name: str, arguments: tuple[int, ...], action: int) -> None:
    assert ask(PROGRAM, name, *arguments) == action


def test_it_is_no_wider_than_the_filter_of_a_program_without_capabilities() -> None:
    program = compile_filter(default_filter(X86, frozenset()))
    for name in sorted(KNOWN):
        if number(name) >= 0 and lets_through(ask(PROGRAM, name)):
            assert lets_through(ask(program, name)), name


def test_calls_of_another_architecture_are_not_there() -> None:
    assert ask(PROGRAM, "read", architecture=I386) == NOT_THERE
    assert ask(PROGRAM, "read", architecture=X86_64) == ALLOW
