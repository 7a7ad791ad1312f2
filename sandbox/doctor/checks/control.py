"""Check cgroups, and the session that delegates them to a user."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sandbox.doctor.check import Check, Level
from sandbox.doctor.checks.needs import Needs
from sandbox.doctor.facts import CgroupFacts, MachineFacts, SessionFacts
from sandbox.host.facts import HostFacts

SETTINGS: Mapping[str, tuple[str, ...]] = {
    "memory": ("memory",),
    "memory_high": ("memory_high",),
    "swap": ("swap",),
    "pids": ("pids",),
    "cpu": ("cpus", "cpu_weight"),
    "io": ("io",),
    "cpuset": ("cpuset",),
}
"""Name of a probe -> the settings in [limits] that depend on it."""

_LOG_IN = (
    "log in as {user} (ssh, or as root: machinectl shell {user}@), or as root: loginctl enable-linger {user}"
)
_PACKAGE = "; on Debian its bus takes the package dbus-user-session"


def check_control(facts: HostFacts, machine: MachineFacts, needs: Needs) -> list[Check]:
    """Return the checks `cgroups`, `cgroups.NAME` and `session`, and, if systemd is running, `linger`."""
    found = machine.cgroups
    remedy = _remedy(facts, found, machine.session)
    checks = [_hierarchy(facts, found, needs, remedy)]
    checks += [
        _controller(name, facts, found, needs, remedy) for name in SETTINGS if name in found.controllers
    ]
    checks.append(_session(facts, machine.session))
    if machine.session.lingers is not None:
        checks.append(_linger(facts, machine.session))
    return checks


_MODES = {
    "none": "no cgroup file system is mounted",
    "v1": "cgroups version 1",
    "v2": "cgroups version 2",
    "hybrid": "cgroups versions 1 and 2",
}


def _hierarchy(facts: HostFacts, found: CgroupFacts, needs: Needs, remedy: str) -> Check:
    level, hierarchy = facts.cgroup_levels[0]
    version = hierarchy.version
    evidence: dict[str, Any] = {"mode": found.mode, "version": version, "level": level}
    mounted = _MODES[found.mode]
    if version == 0:
        reasons = [reason for reason in found.controllers.values() if reason is not None]
        # The remedy names the cause for this machine.
        reason = reasons[0] if reasons and found.mode != "none" else ""
        return Check(
            id="cgroups",
            level="failure" if needs.limits else "warning",
            summary=f"{mounted}: no cgroup can be created here" + (f": {reason}" if reason else ""),
            cost=(
                "limits.memory, memory_high, swap, cpus, cpu_weight, cpuset, pids and io cannot be enforced: `up` refuses a file "
                "that asks for one of them unless limits.optional lists it"
            ),
            remedy=remedy,
            facts=evidence,
        )
    if found.problem is not None:
        return Check(
            id="cgroups",
            level="failure" if needs.limits else "warning",
            summary=f"{mounted}: creating a cgroup failed: {found.problem}",
            cost="`up` fails for a file with limits",
            facts=evidence,
        )
    if level == "scope":
        summary = f"{mounted}: systemd gives each sandbox with limits a cgroup of its own (a transient scope)"
        return Check(id="cgroups", level="ok", summary=summary, facts=evidence)
    used = f"; sandboxes use version {version}" if found.mode == "hybrid" else ""
    return Check(
        id="cgroups", level="ok", summary=f"{mounted}{used}: cgroups can be created here", facts=evidence
    )


def _controller(name: str, facts: HostFacts, found: CgroupFacts, needs: Needs, remedy: str) -> Check:
    settings = [f"limits.{setting}" for setting in SETTINGS[name]]
    shown, plural = " and ".join(settings), len(settings) > 1
    problem = found.controllers[name]
    evidence: dict[str, Any] = {"settings": settings, "problem": problem}
    identity = f"cgroups.{name}"
    if problem is None:
        return Check(id=identity, level="ok", summary=f"{shown} can be enforced", facts=evidence)
    level: Level = "failure" if name in needs.controllers else "warning"
    if facts.cgroup_levels[0][1].version == 0:
        # The check of the hierarchy has the cause, the cost and the remedy.
        summary = f"{shown} cannot be enforced: no cgroup can be created"
        return Check(id=identity, level=level, summary=summary, facts=evidence, explained_by="cgroups")
    them, they = ("them", "they are") if plural else ("it", "it is")
    return Check(
        id=identity,
        level=level,
        summary=f"{shown} cannot be enforced: {problem}",
        cost=f"`up` refuses a file that asks for {them} unless {they} optional",
        remedy=_controller_remedy(name, problem, remedy),
        facts=evidence,
    )


def _controller_remedy(name: str, problem: str, remedy: str) -> str:
    if "swapaccount" in problem:
        return (
            "boot with swapaccount=1 on the kernel's command line (GRUB_CMDLINE_LINUX of /etc/default/grub)"
        )
    if name == "swap" and "together with memory" in problem:
        return "set limits.memory as well"
    if "cgroups version 1" in problem:
        return "boot with cgroups version 2 (systemd.unified_cgroup_hierarchy=1 on the kernel's command line)"
    return remedy


def _remedy(facts: HostFacts, found: CgroupFacts, session: SessionFacts) -> str:
    """Return how this user gets cgroups of its own, or the controllers that are missing in them."""
    user = facts.user_name or str(facts.uid)
    if found.mode == "none":
        if session.place == "container":
            return "start the container with a cgroup namespace: --cgroupns private (podman, docker)"
        return "as root: mount -t cgroup2 none /sys/fs/cgroup"
    if session.place == "systemd":
        return _remedy_of_systemd(facts, found, session, user)
    if session.place == "container":
        return "start the container on cgroups version 2 with --cgroupns private and /sys/fs/cgroup writable"
    if found.mode == "v2":
        return (
            f"as root: mkdir /sys/fs/cgroup/{user} && chown -R {user} /sys/fs/cgroup/{user} && "
            f"echo '+memory +cpu +pids' > /sys/fs/cgroup/cgroup.subtree_control && "
            f"echo PID-OF-THE-SHELL > /sys/fs/cgroup/{user}/cgroup.procs"
        )
    return (
        f"as root: for c in memory cpu cpuacct pids; do mkdir /sys/fs/cgroup/$c/{user}; chown -R {user} /sys/fs/cgroup/$c/{user}; "
        f"echo PID-OF-THE-SHELL > /sys/fs/cgroup/$c/{user}/cgroup.procs; done"
    )


def _remedy_of_systemd(facts: HostFacts, found: CgroupFacts, session: SessionFacts, user: str) -> str:
    if found.mode != "v2":
        return "boot with systemd.unified_cgroup_hierarchy=1: systemd delegates cgroups of version 2 only"
    if facts.uid == 0:
        return "" if session.manager is None else "as root: systemctl start dbus.socket"
    if session.manager is not None:
        return _log_in(user, session)
    if facts.cgroup_levels[0][1].version == 0:
        return f"as root: systemctl restart user@{facts.uid}.service (this ends {user}'s sessions)"
    return (
        "as root: mkdir -p /etc/systemd/system/user@.service.d && "
        "printf '[Service]\\nDelegate=cpu cpuset io memory pids\\n' > /etc/systemd/system/user@.service.d/delegate.conf && "
        f"systemctl daemon-reload && systemctl restart user@{facts.uid}.service (this ends {user}'s sessions)"
    )


def _log_in(user: str, session: SessionFacts) -> str:
    return _LOG_IN.format(user=user) + (_PACKAGE if session.debian else "")


def _session(facts: HostFacts, session: SessionFacts) -> Check:
    evidence = {"place": session.place, "manager": session.manager}
    if session.place != "systemd":
        where = "this is a container" if session.place == "container" else "systemd does not run here"
        return Check(
            id="session",
            level="note",
            summary=f"{where}: no service manager delegates cgroups to accounts",
            cost="" if facts.uid == 0 else "an ordinary account has only cgroups that root delegates to it",
            facts=evidence,
        )
    whose = "systemd" if facts.uid == 0 else "the account's service manager"
    if session.manager is not None:
        user = facts.user_name or str(facts.uid)
        return Check(
            id="session",
            level="note",
            summary=f"{whose} cannot be reached: {session.manager}",
            cost="sandboxes that are started from here get no cgroups",
            remedy="as root: systemctl start dbus.socket" if facts.uid == 0 else _log_in(user, session),
            facts=evidence,
        )
    return Check(
        id="session",
        level="ok",
        summary=f"{whose} responds: it can create cgroups for sandboxes",
        facts=evidence,
    )


def _linger(facts: HostFacts, session: SessionFacts) -> Check:
    if session.lingers:
        return Check(
            id="linger", level="ok", summary="processes of the account may continue after its last session"
        )
    return Check(
        id="linger",
        level="note",
        summary="lingering is not enabled for the account",
        cost="sandboxes in scopes of its service manager end with its last session",
        remedy=f"loginctl enable-linger {facts.user_name or facts.uid}",
    )
