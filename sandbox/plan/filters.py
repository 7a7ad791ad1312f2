"""Plan the seccomp filter and the Landlock rules of the program."""

from __future__ import annotations

from collections.abc import Mapping

from sandbox.host.facts import HostFacts
from sandbox.host.paths import PathFact
from sandbox.kernel.landlock import LINUX, NEEDED, SCOPED, Rules, lacking
from sandbox.plan.findings import Findings
from sandbox.plan.values import SeccompPlan
from sandbox.seccomp.builtin import NO_LEASES, default_filter
from sandbox.seccomp.calls import KNOWN
from sandbox.seccomp.values import MACHINES, Filter, changed
from sandbox.spec.model import Spec
from sandbox.spec.notation import guesses, quote, shown
from sandbox.spec.tables import Seccomp
from unionfs._stdlib.dataclasses import replace

_KEY = "security.seccomp"
_UNCONFINED = 'allow the sandbox to run without a filter: optional = ["seccomp"] in [security]'


def seccomp_profile(spec: Spec) -> str | None:
    """Return the path of the seccomp profile that *spec* names; None if it names none."""
    profile = _requested(spec).profile
    return profile if "/" in profile else None


def _requested(spec: Spec) -> Seccomp:
    requested = spec.security.seccomp
    return Seccomp(profile=requested) if isinstance(requested, str) else requested


def plan_seccomp(
    spec: Spec,
    facts: HostFacts,
    paths: Mapping[str, PathFact],
    capabilities: frozenset[str],
    findings: Findings,
) -> SeccompPlan | None:
    """Plan the seccomp filter for a program that may have *capabilities*; return None if it gets no filter."""
    requested = _requested(spec)
    if requested.profile == "unconfined" and not requested.deny:
        return None
    lack = _missing_support(facts, log=requested.log)
    if lack is not None:
        reason, hint = lack
        if "seccomp" in spec.security.optional:
            findings.degrade(_KEY, None, reason)
        else:
            findings.refuse(_KEY, f"cannot be enforced here: {reason}", f"{hint}, or {_UNCONFINED}")
        return None
    base = _base(spec, requested.profile, facts, paths, capabilities, findings)
    _refuse_unknown(requested, findings)
    if base is None:
        return None
    return SeccompPlan(
        profile=requested.profile,
        filter=changed(base, requested.allow, requested.deny),
        allow=requested.allow,
        deny=requested.deny,
        log=requested.log,
    )


def _missing_support(facts: HostFacts, *, log: bool) -> tuple[str, str] | None:
    """Return the reason why no filter is possible on this machine, and a hint; None if one is."""
    if "errno" not in facts.seccomp_actions:
        return "this kernel has no seccomp filters", "boot a kernel with CONFIG_SECCOMP_FILTER"
    if log and "log" not in facts.seccomp_actions:
        return "this kernel cannot log denied system calls", "remove log = true"
    if facts.machine not in MACHINES:
        return (
            f"seccomp filters are not supported on the architecture {facts.machine}",
            "start it on a machine of another architecture",
        )
    if facts.libseccomp is None:
        install = "as root: apt-get install libseccomp2 (elsewhere the package is libseccomp)"
        return "libseccomp, which compiles seccomp filters, is not installed", install
    return None


def _base(
    spec: Spec,
    profile: str,
    facts: HostFacts,
    paths: Mapping[str, PathFact],
    capabilities: frozenset[str],
    findings: Findings,
) -> Filter | None:
    machine = MACHINES[facts.machine]
    if profile == "default":
        return default_filter(machine, capabilities)
    if profile == "unconfined":
        return Filter(default=0x7FFF0000, architectures=machine.others, rules=())
    key = _KEY if isinstance(spec.security.seccomp, str) else f"{_KEY}.profile"
    fact = paths[profile]
    if fact.content is None:
        reason = fact.reason or f"is a {fact.kind}, not a file"
        hint = fact.remedy or "name a JSON profile in the format of docker and podman"
        findings.refuse(key, f"{profile}: {reason}", hint)
        return None
    from sandbox.seccomp.profile import ProfileError, parse_profile  # most files name none

    try:
        parsed = parse_profile(fact.content, machine, capabilities, facts.kernel_version)
    except ProfileError as error:
        findings.refuse(key, f"{profile}: {error}", "correct the profile, or remove the setting")
        return None
    return replace(parsed, forbidden=(*parsed.forbidden, *NO_LEASES))


def _refuse_unknown(requested: Seccomp, findings: Findings) -> None:
    guess = guesses()
    for key in ("allow", "deny"):
        for number, name in enumerate(getattr(requested, key)):
            if name not in KNOWN:
                meant = guess(name, KNOWN)
                hint = f"did you mean {quote(meant)}?" if meant else "syscalls(2) lists them"
                findings.refuse(f"{_KEY}.{key}[{number}]", f"there is no system call {shown(name)}", hint)


def plan_landlock(spec: Spec, facts: HostFacts, findings: Findings) -> Rules | None:
    """Plan the Landlock rules: all that the file asks for, or none (None)."""
    requested = spec.security.landlock
    if requested is None:
        return None
    rules = Rules(
        read=requested.read,
        write=requested.write,
        execute=requested.execute,
        connect=requested.connect,
        bind=requested.bind,
        scoped=facts.landlock >= SCOPED,
    )
    missing = lacking(rules, facts.landlock)
    if not missing and facts.landlock:
        return rules
    have = (
        f"has version {facts.landlock}" if facts.landlock else "has no Landlock, or it was disabled at boot"
    )
    allowed = "landlock" in spec.security.optional
    remedy = (
        'allow the sandbox to run without: optional = ["landlock"] in [security]; Landlock is enabled with '
        "lsm=landlock,... on the kernel's command line"
    )
    if allowed or not missing:
        needed = max((NEEDED[kind] for kind in missing), default=1)
        reason = f"needs version {needed} of the Landlock ABI (Linux {LINUX[needed]}), and this kernel {have}"
        if allowed:
            findings.degrade("security.landlock", None, reason)
        else:
            findings.refuse("security.landlock", reason, remedy)
        return None
    for kind in missing:
        needed = NEEDED[kind]
        message = (
            f"needs version {needed} of the Landlock ABI (Linux {LINUX[needed]}), and this kernel {have}"
        )
        findings.refuse(f"security.landlock.{kind}", message, f"remove it, or {remedy}")
    return None
