"""What a report is made from, and how to say where a value of it comes from. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from sandbox.errors import SandboxError
from sandbox.explain.report import DEFAULT, Origin
from sandbox.explain.surroundings import Surroundings
from sandbox.host.facts import HostFacts
from sandbox.host.paths import PathFact
from sandbox.plan import Draft, Kept, Plan, Variable, parse_variables
from sandbox.plan.kept import NOTHING_KEPT
from sandbox.spec.assignments import OPTIONS
from sandbox.spec.model import Spec
from sandbox.spec.settings import NOT_ENFORCED
from unionfs._stdlib.dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A specification, the machine that it is for, and the draft of its plan there."""

    spec: Spec
    draft: Draft
    facts: HostFacts
    paths: Mapping[str, PathFact]
    environ: Mapping[str, str]
    #: Where the state is kept; empty where it cannot be, which *state* says.
    state_directory: str
    state: SandboxError | None
    surroundings: Surroundings
    #: What is kept in the state directory that the file would use.
    kept: Kept = NOTHING_KEPT

    @property
    def plan(self) -> Plan:
        """The plan, as far as it goes."""
        return self.draft.plan

    @property
    def is_nobody(self) -> bool:
        """Whether nobody on this machine has the sandbox's ids, as root of it maps them: not its own, unless told to."""
        return self.facts.is_real_root and all(entry.outside != 0 for entry in self.plan.ids.uid_map)

    def origin(self, *keys: str) -> Origin:
        """Return where the first of *keys* that is set is set; the default, if none is."""
        for key in keys:
            place = self.spec.origin(key)
            if place is not None:
                return Origin(
                    kind="command line" if place.file in OPTIONS else "file",
                    file=place.file,
                    line=place.line,
                    column=place.column,
                )
        return DEFAULT

    def decided_here(self, reason: str, *keys: str) -> Origin:
        """Return the origin of a value that this machine decided, and where the file asked for it to."""
        return self.origin(*keys).because("machine", reason)

    def effective(self, *keys: str) -> Origin:
        """Return the origin of what is in effect for *keys*: where it is set, or why that is not in effect."""
        for key in keys:
            for diagnostic in self.spec.unenforced:
                # The whole table may be what is not enforced.
                if (key + ".").startswith((diagnostic.key + ".", diagnostic.key + "[")):
                    told = diagnostic.message.replace(NOT_ENFORCED, "not enforced")
                    return self.origin(key).because("version", told)
            reason = self.differs(key) or self.refused(key)
            if reason is not None:
                return self.decided_here(reason, key)
        return self.origin(*keys)

    def refused(self, key: str) -> str | None:
        """Return why `up` refuses *key*; None if it does not."""
        return next((item.message for item in self.draft.refusals if item.key == key), None)

    def variables(self) -> Mapping[str, Variable]:
        """Return what process.env_file sets, by name; of two lines for one name the later one counts."""
        fact = self.paths.get(self.spec.process.env_file or "")
        if fact is None or fact.content is None:
            return {}
        return {variable.name: variable for variable in parse_variables(fact.content, fact.path)[0]}

    def differs(self, key: str) -> str | None:
        """Return why *key* will not be as the file has it; None if it will be."""
        for difference in self.plan.differences:
            if difference.key == key:
                return difference.reason
        return None
