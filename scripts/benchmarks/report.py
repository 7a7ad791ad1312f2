"""Compute ratios and their means, and format the results as text and JSON."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.measuring import Row


@dataclass(kw_only=True, slots=True)
class Place:
    """All measurements on one file system."""

    directory: str
    file_system: str
    rows: list[Row] = field(default_factory=list)
    #: Systems and workloads that did not run, with the reason.
    left_out: list[str] = field(default_factory=list)


def ratios(row: Row) -> dict[str, float]:
    """Return each system's ratio of its median to the baseline's; empty if the baseline did not run."""
    if not row.seconds.get(row.baseline):
        return {}
    base = statistics.median(row.seconds[row.baseline])
    return {name: statistics.median(seconds) / base for name, seconds in row.seconds.items() if seconds}


def geometric_mean(values: Sequence[float]) -> float:
    """Return the geometric mean of a non-empty sequence."""
    return math.exp(statistics.fmean(math.log(value) for value in values))


def geometric_means(rows: Sequence[Row]) -> dict[str, float]:
    """Return each system's geometric mean of its ratios, over the workloads that both it and the baseline completed."""
    found: dict[str, list[float]] = {}
    for row in rows:
        for name, ratio in ratios(row).items():
            found.setdefault(name, []).append(ratio)
    return {name: geometric_mean(values) for name, values in found.items()}


def slower(rows: Sequence[Row]) -> list[tuple[str, float]]:
    """Return the workloads that took the subject longer than the baseline, with the ratio, slowest first."""
    above = [(row.name, ratio) for row in rows if (ratio := ratios(row).get(row.subject, 0)) > 1]
    return sorted(above, key=lambda pair: -pair[1])


def groups(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Return the rows by group, in their order. All rows of a group have the same columns."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.group, []).append(row)
    return found


def table(rows: Sequence[Row], *, milliseconds: bool = False) -> list[str]:
    """Return the lines of a table of median seconds or *milliseconds*, with the ratio to the baseline if that ran."""
    heading = f"median {'milliseconds' if milliseconds else 'seconds'} (ratio)"
    columns = list(dict.fromkeys(name for row in rows for name in row.seconds))
    width = max(len(heading) + 2, 26, *(len(row.name) + 2 for row in rows))
    lines = [f"{heading:{width}}" + "".join(f"{name:>18}" for name in columns)]
    for row in rows:
        compared, cells = ratios(row), []
        for name in columns:
            seconds = row.seconds.get(name)
            median = statistics.median(seconds) if seconds else 0
            number = f"{median * 1000:.1f}" if milliseconds else f"{median:.3f}"
            text = number if seconds else "failed" if name in row.seconds else "-"
            cells.append(text + (f" ({compared[name]:5.2f})" if name in compared else " " * 8))
        lines.append(f"{row.name:{width}}" + "".join(f"{cell:>18}" for cell in cells))
    means = geometric_means(rows)
    if means:
        cells = [f"({means[name]:5.2f})" if name in means else "-" for name in columns]
        lines.append(f"{'geometric mean of ratios':{width}}" + "".join(f"{cell:>18}" for cell in cells))
    return lines


def text_of(place: Place) -> str:
    """Return the text about a place."""
    lines = [f"on {place.directory} ({place.file_system}):"]
    for rows in groups(place.rows).values():
        lines += ["", *table(rows)]
        if above := slower(rows):
            said = ", ".join(f"{name} {ratio:.2f}" for name, ratio in above)
            lines += ["", f"{rows[0].subject} took longer than {rows[0].baseline}: {said}"]
    lines += [f"left out: {reason}" for reason in place.left_out]
    return "\n".join(lines)


def place_of(data: Mapping[str, Any]) -> Place:
    """Return the place that :func:`data_of` has described."""
    rows = [
        Row(
            name=row["name"],
            group=row["group"],
            subject=row["subject"],
            baseline=row["baseline"],
            seconds=row["seconds"],
            server=row["server_cpu_seconds"],
            problems=row["problems"],
        )
        for row in data["rows"]
    ]
    return Place(
        directory=data["directory"], file_system=data["file_system"], rows=rows, left_out=data["left_out"]
    )


def data_of(place: Place) -> dict[str, object]:
    """Return the JSON object about a place."""
    return {
        "directory": place.directory,
        "file_system": place.file_system,
        "left_out": place.left_out,
        "rows": [
            {
                "name": row.name,
                "group": row.group,
                "subject": row.subject,
                "baseline": row.baseline,
                "seconds": row.seconds,
                "server_cpu_seconds": row.server,
                "ratios": ratios(row),
                "problems": row.problems,
            }
            for row in place.rows
        ],
        "geometric_means": {name: geometric_means(rows) for name, rows in groups(place.rows).items()},
    }
