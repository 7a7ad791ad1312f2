"""Parse durations as Go's time.ParseDuration does: HEALTHCHECK of a Containerfile has them."""

from __future__ import annotations

import re

_PART = re.compile(r"([0-9]+)(?:\.([0-9]+))?(ns|us|µs|μs|ms|s|m|h)")
_LONGEST = 64

_UNITS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "μs": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_MAX = (1 << 63) - 1


def parse_duration(text: str) -> int | None:
    """Return the nanoseconds of *text*, such as "1m30s", "1.5h" or "0"; None if it is no duration from 0 to 292 years."""
    if text == "0":
        return 0
    if not text or len(text) > _LONGEST:
        return None
    total = at = 0
    while at < len(text):
        match = _PART.match(text, at)
        if match is None:
            return None
        unit = _UNITS[match[3]]
        fraction = match[2] or ""
        total += int(match[1]) * unit + (int(fraction) * unit // 10 ** len(fraction) if fraction else 0)
        at = match.end()
    return total if total <= _MAX else None
