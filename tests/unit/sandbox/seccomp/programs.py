"""Helpers: compile filters, and run them on calls given by name."""

from __future__ import annotations

import functools

import pyseccomp

from sandbox.kernel import bpf
from sandbox.kernel.capabilities import DEFAULT
from sandbox.seccomp import values
from sandbox.seccomp.builtin import default_filter
from sandbox.seccomp.compiler import compile_filter

X86_64, I386 = 0xC000003E, 0x40000003
"""AUDIT_ARCH_* of linux/audit.h."""
ARCHES = {X86_64: pyseccomp.Arch.X86_64, I386: pyseccomp.Arch.X86}
X86 = values.MACHINES["x86_64"]


@functools.cache
def builtin(capabilities: frozenset[str] = DEFAULT) -> bytes:
    """Return the program of the built-in profile on x86_64."""
    return compile_filter(default_filter(X86, capabilities))


def number(name: str, architecture: int = X86_64) -> int:
    """Return the number of the call *name*; a negative number if the architecture does not have it."""
    return int(pyseccomp.resolve_syscall(ARCHES[architecture], name))


def ask(program: bytes, name: str, *arguments: int, architecture: int = X86_64) -> int:
    """Return the action of *program* for a call."""
    found = number(name, architecture)
    assert found >= 0, name
    return bpf.run(program, found, architecture, arguments)
