"""Compute and set the capability sets of a sandbox's processes; capabilities(7).

A change of user id needs this order. First the bounding set: dropping from it needs CAP_SETPCAP, which a non-root user no
longer has afterwards. Then groups, gid, uid, and :func:`set_process_sets`. If a user other than 0 keeps capabilities, call
:func:`keep_over_id_change` before the change of uid, which would otherwise empty the permitted set.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from sandbox.kernel import _libc, constants
from unionfs._stdlib.dataclasses import dataclass

NAMES = (
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
    "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
    "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
    "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
    "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF",
    "CHECKPOINT_RESTORE",
)  # fmt: skip
"""Every name without its ``CAP_``; the index is the number in the kernel (include/uapi/linux/capability.h)."""

NUMBERS = {name: number for number, name in enumerate(NAMES)}

DEFAULT = frozenset({
    "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "NET_BIND_SERVICE", "SETFCAP", "SETGID", "SETPCAP", "SETUID",
    "SYS_CHROOT",
})  # fmt: skip
"""podman's default set: what root needs for its own files, processes and ports (containers.conf(5))."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CapabilitySets:
    """The capability sets of one process, as names without ``CAP_``. The effective set always equals the permitted set."""

    bounding: frozenset[str]
    permitted: frozenset[str]
    inheritable: frozenset[str] = frozenset()
    ambient: frozenset[str] = frozenset()


def parse(name: str) -> str:
    """Return *name* in upper case and without ``CAP_``; "all" in any case becomes ``ALL``.

    Raises:
        ValueError: there is no such capability.
    """
    short = name.upper().removeprefix("CAP_")
    if short not in NUMBERS and short != "ALL":
        raise ValueError(f"unknown capability {name!r}: a name of capabilities(7) such as NET_RAW, or all")
    return short


def effective_set(
    default: frozenset[str],
    drop: Iterable[str],
    add: Iterable[str],
    *,
    known: frozenset[str] = frozenset(NAMES),
) -> frozenset[str]:
    """Return *default* without *drop* and with *add*; "all" in either list means every one of *known*.

    A name in both lists is added, as with the options of podman and docker.

    Raises:
        ValueError: a name is not a capability, or *known* lacks a name in *add* (this kernel does not have it).
    """
    dropped, added = {parse(name) for name in drop}, {parse(name) for name in add}
    result = frozenset() if "ALL" in dropped else default - dropped
    if "ALL" in added:
        return (result | known) & known
    if missing := added - known:
        raise ValueError(f"this kernel does not have the capability {min(missing)}: leave it out")
    return (result | added) & known


def sets_for(uid: int, allowed: frozenset[str], added: frozenset[str] = frozenset()) -> CapabilitySets:
    """Return the sets of a program that runs as *uid* of the sandbox, with *allowed* as the upper limit.

    Root gets *allowed* at exec from the bounding set. Its inheritable set stays empty, so that no file capability adds to it
    (CVE-2022-24769). Another user gets only the capabilities that the spec adds by name (*added*). They are ambient, the only
    kind that survives exec of an ordinary program.
    """
    if uid == 0:
        return CapabilitySets(bounding=allowed, permitted=allowed)
    kept = allowed & added
    return CapabilitySets(bounding=allowed, permitted=kept, inheritable=kept, ambient=kept)


def known_to_kernel(proc_root: str = "/proc") -> frozenset[str]:
    """Return the names of the capabilities of this kernel, from ``sys/kernel/cap_last_cap``."""
    with open(f"{proc_root}/sys/kernel/cap_last_cap", encoding="utf-8") as file:
        return frozenset(NAMES[: int(file.read()) + 1])


def mask(names: Iterable[str]) -> int:
    """Return the bit mask of *names*."""
    return sum(1 << NUMBERS[name] for name in set(names))


def names(bits: int) -> frozenset[str]:
    """Return the names of the bits in *bits*. Bits of capabilities newer than this table are left out."""
    return frozenset(name for name, number in NUMBERS.items() if bits >> number & 1)


def limit_bounding_set(keep: frozenset[str]) -> None:
    """Drop all capabilities except *keep* from the bounding set, including those that are newer than this table.

    Raises:
        OSError: EPERM without CAP_SETPCAP in this user namespace.
    """
    for number in range(64):  # the kernel's sets have 64 bits
        if number < len(NAMES) and NAMES[number] in keep:
            continue
        try:
            present = _libc.prctl(constants.PR_CAPBSET_READ, number)
        except OSError:  # EINVAL: past the last capability of this kernel
            return
        if present:
            _libc.prctl(constants.PR_CAPBSET_DROP, number)


def keep_over_id_change() -> None:
    """Keep the permitted set over the next change of uid from 0 to another (PR_SET_KEEPCAPS); exec clears the setting."""
    _libc.prctl(constants.PR_SET_KEEPCAPS, 1)


def set_process_sets(sets: CapabilitySets) -> None:
    """Set permitted, effective, inheritable and ambient of this process to *sets*. The bounding set does not change.

    Raises:
        OSError: EPERM if *sets* exceeds the permitted set of this process.
    """
    # Clear the ambient set first: it must stay a subset of permitted and inheritable, and lowering those would reduce it.
    _libc.prctl(constants.PR_CAP_AMBIENT, constants.PR_CAP_AMBIENT_CLEAR_ALL)
    permitted = mask(sets.permitted)
    _libc.capset(permitted, permitted, mask(sets.inheritable))
    for name in sorted(sets.ambient):
        _libc.prctl(constants.PR_CAP_AMBIENT, constants.PR_CAP_AMBIENT_RAISE, NUMBERS[name])


@contextmanager
def lowered(*lowered_names: str) -> Iterator[bool]:
    """Remove *lowered_names* from this thread's effective set within the context; yield whether any of them was in it."""
    effective, permitted, inheritable = _libc.capget()
    less = effective & ~mask(lowered_names)
    if less == effective:
        yield False
        return
    _libc.capset(less, permitted, inheritable)
    try:
        yield True
    finally:
        _libc.capset(effective, permitted, inheritable)


def current_sets() -> tuple[frozenset[str], frozenset[str], frozenset[str]]:
    """Return the names in this thread's effective, permitted and inheritable sets."""
    effective, permitted, inheritable = _libc.capget()
    return names(effective), names(permitted), names(inheritable)
