"""Make the facts about seccomp filters and Landlock rules."""

from __future__ import annotations

from collections.abc import Iterator

from sandbox.explain.case import Case
from sandbox.explain.report import Fact
from sandbox.kernel.landlock import SCOPED
from sandbox.plan import SeccompPlan
from sandbox.seccomp.calls import DENIED
from sandbox.spec.notation import joined
from sandbox.spec.tables import Seccomp

SECCOMP = "security.seccomp"

_KINDS = {
    "read": ("files below {} only", "no file"),
    "write": ("files below {} only", "no file"),
    "execute": ("programs below {} only", "no program"),
    "connect": ("to TCP port {} only", "to no TCP port"),
    "bind": ("to TCP port {} only", "to no TCP port"),
}


def seccomp_facts(case: Case) -> Iterator[Fact]:
    """Yield facts about the seccomp profile and the changes to it."""
    plan = case.plan.process.seccomp
    keys = (SECCOMP,) if isinstance(case.spec.security.seccomp, str) else (f"{SECCOMP}.profile",)
    if plan is None:
        yield Fact(
            label="seccomp",
            text="no filter: every system call reaches the kernel",
            value=None,
            origin=case.effective(SECCOMP),
            keys=(SECCOMP,),
        )
        return
    yield Fact(
        label="seccomp",
        text=_profile_text(plan, case.plan.process.capabilities),
        value={
            "profile": plan.profile,
            "allow": list(plan.allow),
            "deny": list(plan.deny),
            "log": plan.log,
            "denied": _denied_kinds(case.plan.process.capabilities) if plan.profile == "default" else None,
        },
        origin=case.origin(*keys, SECCOMP),
        keys=keys,
        notes=_notes(plan),
    )
    texts = {"allow": "allowed, with any arguments", "deny": "denied, with EPERM"}
    for key, text in texts.items():
        for number, name in enumerate(getattr(plan, key)):
            where = f"{SECCOMP}.{key}[{number}]"
            yield Fact(
                label=f"{name}()",
                text=text,
                value=key,
                origin=case.origin(where, f"{SECCOMP}.{key}"),
                keys=(where,),
            )
    if isinstance(case.spec.security.seccomp, Seccomp) and case.spec.is_set(f"{SECCOMP}.log"):
        where = f"{SECCOMP}.log"
        yield Fact(
            label="denied calls",
            text="are allowed and logged" if plan.log else "fail, and are not logged",
            value=plan.log,
            origin=case.origin(where),
            keys=(where,),
        )


def _notes(plan: SeccompPlan) -> tuple[str, ...]:
    notes: tuple[str, ...] = ("system calls of x32 and of other architectures fail with ENOSYS",)
    if plan.profile != "unconfined" and "fcntl" not in plan.allow:
        notes += ("file leases (F_SETLEASE), which can block other processes, fail with EACCES",)
    return notes


def _profile_text(plan: SeccompPlan, allowed: frozenset[str]) -> str:
    if plan.profile == "unconfined":
        return "no profile: only the calls below are denied"
    if plan.profile != "default":
        return f"defined by {plan.profile}"
    kinds = _denied_kinds(allowed)
    named = [kind for kind in _NAMED_KINDS if kind in kinds]
    return f"built-in profile: denies {', '.join(named)}, and {len(kinds) - len(named)} more kinds of calls"


_NAMED_KINDS = (
    "new namespaces",
    "mounts",
    "the kernel's keyrings",
    "io_uring",
    "programs in the kernel (bpf)",
    "input injection into terminals",
    "sockets other than unix, IP, netlink and packet",
)
"""The kinds of denied calls that `text` names for people. `value`, for programs, has all kinds."""


def _denied_kinds(allowed: frozenset[str]) -> list[str]:
    """Return the kinds of calls that the built-in profile denies to a program with the capabilities *allowed*."""
    namespaces = [] if "SYS_ADMIN" in allowed else ["new namespaces"]
    kinds = [denied.why for denied in DENIED if denied.capability not in allowed]
    return [
        *namespaces,
        *kinds,
        "input injection into terminals",
        "sockets other than unix, IP, netlink and packet",
    ]


def landlock_facts(case: Case) -> Iterator[Fact]:
    """Yield a fact for each kind of access that the Landlock rules restrict."""
    requested, rules = case.spec.security.landlock, case.plan.process.landlock
    key = "security.landlock"
    if rules is None:
        yield Fact(
            label="landlock",
            text="no rules",
            value=None,
            origin=case.effective(
                *(f"{key}.{kind}" for kind in _KINDS if case.refused(f"{key}.{kind}")), key
            ),
            keys=(key,),
        )
        return
    assert requested is not None
    scoped = "the program can neither signal processes outside nor connect to their abstract sockets"
    less = f"signals and abstract sockets are not restricted: that needs version {SCOPED} of Landlock"
    yield Fact(
        label="landlock",
        text=scoped if rules.scoped else less,
        value=rules.scoped,
        origin=case.origin(key),
        keys=() if rules.kinds() else (key,),
    )
    for kind in rules.kinds():
        where = f"{key}.{kind}"
        value = list(getattr(rules, kind))
        some, none = _KINDS[kind]
        yield Fact(
            label=f"may {kind}",
            text=f"{some.format(joined(map(str, value)))}, in addition to file permissions"
            if value
            else none,
            value=value,
            origin=case.origin(where),
            keys=(where,),
        )
