"""Draw the results as PNG or SVG files. Imports matplotlib, of the optional dependency group `bench`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from benchmarks.growth import Line
from benchmarks.report import Place, geometric_means, groups, ratios

#: Each system has the same colour in every picture. The colours are distinct for colour-blind readers, too.
COLOURS = {
    **dict.fromkeys(("unionfs", "sandbox"), "#0072b2"),
    **dict.fromkeys(("fuse-overlayfs", "podman"), "#d55e00"),
    "overlay": "#009e73",
    **dict.fromkeys(("native", "unshare"), "#999999"),
}
MARKERS = {"unionfs": "o", "sandbox": "o", "overlay": "^", "native": "s", "unshare": "s"}


def missing() -> str | None:
    """Return why no picture can be drawn; None if matplotlib is installed."""
    try:
        pyplot()
    except ImportError as error:
        return (
            f"{error} for {sys.executable}; install it in the environment (.venv/bin/pip install matplotlib) "
            "and run .venv/bin/python scripts/bench"
        )
    return None


def pyplot() -> Any:
    """Return matplotlib's pyplot, which draws only into files."""
    from matplotlib import pyplot as plt

    plt.switch_backend("agg")
    plt.rcParams["svg.hashsalt"] = "sandbox"  # the same picture is the same file
    return plt


def save(figure: Any, path: str) -> None:
    """Write *figure* to *path*, without the date."""
    figure.savefig(path, dpi=120, metadata={"Date": None} if path.endswith(".svg") else None)
    pyplot().close(figure)


def plot_ratios(places: Sequence[Place], path: str) -> None:
    """Draw the ratio of every system to the baseline: one row per workload, one panel per place and group."""
    plt = pyplot()
    panels = [
        (place, rows)
        for place in places
        for rows in groups(place.rows).values()
        if any(ratios(row) for row in rows)
    ]
    heights = [len(rows) + 3 for _, rows in panels] or [1]
    figure, axes = plt.subplots(
        len(heights),
        1,
        squeeze=False,
        figsize=(9, 0.26 * sum(heights) + 1.2 * len(heights)),
        gridspec_kw={"height_ratios": heights},
        layout="constrained",
    )
    for axis, (place, rows) in zip(axes[:, 0], panels, strict=False):
        means = geometric_means(rows)
        labels = [*(row.name for row in rows), "geometric mean"]
        base = rows[0].baseline
        for name in means:
            if name == base:
                continue
            shown = [*(ratios(row).get(name) for row in rows), means[name]]
            places_of = [number for number, ratio in enumerate(shown) if ratio]
            values = [shown[number] for number in places_of]
            label = f"{name} (mean {means[name]:.2f})"
            axis.plot(
                values,
                places_of,
                MARKERS.get(name, "d"),
                color=COLOURS.get(name),
                label=label,
                linestyle="none",
            )
        axis.axvline(1, color=COLOURS["fuse-overlayfs"], linewidth=1.5)
        axis.axvline(0.5, color="#cccccc", linewidth=1, linestyle="--")
        axis.axhline(len(rows) - 0.5, color="#cccccc", linewidth=0.8)
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter("{x:g}")
        axis.set_yticks(range(len(labels)), labels)
        axis.invert_yaxis()
        axis.grid(visible=True, axis="x", which="both", color="#eeeeee")
        axis.set_xlabel(f"time as a share of {base}'s (less is faster)")
        axis.set_title(f"{place.directory} ({place.file_system}): {rows[0].group}", loc="left", fontsize=10)
        axis.legend(fontsize=8)
    save(figure, path)


def plot_growth(curves: Sequence[tuple[str, str, Sequence[Line]]], path: str) -> None:
    """Draw curves, given as (name, unit, lines), on logarithmic scales: a slope of 1 is linear growth."""
    plt = pyplot()
    curves = [
        curve for curve in curves if any(line.points for line in curve[2])
    ]  # an axis without points has no logarithmic scale
    rows = max(1, (len(curves) + 1) // 2)
    figure, axes = plt.subplots(rows, 2, squeeze=False, figsize=(11, 3.4 * rows), layout="constrained")
    for axis in axes.flat[len(curves) :]:
        axis.set_axis_off()
    for axis, (name, unit, lines) in zip(axes.flat, curves, strict=False):
        for line in lines:
            numbers, seconds = [n for n, _ in line.points], [s for _, s in line.points]
            axis.plot(numbers, seconds, marker="o", label=line.system, color=COLOURS.get(line.system))
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_title(name, fontsize=10)
        axis.set_xlabel(unit)
        axis.set_ylabel("seconds")
        axis.grid(visible=True, which="major", color="#eeeeee")
        axis.legend(fontsize=8)
    save(figure, path)
