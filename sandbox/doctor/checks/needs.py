"""What a start depends on: what an environment file asks for, or the defaults where none was given."""

from __future__ import annotations

from sandbox.doctor.check import Check
from sandbox.host.facts import HostFacts
from sandbox.kernel.cgroups.base import CONTROLLER_OF
from sandbox.plan import Plan
from unionfs._stdlib.dataclasses import dataclass, replace

ALWAYS = frozenset(("mount", "net", "ipc"))
"""Namespaces without which nothing starts: the server of the file system makes itself a network and an ipc one, too."""

ALL = ALWAYS | {"pid", "uts", "cgroup"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What has to work. *limits* are the limits that cgroups hold, by their names in [limits]."""

    single_id: bool
    namespaces: frozenset[str] = ALL
    private_net: bool = True
    terminal: bool = False
    limits: frozenset[str] = frozenset()
    #: A filter of system calls, which the defaults have; and rules of Landlock, which they have not.
    seccomp: bool = True
    landlock: bool = False
    #: The server over pyfuse3, which a file has to ask for.
    pyfuse3: bool = False
    #: A root that is served for sure, as all are but those that can be bound.
    served: bool = True

    @property
    def controllers(self) -> frozenset[str]:
        """The checks of sandbox.doctor.probes.control that the limits depend on."""
        names = {CONTROLLER_OF[limit] for limit in self.limits}
        return frozenset(names | ({"swap", "memory_high"} & self.limits))


def default_needs(facts: HostFacts) -> Needs:
    """Return what the smallest file needs: its ids are a whole map where *facts* allow one."""
    return Needs(single_id=facts.whole_maps() is None)


def needs_of(plan: Plan) -> Needs:
    """Return what *plan* needs."""
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
    """Return *check*, of what serving a root takes, as a failure only where one is served for sure."""
    if needs.served or check.level != "failure":
        return check
    cost = "no sandbox starts but one whose root is bound, which depends on what its layer holds"
    return replace(check, level="warning", cost=cost)
