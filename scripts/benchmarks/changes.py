"""Measure `unionfs changes` by the number of changes and by the size of the layer below, beside walks of the writable layer.

"walk" reads the writable layer alone, in a Python process of its own: names, attributes and the names of extended attributes of
every object. Half of the changes are new files, half are files of the layer below with other contents.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable

from benchmarks.measuring import Sample, Trial
from benchmarks.workload import PROJECT

COMMAND, WALK = "unionfs changes", "walk of the layer"
CHANGES = (100, 1000, 10_000)
BELOW = (1000, 10_000, 100_000)
#: Changes over layers of various sizes.
_FEW = 1000
_PER_DIRECTORY = 100
_WALK = """
import os, sys

def walk(directory):
    with os.scandir(directory) as entries:
        found = list(entries)
    for entry in found:
        entry.stat(follow_symlinks=False)
        os.listxattr(entry.path, follow_symlinks=False)
        if entry.is_dir(follow_symlinks=False):
            walk(entry.path)

walk(sys.argv[1])
"""


def make_trials(python: str, directory: str, scale: float) -> list[tuple[str, str, list[tuple[int, Trial]]]]:
    """Return the name, the unit and the points of each curve; the layers are made in the new *directory*."""
    os.mkdir(directory)
    few = scaled(_FEW, scale)
    by_changes = [
        (count, _trial(python, os.path.join(directory, f"c{count}"), count, count))
        for count in (scaled(each, scale) for each in CHANGES)
    ]
    by_size = [
        (size, _trial(python, os.path.join(directory, f"b{size}"), min(few, size), size))
        for size in (scaled(each, scale) for each in BELOW)
    ]
    return [
        ("show changes", "changes", by_changes),
        (f"show {few} changes", "files in the layer below", by_size),
    ]


def scaled(number: int, scale: float) -> int:
    """Return *number* multiplied by *scale*, at least 10."""
    return max(10, round(number * scale))


def _trial(python: str, directory: str, changes: int, below: int) -> Trial:
    layers = {name: os.path.join(directory, name) for name in ("lower", "upper", "work")}
    for path in layers.values():
        os.makedirs(path)
    for number in range(below):
        _write(layers["lower"], number, b"old")
    for number in range(changes):
        _write(layers["upper"], number if number % 2 else below + number, b"changed")
    options = ",".join(f"{name}dir={path}" for name, path in layers.items())
    # A mount prepares the work directory.
    mount = os.path.join(directory, "mount")
    os.mkdir(mount)
    _run([python, "-P", "-m", "unionfs", "-o", options, mount])
    _run(["fusermount3", "-u", mount])

    def show() -> Sample:
        begin = time.perf_counter()
        output = _run([python, "-P", "-m", "unionfs", "changes", "-o", options, "--json"])
        seconds = time.perf_counter() - begin
        rows = output.count(b"\n") - 1
        if rows < changes:
            raise OSError(f"{rows} rows of {changes}")
        return Sample(seconds, None)

    def walk() -> Sample:
        begin = time.perf_counter()
        _run([python, "-P", "-c", _WALK, layers["upper"]])
        return Sample(time.perf_counter() - begin, None)

    runs: dict[str, Callable[[], Sample]] = {COMMAND: show, WALK: walk}
    return Trial(
        name=f"show {changes} changes over {below}", group="growth", runs=runs, subject=COMMAND, baseline=WALK
    )


def _write(layer: str, number: int, contents: bytes) -> None:
    directory = os.path.join(layer, f"d{number // _PER_DIRECTORY}")
    os.makedirs(directory, exist_ok=True)
    with open(os.path.join(directory, f"f{number}"), "wb") as file:
        file.write(contents)


def _run(command: list[str]) -> bytes:
    done = subprocess.run(
        command, stdout=subprocess.PIPE, check=True, env={**os.environ, "PYTHONPATH": PROJECT}, timeout=600
    )
    return done.stdout
