"""Counts refusals, and decides which of them become a line of the log. Pure apart from the clock that it is given."""

from __future__ import annotations

from collections.abc import Callable

from unionfs._stdlib.dataclasses import dataclass, replace

PERIOD = 60.0
"""Seconds in which a destination is logged at most once, and `MOST_LINES` destinations at most."""

MOST_LINES = 60
"""A program that tries many destinations must not fill the log."""

LONGEST_TEXT = 4096
"""Characters of a reason or remedy. A list of thousands of rules would neither be read nor fit into a message to the supervisor."""


@dataclass(frozen=True, slots=True)
class RefusalLine:
    """What the log says about a refusal. *remedy* is the line of TOML that would allow it, "" if none would or it is too long."""

    destination: str
    reason: str
    remedy: str


class RefusalLog:
    """Passes refusals on to *on_line*, at most one per destination and period."""

    def __init__(self, on_line: Callable[[RefusalLine], None], clock: Callable[[], float]) -> None:
        """Call *on_line* with each line; *clock* returns seconds and never goes back."""
        self._on_line = on_line
        self._clock = clock
        self._logged: dict[str, float] = {}
        #: All refusals so far, logged or not.
        self.total = 0
        #: Refusals that were not logged because too many destinations were.
        self.not_logged = 0

    def add(self, line: RefusalLine) -> None:
        """Count the refusal *line*, and pass it on unless the destination was logged within the period."""
        self.total += 1
        now = self._clock()
        while self._logged:
            oldest = next(iter(self._logged))
            if now - self._logged[oldest] < PERIOD:
                break
            del self._logged[oldest]
        if line.destination in self._logged:
            return
        if len(self._logged) >= MOST_LINES:
            self.not_logged += 1
            return
        self._logged[line.destination] = now
        remedy = line.remedy if len(line.remedy) <= LONGEST_TEXT else ""
        self._on_line(replace(line, reason=line.reason[:LONGEST_TEXT], remedy=remedy))
