"""Record when each step of a start was done: in nanoseconds of CLOCK_MONOTONIC in the host's time namespace.

The supervisor marks its own steps. Process 1 and the server send their times inside messages that they send anyway. If process 1
has a time namespace (`namespaces.time`), it subtracts the clock's offset.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence

#: The phase that ends with each mark, in the order of a start.
_PHASES = {
    "imported": "interpreter, command line",
    "read": "environment file",
    "planned": "this machine, plan",
    "prepared": "layers, filters, cgroup",
    "namespaces": "namespaces",
    "mounted": "root mounted",
    "settled": "other mounts",
    "started": "program executed",
    "ended": "program ran",
    "gone": "clean-up",
}
#: The phases of the server, which starts when the launcher has finished its imports.
_OF_SERVER = {
    "loaded": "server: interpreter, imports",
    "asked": "server: waited for the layers",
    "ready": "server: confined, layers opened",
}
_SPAWNED = "imported"


class Timeline:
    """The marks of one start. The command creates it; the supervisor adds most marks."""

    def __init__(self, begun: int) -> None:
        """Set the beginning of the start."""
        self._begun = begun
        self._marks: dict[str, int] = {}
        self._server: dict[str, int] = {}

    def mark(self, name: str, at: int = 0) -> None:
        """Record that the step *name* was done *at*, or now if *at* is 0. Later marks of the same step are ignored."""
        assert name in _PHASES, name
        self._marks.setdefault(name, at or time.monotonic_ns())

    def mark_server(self, times: Mapping[str, int]) -> None:
        """Record the server's times of "loaded", "asked" and "ready"."""
        self._server = {name: times[name] for name in _OF_SERVER if name in times}

    def phases(self) -> list[tuple[str, float]]:
        """Return each phase with its length in milliseconds. The server's phases come last; they run beside the others."""
        own = list(_lengths(self._begun, _PHASES, self._marks))
        return own + list(_lengths(self._marks.get(_SPAWNED, self._begun), _OF_SERVER, self._server))

    def as_list(self) -> list[dict[str, object]]:
        """Return the phases for JSON."""
        return [{"phase": name, "milliseconds": round(length, 3)} for name, length in self.phases()]

    def lines(self) -> Sequence[str]:
        """Return the phases as lines for the user."""
        found = self.phases()
        width = max((len(name) for name, _ in found), default=0)
        lines = [f"  {name:{width}} {length:8.1f} ms" for name, length in found]
        if "started" in self._marks:
            return [f"started in {(self._marks['started'] - self._begun) / 1e6:.0f} ms", *lines]
        return ["not started", *lines]


def _lengths(begun: int, names: Mapping[str, str], marks: Mapping[str, int]) -> Iterator[tuple[str, float]]:
    last = begun
    for name, phase in names.items():
        if name in marks:
            # A mark may be late: the message Started may arrive after the program has ended.
            at = max(last, marks[name])
            yield phase, (at - last) / 1e6
            last = at
