"""Determine what a start needs: the requirements of an environment file, or the defaults without one."""

from __future__ import annotations

from sandbox.doctor.check import Check
from sandbox.host.facts import HostFacts
from sandbox.kernel.cgroups.base import CONTROLLER_OF
from sandbox.plan import Plan
from unionfs._stdlib.dataclasses import dataclass, replace

ALWAYS = frozenset(("mount", "net", "ipc"))
"""Namespaces that every start needs: the file system server makes itself a network and an ipc namespace too."""

ALL = ALWAYS | {"pid", "uts", "cgroup"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What a start needs. *limits* are the limits that cgroups enforce, by their names in [limits]."""

    single_id: bool
    namespaces: frozenset[str] = ALL
    private_net: bool = True
    terminal: bool = False
    limits: frozenset[str] = frozenset()
    #: A seccomp filter, which is a default; and Landlock rules, which are not.
    seccomp: bool = True
    landlock: bool = False
    #: The server with pyfuse3, which must be requested in the file.
    pyfuse3: bool = False
    #: The root needs the file system server for certain; it does not if it can be a direct bind.
    served: bool = True

    @property
    def controllers(self) -> frozenset[str]:
        """Return the names, as in sandbox.doctor.probes.control, of the probes that the limits need."""
        names = {CONTROLLER_OF[limit] for limit in self.limits}
        return frozenset(names | ({"swap", "memory_high"} & self.limits))


def default_needs(facts: HostFacts) -> Needs:
    """Return the needs of a minimal file: it has a whole id map if *facts* allow that."""
    return Needs(single_id=facts.whole_maps() is None)


def needs_of(plan: Plan) -> Needs:
    """Return the needs of *plan*."""
    return Needs(
        single_id=plan.ids.single,
        namespaces=ALWAYS | (plan.namespaces & (ALL | {"time"})),
        private_net="net" in plan.namespaces,
        terminal=plan.process.terminal,
        limits=frozenset(plan.cgroup.given()),
        seccomp=plan.process.seccomp is not None,
        landlock=plan.process.landlock is not None,
        pyfuse3=plan.server == "pyfuse3",
        served=plan.bound is None,
    )


def as_needed(check: Check, needs: Needs) -> Check:
    """Return *check*, which concerns serving a root, as a failure only if a root is served for certain, else as a warning."""
    if needs.served or check.level != "failure":
        return check
    cost = "only sandboxes with a direct bind of the root start, which depends on the content of the layer"
    return replace(check, level="warning", cost=cost)
