"""What is said about one thing: how bad it is, what it costs, and what mends it. Values only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from unionfs._stdlib.dataclasses import dataclass, field

Level = Literal["ok", "note", "warning", "failure"]

LEVELS: tuple[Level, ...] = ("ok", "note", "warning", "failure")
"""From good to bad. With a failure `sandbox up` does not work; with a warning some settings are refused or unenforced."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One finding. `id` never changes its meaning; *cost* and *remedy* are empty where nothing is lacking.

    *facts* is what the finding rests on, as far as JSON can carry it. *details* are further lines for a reader, such as
    diagnostics of a file. *explained_by* is the id of the check that says for this one, too, why, what it costs and what mends it.
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
        """Return the finding for JSON; a cost or remedy that there is none of is null, and so is `explained_by`."""
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
    """Tell whether `sandbox up` would work: no check is a failure."""
    return not any(check.level == "failure" for check in checks)


def told(checks: Iterable[Check]) -> list[Check]:
    """Return those of *checks* that are told to people: one for each cause."""
    return [check for check in checks if not check.explained_by]


def summary_line(checks: Iterable[Check], *, file: str | None) -> str:
    """Return the sentence that sums *checks* up; *file* is the environment file that they were made for."""
    levels = [check.level for check in told(checks)]
    counts = [
        f"{levels.count(level)} {level if level == 'ok' or levels.count(level) == 1 else level + 's'}"
        for level in reversed(LEVELS)
        if level in levels
    ]
    command = "sandbox up" if file is None else f"sandbox up {file}"
    verdict = "would not work here" if "failure" in levels else "would work here"
    return f"`{command}` {verdict}: {', '.join(counts)}"
