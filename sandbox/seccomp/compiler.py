"""Compile a filter to a program for the kernel with libseccomp. Imported only if a filter has to be compiled: the import takes
tens of milliseconds, because ctypes.util.find_library runs programs to find the library.
"""

from __future__ import annotations

import errno
import os

import pyseccomp

from sandbox.kernel import bpf
from sandbox.seccomp.values import ALLOW, NOT_THERE, Filter, Rule, lets_through

_UNKNOWN = -1  # __NR_SCMP_ERROR
_BINARY_TREE = 2  # of SCMP_FLTATR_CTL_OPTIMIZE: a search in logarithmic time
_OPS = {
    "NE": pyseccomp.NE,
    "LT": pyseccomp.LT,
    "LE": pyseccomp.LE,
    "EQ": pyseccomp.EQ,
    "GE": pyseccomp.GE,
    "GT": pyseccomp.GT,
    "MASKED_EQ": pyseccomp.MASKED_EQ,
}


class UnknownCallError(ValueError):
    """libseccomp does not know a call that is to be refused. Without an error, the filter would allow it."""


def compile_filter(wanted: Filter) -> bytes:
    """Return the program for *wanted*.

    Raises:
        UnknownCallError: libseccomp does not know a call that is to be refused.
        OSError: libseccomp rejects the filter.
        ValueError: the program would exceed the kernel's maximum length.
    """
    program = _compile(wanted.default, wanted.architectures, wanted.rules)
    if wanted.forbidden:
        program = bpf.joined(_compile(ALLOW, wanted.architectures, wanted.forbidden), program)
    bpf.instructions(program)
    return program


def _compile(default: int, architectures: tuple[str, ...], rules: tuple[Rule, ...]) -> bytes:
    made = pyseccomp.SyscallFilter(default)
    for name in architectures:
        made.add_arch(getattr(pyseccomp.Arch, name))
    made.set_attr(pyseccomp.Attr.ACT_BADARCH, NOT_THERE)
    # If every rule has the default action, no rule is added and there is nothing to search.
    if any(rule.action != default for rule in rules):
        made.set_attr(pyseccomp.Attr.CTL_OPTIMIZE, _BINARY_TREE)
    for rule in rules:
        if rule.action == default:
            continue  # libseccomp rejects such a rule
        for name in rule.names:
            _add(made, default, rule, name)
    fd = os.memfd_create("filter")
    with open(fd, "rb") as file:
        made.export_bpf(file)
        file.seek(0)
        return file.read()


def _add(made: pyseccomp.SyscallFilter, default: int, rule: Rule, name: str) -> None:
    number = pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name)
    if number == _UNKNOWN:
        if lets_through(default) and not lets_through(rule.action):
            raise UnknownCallError(name)
        return  # the call gets the default, which does not allow more
    conditions = [pyseccomp.Arg(one.index, _OPS[one.op], one.value, one.masked) for one in rule.conditions]
    try:
        made.add_rule(rule.action, number, *conditions)
    except OSError as error:
        if error.errno != errno.EEXIST:  # an earlier rule covers the same calls
            raise OSError(error.errno, f"{name}: {error.strerror}") from None
