"""Compile seccomp filters to BPF programs, and cache these in the state directory, so that most starts compile nothing.

    STATE/filters/KEY      a line with a digest, then the program

KEY is a digest of the filter, the version of libseccomp, the machine type and the word size. A program is compiled if it is
not cached, or if the cached one cannot be trusted (sandbox/state/cache.py). A program that cannot be cached is no failure.
Without a secret no file is read or written.
"""

from __future__ import annotations

import fcntl
import sys
from contextlib import suppress

from sandbox.errors import HostError, SetupError
from sandbox.host.facts import HostFacts
from sandbox.kernel import bpf, seccomp
from sandbox.plan import SeccompPlan
from sandbox.seccomp import values
from sandbox.seccomp.serving import serving_filter
from sandbox.state.cache import CacheDirectory
from unionfs._stdlib.hashlib import sha256

_KEPT = 64
"""The most cached programs, of ten kilobytes each; the oldest are removed first."""

_NATIVE_CALLS = {
    "x86_64": (0xC000003E, {"execve": 59, "fcntl": 72}),
    "aarch64": (0xC00000B7, {"execve": 221, "fcntl": 25}),
    "riscv64": (0xC00000F3, {"execve": 221, "fcntl": 25}),
}
"""AUDIT_ARCH_*, and the numbers of the system calls that the trampoline makes under the filter, before the program runs."""
_ARGUMENTS = {"execve": (), "fcntl": (3, fcntl.F_SETFD, fcntl.FD_CLOEXEC)}


def program_for(
    plan: SeccompPlan, *, state_fd: int, secret: bytes | None, library: str, machine: str
) -> bytes:
    """Return the BPF program of the filter that *plan* names: from the state directory, or compiled now.

    Raises:
        HostError: the filter cannot be compiled.
        SetupError: the filter would deny a call that starting any program takes.
    """
    program = _program(plan.filter, plan.profile, _cache(state_fd, secret), library, machine)
    architecture, numbers = _NATIVE_CALLS.get(machine, (0, {}))
    for call, number in numbers.items():
        action = bpf.run(program, number, architecture, _ARGUMENTS[call])
        if not plan.log and not values.lets_through(action):
            raise SetupError(
                "security.seccomp",
                f"the seccomp filter (profile {plan.profile}) denies {call}, which is needed to start the program",
                hint=f'remove it from deny, or allow it: seccomp = {{ allow = ["{call}"] }}',
            )
    return program


def serving_program(facts: HostFacts, *, state_fd: int, secret: bytes | None) -> bytes | None:
    """Return the BPF program of the filter for the file system server.

    Return None if this machine has no seccomp filters, no libseccomp or an unknown type: a file may permit to run without.

    Raises:
        HostError: libseccomp is there, but the filter cannot be compiled.
    """
    machine = _machine(facts)
    if machine is None:
        return None
    made = serving_filter(machine.native)
    cache = _cache(state_fd, secret)
    return _program(made, "the server's filter", cache, facts.libseccomp or "", facts.machine)


def network_programs(
    facts: HostFacts, *, state_fd: int, secret: bytes | None
) -> tuple[bytes | None, bytes | None]:
    """Return the BPF programs of the filters for the process `sandbox-net` and for its child that resolves names.

    Both are None where :func:`serving_program` returns None.

    Raises:
        HostError: libseccomp is there, but a filter cannot be compiled.
    """
    from sandbox.seccomp.network import network_filter, resolver_filter

    machine = _machine(facts)
    if machine is None:
        return None, None
    own, resolver = (
        _program(
            made, "the network's filter", _cache(state_fd, secret), facts.libseccomp or "", facts.machine
        )
        for made in (network_filter(), resolver_filter(machine.native))
    )
    return own, resolver


def _machine(facts: HostFacts) -> values.Machine | None:
    """Return what is known about this type of machine; None if no filter can be compiled for it."""
    usable = facts.libseccomp is not None and "errno" in facts.seccomp_actions
    return values.MACHINES.get(facts.machine) if usable else None


def _cache(state_fd: int, secret: bytes | None) -> CacheDirectory | None:
    return None if secret is None else CacheDirectory.open(state_fd, "filters", secret=secret)


def _program(
    made: values.Filter, name: str, cache: CacheDirectory | None, library: str, machine: str
) -> bytes:
    """Return the program of *made*, from *cache* if it is there. Closes *cache*."""
    key = sha256(repr((made.digest(), library, machine, sys.maxsize)).encode()).hexdigest()
    try:
        program = None if cache is None else cache.get(key, at_most=bpf.MAX_INSTRUCTIONS * bpf.SIZE)
        if program is None or not _is_program(program):
            program = _compile(made, name, library)
            if cache is not None:
                with suppress(OSError):
                    cache.put(key, program, entries=_KEPT)
    finally:
        if cache is not None:
            cache.close()
    return program


def _is_program(content: bytes) -> bool:
    try:
        bpf.instructions(content)
    except ValueError:
        return False
    return True


def _compile(made: values.Filter, name: str, library: str) -> bytes:
    try:
        from sandbox.seccomp.compiler import UnknownCallError, compile_filter
    except (ImportError, RuntimeError) as error:  # RuntimeError: pyseccomp found no library
        raise HostError(
            f"seccomp filters cannot be compiled: {error}",
            # Finding the library takes processes and descriptors. If the library is known to exist, these are used up.
            hint=f"libseccomp {library} is installed: check the limits of descriptors (`ulimit -n`), processes and memory"
            if library and not isinstance(error, ImportError)
            else "as root: apt-get install libseccomp2; and install the Python package pyseccomp in the environment of sandbox",
        ) from None
    try:
        return compile_filter(made)
    except UnknownCallError as error:
        raise HostError(
            f"{name} denies {error}, which libseccomp on this machine does not know and would allow",
            hint="install a newer libseccomp, or remove the system call from the profile",
        ) from None
    except (OSError, ValueError) as error:
        raise HostError(f"libseccomp rejects the filter: {error}", hint=f"check {name}") from None


def for_kernel(program: bytes, *, log: bool, traced: bool) -> bytes:
    """Return *program* with its denying actions replaced: by notification of the tracer, or by logging, if requested."""
    if not log and not traced:
        return program
    instead = seccomp.NOTIFY if traced else values.LOG
    return bpf.with_actions(program, lambda action: action if values.lets_through(action) else instead)
