"""A finding of doctor: its level, what it costs the user, and what repairs it. Values only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from unionfs._stdlib.dataclasses import dataclass, field

Level = Literal["ok", "note", "warning", "failure"]

LEVELS: tuple[Level, ...] = ("ok", "note", "warning", "failure")
"""From good to bad. After a failure `sandbox up` does not work; after a warning some settings are refused or not enforced."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One finding. The meaning of an `id` never changes. *cost* and *remedy* are empty if nothing is missing.

    *facts* are the data behind the finding, as values for JSON. *details* are further lines for a reader, such as the diagnostics
    of a file. *explained_by* is the id of another check that has the cause, the cost and the remedy of this one too.
    """

    id: str
    level: Level
    summary: str
    cost: str = ""
    remedy: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    details: tuple[str, ...] = ()
    explained_by: str = ""

    def as_dict(self) -> dict[str, object]:
        """Return the finding for JSON. An empty cost, remedy or `explained_by` becomes null."""
        return {
            "id": self.id,
            "level": self.level,
            "summary": self.summary,
            "cost": self.cost or None,
            "remedy": self.remedy or None,
            "facts": dict(self.facts),
            "explained_by": self.explained_by or None,
        }


def would_work(checks: Iterable[Check]) -> bool:
    """Return whether `sandbox up` would work: no check is a failure."""
    return not any(check.level == "failure" for check in checks)


def shown_checks(checks: Iterable[Check]) -> list[Check]:
    """Return the *checks* that are shown to users: one for each cause."""
    return [check for check in checks if not check.explained_by]


def summary_line(checks: Iterable[Check], *, file: str | None) -> str:
    """Return a one-sentence summary of *checks*; *file* is the environment file that was examined, if any."""
    levels = [check.level for check in shown_checks(checks)]
    counts = [
        f"{levels.count(level)} {level if level == 'ok' or levels.count(level) == 1 else level + 's'}"
        for level in reversed(LEVELS)
        if level in levels
    ]
    command = "sandbox up" if file is None else f"sandbox up {file}"
    verdict = "would not work here" if "failure" in levels else "would work here"
    return f"`{command}` {verdict}: {', '.join(counts)}"
