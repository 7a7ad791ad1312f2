"""Simulated machines: the results of probes as values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sandbox.doctor.check import Check
from sandbox.doctor.examine import check_machine
from sandbox.doctor.facts import (
    CgroupFacts,
    Failure,
    Leftovers,
    MachineFacts,
    NamespaceFacts,
    Obstacle,
    Probe,
    ProgramFacts,
    SecurityFacts,
    SessionFacts,
    StateFacts,
)
from sandbox.host.facts import HostFacts
from tests.unit.sandbox.facts import host

STEPS = (
    "unshare user",
    "id map",
    "unshare mount",
    "unshare net",
    "unshare ipc",
    "unshare uts",
    "unshare pid",
    "unshare time",
    "clock offsets",
    "open /dev/fuse",
    "chown",
    "unshare cgroup",
    "make private",
    "open devices",
    "mount tmpfs",
    "mount fuse",
    "mount proc",
    "mount sysfs",
    "build dev",
    "read-only paths",
    "masked paths",
    "pivot_root",
    "open a terminal",
    "sethostname",
    "loopback",
)
"""In the order of sandbox.doctor.probes.namespaces."""

CONTROLLERS = ("memory", "memory_high", "swap", "pids", "cpu", "io", "cpuset")
STATE_STEPS = ("make", "lock", "write", "link", "rename", "attribute", "mark", "whiteout")


class Hierarchy:
    """A simulated hierarchy with the members that the checks use."""

    def __init__(self, version: int) -> None:
        """Create a hierarchy of *version*, 0 for none."""
        self.version = version
        self.controllers: frozenset[str] = frozenset()

    def unenforceable(self, limits: Any) -> dict[str, str]:
        """Return no reasons: unenforceable limits are tested elsewhere."""
        return {}

    def file_of(self, name: str, limit: str) -> str:
        """Return the same file for every limit."""
        return f"/cgroup/sandbox-{name}/{limit}"


def probe(
    *, fails: dict[str, Failure] | None = None, last: str | None = None, problem: str | None = None
) -> Probe:
    """Return a probe in which all steps but *fails* succeeded; *last* is the last step that was reached."""
    steps: Sequence[str] = STEPS[: STEPS.index(last) + 1] if last else STEPS
    return Probe(attempts={step: (fails or {}).get(step) for step in steps}, problem=problem)


def namespaces(
    fails: dict[str, Failure] | None = None,
    last: str | None = None,
    problem: str | None = None,
    obstacle: Obstacle | None = None,
    *,
    single_only: bool = False,
) -> dict[str, Any]:
    """Return the results of namespace probes with both maps, or with *single_only*."""
    found = probe(fails=fails, last=last, problem=problem)
    return {
        "namespaces": NamespaceFacts(single=found, whole=None if single_only else found, obstacle=obstacle)
    }


def state_trial(**fails: Failure) -> Probe:
    """Return a probe of a state directory in which only the steps *fails* failed."""
    steps = STATE_STEPS[:1] if "make" in fails else STATE_STEPS
    return Probe(attempts={step: fails.get(step) for step in steps})


def session(**changes: Any) -> SessionFacts:
    """Return a Debian machine with systemd and a session of the account."""
    values: dict[str, Any] = {
        "place": "systemd",
        "debian": True,
        "manager": None,
        "lingers": True,
    }
    return SessionFacts(**{**values, **changes})


def state(**changes: Any) -> StateFacts:
    """Return a state directory on ext4 in which all steps succeed."""
    values: dict[str, Any] = {
        "path": "/home/user/.local/state/sandbox",
        "exists": True,
        "probe": state_trial(),
        "fstype": "ext4",
        "mount_options": ("rw", "relatime"),
        "free_bytes": 50 << 30,
        "free_inodes": 1_000_000,
    }
    return StateFacts(**{**values, **changes})


def run_directory(**changes: Any) -> StateFacts:
    """Return a run directory on ext4 in which all steps succeed."""
    return state(**{"path": "/var/tmp/sandbox-1000", **changes})


def cgroups(problems: dict[str, str] | None = None, **changes: Any) -> CgroupFacts:
    """Return cgroups of version 2 with all controllers delegated except those in *problems*."""
    values: dict[str, Any] = {
        "mode": "v2",
        "controllers": {name: (problems or {}).get(name) for name in CONTROLLERS},
    }
    return CgroupFacts(**{**values, **changes})


def machine(**changes: Any) -> MachineFacts:
    """Return the machine of an ordinary account on which all probes succeed."""
    values: dict[str, Any] = {
        "namespaces": NamespaceFacts(single=probe(), whole=probe()),
        "cgroups": cgroups(),
        "session": session(),
        "security": SecurityFacts(seccomp=None, libseccomp=True, landlock=7),
        "pasta": ProgramFacts(path="/usr/bin/pasta"),
        "slirp4netns": None,
        "nft": "/usr/sbin/nft",
        "server": ProgramFacts(path="/usr/bin/python3", version="pyfuse3 3.5.0, trio 0.35.0, Python 3.13.5"),
        "state": state(),
        "leftovers": Leftovers(),
        "mtab": True,
        "run": run_directory(),
        "free_subid": 231072,
    }
    return MachineFacts(**{**values, **changes})


def account(**changes: Any) -> HostFacts:
    """Return the facts of an ordinary account that has cgroups of version 2."""
    return host(**{"cgroups": Hierarchy(2), **changes})


def checks(facts: HostFacts | None = None, outcome: Any = None, **changes: Any) -> dict[str, Check]:
    """Check a machine with *changes*; return the checks by their id."""
    return {check.id: check for check in check_machine(facts or account(), machine(**changes), outcome)}


def shown(check: Check) -> tuple[str, str, str, str]:
    """Return the parts of *check* that are printed."""
    return (check.level, check.summary, check.cost, check.remedy)
