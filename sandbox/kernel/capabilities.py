"""Capability sets: names, the default, what a process of a sandbox gets, and setting it; capabilities(7).

The order against the change of ids (DESIGN, 18) is: bounding set first (dropping wants CAP_SETPCAP, which a non-root user
no longer has afterwards), then groups, gid, uid, then :func:`set_process_sets`. Where a user other than 0 shall keep
capabilities, :func:`keep_over_id_change` comes before the change of uid, which would otherwise empty the permitted set.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from sandbox.kernel import _libc
from unionfs._stdlib.dataclasses import dataclass

NAMES = (
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
    "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
    "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
    "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
    "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF",
    "CHECKPOINT_RESTORE",
)  # fmt: skip
"""Every name without its ``CAP_``; the index is the kernel's number (include/uapi/linux/capability.h)."""

NUMBERS = {name: number for number, name in enumerate(NAMES)}

DEFAULT = frozenset({
    "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "NET_BIND_SERVICE", "SETFCAP", "SETGID", "SETPCAP", "SETUID",
    "SYS_CHROOT",
})  # fmt: skip
"""podman's default set: what being root within one's own files, processes and ports needs (containers.conf(5))."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CapabilitySets:
    """The sets of one process, by names without ``CAP_``; effective is always the same as permitted."""

    bounding: frozenset[str]
    permitted: frozenset[str]
    inheritable: frozenset[str] = frozenset()
    ambient: frozenset[str] = frozenset()


def parse(name: str) -> str:
    """Return *name* in capitals and without ``CAP_``; "all" in any case as ``ALL``.

    Raises:
        ValueError: no such capability.
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
    """Return *default* without *drop*, then with *add*; "all" among either stands for every one of *known*.

    Of a name in both lists the addition wins, as with podman's and docker's options.

    Raises:
        ValueError: a name is no capability, or one to add is not in *known* (this kernel lacks it).
    """
    dropped, added = {parse(name) for name in drop}, {parse(name) for name in add}
    result = frozenset() if "ALL" in dropped else default - dropped
    if "ALL" in added:
        return (result | known) & known
    if missing := added - known:
        raise ValueError(f"this kernel does not have the capability {min(missing)}: leave it out")
    return (result | added) & known


def sets_for(uid: int, allowed: frozenset[str], added: frozenset[str] = frozenset()) -> CapabilitySets:
    """Return the sets of a program that runs as *uid* of the sandbox where *allowed* is the most it may have.

    Root gets *allowed* by exec itself, from the bounding set; its inheritable set stays empty, so that no file gains from
    it (CVE-2022-24769). Another user gets only what the file asked for by name (*added*), as ambient capabilities, the one
    kind that survives exec of an ordinary program.
    """
    if uid == 0:
        return CapabilitySets(bounding=allowed, permitted=allowed)
    kept = allowed & added
    return CapabilitySets(bounding=allowed, permitted=kept, inheritable=kept, ambient=kept)


def known_to_kernel(proc_root: str = "/proc") -> frozenset[str]:
    """Return the names of the capabilities that this kernel has, from ``sys/kernel/cap_last_cap``."""
    with open(f"{proc_root}/sys/kernel/cap_last_cap", encoding="utf-8") as file:
        return frozenset(NAMES[: int(file.read()) + 1])


def mask(names: Iterable[str]) -> int:
    """Return the bit mask of *names*."""
    return sum(1 << NUMBERS[name] for name in set(names))


def names(bits: int) -> frozenset[str]:
    """Return the names of the bits of *bits*; bits of capabilities younger than this table are left out."""
    return frozenset(name for name, number in NUMBERS.items() if bits >> number & 1)


def limit_bounding_set(keep: frozenset[str]) -> None:
    """Drop from the bounding set all but *keep*, capabilities that this table does not know yet included.

    Raises:
        OSError: EPERM without CAP_SETPCAP in this user namespace.
    """
    for number in range(64):  # the kernel keeps each set in 64 bits
        if number < len(NAMES) and NAMES[number] in keep:
            continue
        try:
            present = _libc.prctl(_libc.PR_CAPBSET_READ, number)
        except OSError:  # EINVAL: past the last capability of this kernel
            return
        if present:
            _libc.prctl(_libc.PR_CAPBSET_DROP, number)


def keep_over_id_change() -> None:
    """Keep the permitted set over the next change of uid from 0 to another (PR_SET_KEEPCAPS); exec ends the effect."""
    _libc.prctl(_libc.PR_SET_KEEPCAPS, 1)


def set_process_sets(sets: CapabilitySets) -> None:
    """Set permitted, effective, inheritable and ambient of this process to *sets*; the bounding set is left alone.

    Raises:
        OSError: EPERM when *sets* holds what this process's permitted set does not.
    """
    # First: the ambient set must never be outside of permitted and inheritable, and lowering those would trim it anyway.
    _libc.prctl(_libc.PR_CAP_AMBIENT, _libc.PR_CAP_AMBIENT_CLEAR_ALL)
    permitted = mask(sets.permitted)
    _libc.capset(permitted, permitted, mask(sets.inheritable))
    for name in sorted(sets.ambient):
        _libc.prctl(_libc.PR_CAP_AMBIENT, _libc.PR_CAP_AMBIENT_RAISE, NUMBERS[name])


@contextmanager
def lowered(*lowered_names: str) -> Iterator[bool]:
    """Take *lowered_names* out of this thread's effective set meanwhile; yields whether any of them was there."""
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
