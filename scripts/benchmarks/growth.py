"""Measure how time grows with layers, directory entries, file sizes, sandboxes started at once, and changes."""

from __future__ import annotations

import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks import changes, layers, snapshots, start
from benchmarks.measuring import Row, Trial, trial_of
from benchmarks.systems import Stack, System
from benchmarks.workload import Corpus, Work, Workload

ENTRIES = (10, 100, 1000, 10_000)
BYTES = (4 << 10, 64 << 10, 1 << 20, 16 << 20, 64 << 20)
AT_ONCE = (1, 2, 4, 8, 16)


@dataclass(frozen=True, slots=True)
class Curve:
    """Trials that differ in one number."""

    name: str
    unit: str
    points: Sequence[tuple[int, Trial]]
    #: Whether the table is in milliseconds.
    milliseconds: bool = False


@dataclass(frozen=True, slots=True)
class Line:
    """The median seconds of one system, by the number."""

    system: str
    points: Sequence[tuple[int, float]]


def lines_of(curve: Curve, rows: Sequence[Row]) -> list[Line]:
    """Return the medians of *rows*, one for each point of *curve*, as a line for each system."""
    names = list(dict.fromkeys(name for row in rows for name in row.seconds))
    numbers = [number for number, _ in curve.points]
    return [
        Line(
            name,
            [
                (number, statistics.median(row.seconds[name]))
                for number, row in zip(numbers, rows, strict=True)
                if row.seconds.get(name)
            ],
        )
        for name in names
    ]


def _listing(name: str) -> Work:
    def work(root: str, corpus: Corpus) -> object:
        """List a directory and stat every entry, cold."""
        with os.scandir(os.path.join(root, name)) as entries:
            return sum(entry.stat(follow_symlinks=False).st_size for entry in entries)

    return work


def _append(name: str) -> Work:
    def work(root: str, corpus: Corpus) -> object:
        """Append a byte to a file of the lower layer: copy-up."""
        with open(os.path.join(root, "files", name), "ab", buffering=0) as file:
            file.write(b"x")
            return os.fstat(file.fileno()).st_size

    return work


def _read(name: str) -> Work:
    def work(root: str, corpus: Corpus) -> object:
        """Read a file of the lower layer, cold."""
        size = 0
        with open(os.path.join(root, "files", name), "rb", buffering=0) as file:
            while block := file.read(1 << 17):
                size += len(block)
        return size

    return work


def make_layer(directory: str, scale: float) -> Stack:
    """Write one layer with directories of `ENTRIES` entries and files of `BYTES` bytes, both scaled."""
    layer = os.path.join(directory, "lower")
    for count in ENTRIES:
        os.makedirs(os.path.join(layer, f"entries-{count}"))
        for number in range(scaled(count, scale)):
            with open(os.path.join(layer, f"entries-{count}", f"e{number}"), "w") as file:
                file.write("x")
    os.mkdir(os.path.join(layer, "files"))
    for size in BYTES:
        with open(os.path.join(layer, "files", str(size)), "wb") as file:
            file.write(os.urandom(scaled(size, scale)))
    return Stack(directory, [layer])


def scaled(number: int, scale: float) -> int:
    """Return *number* multiplied by *scale*, at least 1."""
    return max(1, round(number * scale))


def make_curves(
    systems: Sequence[System], starters: Sequence[start.Starter], corpus: Corpus, directory: str
) -> list[Curve]:
    """Return the curves, and write their layers into the new *directory*."""
    os.mkdir(directory)
    by_count = [
        (count, layers.make_stack(os.path.join(directory, f"l{count}"), count, corpus.amount(4000, 40)))
        for count in layers.COUNTS
    ]
    plain = os.path.join(directory, "layer")
    os.mkdir(plain)
    stack = make_layer(plain, corpus.scale)

    def trial(name: str, work: Work, on: Stack, *, cold: bool, parts: tuple[str, ...] | None) -> Trial:
        workload = Workload(name, work, cold=cold, changes=parts)
        return trial_of(workload, systems, on, corpus, group="growth")

    curves = [
        Curve(
            f"{verb} a merged tree",
            "layers",
            [
                (count, trial(f"{verb}, layers: {count}", work, on, cold=True, parts=None))
                for count, on in by_count
            ],
        )
        for verb, work in (("walk", layers.walk), ("look up in", layers.lookup))
    ]
    curves.append(
        Curve(
            "list and stat a directory",
            "entries",
            [
                (
                    scaled(count, corpus.scale),
                    trial(
                        f"list {scaled(count, corpus.scale)}",
                        _listing(f"entries-{count}"),
                        stack,
                        cold=True,
                        parts=None,
                    ),
                )
                for count in ENTRIES
            ],
        )
    )
    for name, make, parts in (("read", _read, None), ("append a byte to", _append, ("files",))):
        points = [
            (
                scaled(size, corpus.scale),
                trial(
                    f"{name} {scaled(size, corpus.scale) / 1024:g} KiB",
                    make(str(size)),
                    stack,
                    cold=True,
                    parts=parts,
                ),
            )
            for size in BYTES
        ]
        curves.append(Curve(f"{name} a file", "bytes", points))
    if starters:
        points = [
            (count, start.make_trial(starters, at_once=count, name=f"start {count} at once"))
            for count in AT_ONCE
        ]
        curves.append(Curve("start true", "sandboxes at once", points))
    by_changes = changes.make_trials(corpus.python, os.path.join(directory, "changes"), corpus.scale)
    curves += [Curve(*curve) for curve in by_changes]
    if any(starter.name == start.SUBJECT for starter in starters):
        stops = snapshots.make_trials(corpus.python, os.path.join(directory, "snapshots"), corpus.scale)
        curves += [Curve(*curve, milliseconds=True) for curve in stops]
    return curves
