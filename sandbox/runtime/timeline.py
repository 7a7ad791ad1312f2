"""When the steps of a start were done, on one clock: CLOCK_MONOTONIC as this machine's processes see it, in nanoseconds.

The supervisor marks its own steps; process 1 and the server send theirs with what they say anyway. Process 1 may have a clock
of its own (`namespaces.time`) and takes the offset away.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence

#: What ends with each mark, in the order of a start.
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
#: Those of the server, which is started when everything is imported that this takes.
_OF_SERVER = {
    "loaded": "server: interpreter, imports",
    "asked": "server: waited for what to serve",
    "ready": "server: confined, layers opened",
}
_SPAWNED = "imported"


class Timeline:
    """The marks of one start."""

    def __init__(self, begun: int) -> None:
        """Begin at *begun*."""
        self._begun = begun
        self._marks: dict[str, int] = {}
        self._server: dict[str, int] = {}

    def mark(self, name: str, at: int = 0) -> None:
        """Note that *name* was done *at*, or now where that is 0."""
        assert name in _PHASES, name
        self._marks.setdefault(name, at or time.monotonic_ns())

    def mark_server(self, times: Mapping[str, int]) -> None:
        """Note when the server had done what: "loaded", "asked" and "ready"."""
        self._server = {name: times[name] for name in _OF_SERVER if name in times}

    def phases(self) -> list[tuple[str, float]]:
        """Return each phase with its milliseconds, the server's last, which go beside the others."""
        own = list(_lengths(self._begun, _PHASES, self._marks))
        return own + list(_lengths(self._marks.get(_SPAWNED, self._begun), _OF_SERVER, self._server))

    def as_list(self) -> list[dict[str, object]]:
        """Return the phases for JSON."""
        return [{"phase": name, "milliseconds": round(length, 3)} for name, length in self.phases()]

    def lines(self) -> Sequence[str]:
        """Return the phases for people."""
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
            # Who marks a step may hear of it after the next one was done: that it was executed, of a program that has ended.
            at = max(last, marks[name])
            yield phase, (at - last) / 1e6
            last = at
