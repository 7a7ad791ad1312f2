"""The filters of the network process: the compiled programs are run on calls, as in the kernel."""

from __future__ import annotations

import os
import socket

import pytest

from sandbox.seccomp.builtin import default_filter
from sandbox.seccomp.calls import KNOWN
from sandbox.seccomp.compiler import compile_filter
from sandbox.seccomp.network import network_filter, resolver_filter
from sandbox.seccomp.values import ALLOW, NOT_THERE, REFUSED, lets_through
from tests.unit.sandbox.seccomp.programs import I386, X86, ask, number

pytestmark = pytest.mark.skipif(os.uname().machine != "x86_64", reason="numbers and names of x86_64")

NETWORK = compile_filter(network_filter())
RESOLVER = compile_filter(resolver_filter("X86_64"))
SOCK_NONBLOCK = socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC


@pytest.mark.parametrize(
    ("name", "arguments", "action"),
    [
        *((name, (), ALLOW) for name in ("splice", "pipe2", "epoll_wait", "accept4", "connect", "sendmsg", "recvmsg", "wait4")),
        *((name, (), REFUSED) for name in ("open", "openat", "openat2", "execve", "execveat", "kill", "ptrace")),
        *((name, (), NOT_THERE) for name in ("fork", "clone", "clone3", "newfstatat", "unlink", "mount", "setns", "unshare")),
        *((name, (), NOT_THERE) for name in ("memfd_create", "prctl", "setresuid", "socketpair", "io_uring_setup", "bpf")),
        ("socket", (socket.AF_INET, socket.SOCK_STREAM | SOCK_NONBLOCK), ALLOW),
        ("socket", (socket.AF_INET6, socket.SOCK_DGRAM), ALLOW),
        ("socket", (socket.AF_INET, socket.SOCK_RAW), NOT_THERE),
        ("socket", (socket.AF_UNIX, socket.SOCK_STREAM), NOT_THERE),
        ("socket", (socket.AF_NETLINK, socket.SOCK_RAW), NOT_THERE),
        ("socket", (socket.AF_PACKET, socket.SOCK_DGRAM), NOT_THERE),
        ("socket", (40, socket.SOCK_STREAM), NOT_THERE),  # AF_VSOCK
    ],
)  # fmt: skip
def test_what_the_network_process_may_call(name: str, arguments: tuple[int, ...], action: int) -> None:
    assert ask(NETWORK, name, *arguments) == action


@pytest.mark.parametrize(
    ("name", "arguments", "action"),
    [
        *((name, (), ALLOW) for name in ("openat", "newfstatat", "mmap", "sendmmsg", "futex")),
        ("clone", (0x3D0F00,), ALLOW),  # a thread
        ("clone", (0x11,), NOT_THERE),
        *((name, (), REFUSED) for name in ("execve", "execveat", "kill", "ptrace")),
        *((name, (), NOT_THERE) for name in ("fork", "clone3", "unlink", "renameat2", "mkdir", "mount", "setns", "prctl")),
        ("socket", (socket.AF_UNIX, socket.SOCK_STREAM | SOCK_NONBLOCK), ALLOW),
        ("socket", (socket.AF_NETLINK, socket.SOCK_RAW), ALLOW),
        ("socket", (socket.AF_INET, socket.SOCK_RAW), NOT_THERE),
    ],
)  # fmt: skip
def test_what_the_resolving_process_may_call(name: str, arguments: tuple[int, ...], action: int) -> None:
    assert ask(RESOLVER, name, *arguments) == action


@pytest.mark.parametrize("program", [NETWORK, RESOLVER])
def test_they_are_no_wider_than_the_filter_of_a_program_without_capabilities(program: bytes) -> None:
    widest = compile_filter(default_filter(X86, frozenset()))
    for name in sorted(KNOWN):
        if number(name) >= 0 and lets_through(ask(program, name)):
            assert lets_through(ask(widest, name)), name
    assert ask(program, "read", architecture=I386) == NOT_THERE
