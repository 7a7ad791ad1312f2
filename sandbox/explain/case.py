"""Define the input of a report, and find the origins of its values. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from sandbox.errors import SandboxError
from sandbox.explain.report import DEFAULT, Origin
from sandbox.explain.surroundings import Surroundings
from sandbox.host.facts import HostFacts
from sandbox.host.paths import PathFact
from sandbox.plan import Draft, PersistentState, Plan, Variable, parse_variables
from sandbox.plan.persistent_state import NO_PERSISTENT_STATE
from sandbox.spec.assignments import OPTIONS
from sandbox.spec.model import Spec
from sandbox.spec.settings import NOT_ENFORCED
from unionfs._stdlib.dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """The input of a report: a specification, facts about this machine, and the draft of the plan for it."""

    spec: Spec
    draft: Draft
    facts: HostFacts
    paths: Mapping[str, PathFact]
    environ: Mapping[str, str]
    #: The state directory; empty if it cannot be used. Then *state* is the error.
    state_directory: str
    state: SandboxError | None
    surroundings: Surroundings
    #: The persistent layers and named volumes in the state directory that the file may use.
    persistent: PersistentState = NO_PERSISTENT_STATE

    @property
    def plan(self) -> Plan:
        """Return the plan of the draft, which lacks the refused settings."""
        return self.draft.plan

    @property
    def uses_unowned_ids(self) -> bool:
        """Tell whether no user of this machine has the sandbox's ids: root starts it, and does not map its own uid into it."""
        return self.facts.is_real_root and all(entry.outside != 0 for entry in self.plan.ids.uid_map)

    def origin(self, *keys: str) -> Origin:
        """Return the origin of the first of *keys* that is set, by the file or by an image, or DEFAULT if none is."""
        for key in keys:
            place = self.spec.origin(key)
            if place is not None:
                return Origin(
                    kind="command line" if place.file in OPTIONS else "file",
                    file=place.file,
                    line=place.line,
                    column=place.column,
                )
            if (image := self.spec.image_values.get(key)) is not None:
                return Origin(kind="image", reason=image)
        return DEFAULT

    def decided_here(self, reason: str, *keys: str) -> Origin:
        """Return the origin of a value that depends on this machine, with the place in the file that requests it, if any."""
        return self.origin(*keys).because("machine", reason)

    def effective(self, *keys: str) -> Origin:
        """Return the origin of the effective value of *keys*: the place that sets it, or the reason why it is not in effect."""
        for key in keys:
            for diagnostic in self.spec.unenforced:
                # The diagnostic may be about the whole table.
                if (key + ".").startswith((diagnostic.key + ".", diagnostic.key + "[")):
                    message = diagnostic.message.replace(NOT_ENFORCED, "not enforced")
                    return self.origin(key).because("version", message)
            reason = self.differs(key) or self.refused(key)
            if reason is not None:
                return self.decided_here(reason, key)
        return self.origin(*keys)

    def refused(self, key: str) -> str | None:
        """Return the reason why `up` refuses *key*, or None if it does not."""
        return next((item.message for item in self.draft.refusals if item.key == key), None)

    def variables(self) -> Mapping[str, Variable]:
        """Return the variables that process.env_file sets, by name. Of two lines for one name the later one counts."""
        fact = self.paths.get(self.spec.process.env_file or "")
        if fact is None or fact.content is None:
            return {}
        return {variable.name: variable for variable in parse_variables(fact.content, fact.path)[0]}

    def differs(self, key: str) -> str | None:
        """Return the reason why the effective value of *key* differs from the file, or None if it does not."""
        for difference in self.plan.differences:
            if difference.key == key:
                return difference.reason
        return None
