"""A filter of system calls as values. The actions are the SECCOMP_RET_* values of the kernel; see seccomp(2)."""

from __future__ import annotations

import errno
from collections.abc import Mapping

from unionfs._stdlib.dataclasses import dataclass
from unionfs._stdlib.hashlib import sha256

KILL_PROCESS = 0x80000000
KILL_THREAD = 0x00000000
TRAP = 0x00030000
ERRNO = 0x00050000
TRACE = 0x7FF00000
LOG = 0x7FFC0000
ALLOW = 0x7FFF0000

FORMAT = 1
"""Version of the compiled programs. Increase it to make all cached programs invalid although their filters are the same."""


def fail(number: int) -> int:
    """Return the action that makes a call fail with errno *number*."""
    return ERRNO | number


NOT_THERE = fail(errno.ENOSYS)
"""The call fails as on a kernel that does not have it, so callers fall back to older calls."""

REFUSED = fail(errno.EPERM)


def lets_through(action: int) -> bool:
    """Return whether a call with this action is executed by the kernel."""
    return action & 0xFFFF0000 in (ALLOW, LOG)


@dataclass(frozen=True, slots=True)
class Machine:
    """An architecture: its names in libseccomp and Go, and the other architectures whose programs it can run."""

    native: str
    go: str
    others: tuple[str, ...] = ()


MACHINES: Mapping[str, Machine] = {
    "x86_64": Machine("X86_64", "amd64", ("X86",)),
    "aarch64": Machine("AARCH64", "arm64", ("ARM",)),
    "riscv64": Machine("RISCV64", "riscv64"),
    "ppc64le": Machine("PPC64LE", "ppc64le"),
    "s390x": Machine("S390X", "s390x", ("S390",)),
    "loongarch64": Machine("LOONGARCH64", "loong64"),
    "i686": Machine("X86", "386"),
    "armv7l": Machine("ARM", "arm"),
}
"""The key is the machine name of uname(2). x32 is left out on purpose: it has the same calls under other numbers, and Debian's
kernels disable it. A call of an architecture that a filter does not name is NOT_THERE."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """A condition on one argument: `argument OP value`, or, for MASKED_EQ, `argument & value == masked`."""

    index: int
    op: str  # NE LT LE EQ GE GT MASKED_EQ
    value: int
    masked: int = 0


@dataclass(frozen=True, slots=True)
class Rule:
    """The action for the calls *names* if their arguments meet all *conditions*."""

    action: int
    names: tuple[str, ...]
    conditions: tuple[Comparison, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """A whole filter: *forbidden* is evaluated first, then *rules*; a call that neither names gets *default*.

    Among the rules of one call, a rule without conditions takes precedence over rules with conditions, in any order. Of two rules
    with the same conditions, the earlier one applies. libseccomp works like this, and so do the engines whose profiles are read.
    """

    default: int
    #: Architectures beside the machine's own, by libseccomp's names.
    architectures: tuple[str, ...]
    rules: tuple[Rule, ...]
    forbidden: tuple[Rule, ...] = ()

    def digest(self) -> str:
        """Return a hash that identifies this filter."""
        return sha256(repr((FORMAT, self)).encode()).hexdigest()

    def without(self, names: frozenset[str]) -> Filter:
        """Return this filter without its rules for *names*."""
        return Filter(
            default=self.default,
            architectures=self.architectures,
            rules=tuple(filter(None, (_without(rule, names) for rule in self.rules))),
            forbidden=tuple(filter(None, (_without(rule, names) for rule in self.forbidden))),
        )


def _without(rule: Rule, names: frozenset[str]) -> Rule | None:
    left = tuple(name for name in rule.names if name not in names)
    return Rule(rule.action, left, rule.conditions) if left else None


def changed(base: Filter, allow: tuple[str, ...], deny: tuple[str, ...]) -> Filter:
    """Return *base* with *allow* allowed and *deny* refused, regardless of its own rules for them; *deny* takes precedence."""
    result = base.without(frozenset(allow) | frozenset(deny))
    rules, forbidden = list(result.rules), list(result.forbidden)
    allowed = tuple(name for name in allow if name not in deny)
    if allowed:
        rules.append(Rule(ALLOW, allowed))
    if deny:
        forbidden.append(Rule(REFUSED, deny))
    return Filter(
        default=base.default,
        architectures=base.architectures,
        rules=tuple(rules),
        forbidden=tuple(forbidden),
    )
