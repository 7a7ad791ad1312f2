"""Make and measure stacks of 1 to 500 layers with the same number of entries."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence

from benchmarks.measuring import Trial, trial_of
from benchmarks.systems import Stack, System
from benchmarks.workload import Corpus, Workload

GROUP = "layers"
COUNTS = (1, 10, 100, 500)
#: Number of entries in all layers together at scale 1, and of directories over which they are distributed. Every directory
#: is merged from several layers.
ENTRIES, DIRECTORIES = 4000, 20


def make_stack(directory: str, count: int, entries: int) -> Stack:
    """Write *count* layers with *entries* entries together, evenly distributed, into the new *directory*."""
    os.mkdir(directory)
    layers = [os.path.join(directory, str(number)) for number in range(count)]
    for number in range(entries):
        place = os.path.join(layers[number % count], f"d{number // count % DIRECTORIES}")
        os.makedirs(place, exist_ok=True)
        with open(os.path.join(place, f"e{number}"), "w") as file:
            file.write(f"{number}\n")
    for layer in layers:
        os.makedirs(os.path.join(layer, "d0"), exist_ok=True)
    return Stack(directory, layers)


def walk(root: str, corpus: Corpus) -> object:
    """List the merged directories and stat every entry, cold."""
    found = size = 0
    for number in range(DIRECTORIES):
        try:
            entries = os.scandir(os.path.join(root, f"d{number}"))
        except FileNotFoundError:
            continue
        with entries:
            for entry in entries:
                found += 1
                size += entry.stat(follow_symlinks=False).st_size
    return found, size


def lookup(root: str, corpus: Corpus) -> object:
    """Look up names in merged directories that were never listed; 19 of 20 do not exist."""
    rng = random.Random(9)
    entries = corpus.amount(ENTRIES, 40)
    return sum(
        os.path.lexists(os.path.join(root, f"d{rng.randrange(DIRECTORIES)}", f"e{rng.randrange(entries)}"))
        for _ in range(entries)
    )


def workloads(count: int) -> list[Workload]:
    """Return the workloads for *count* layers."""
    layers = f"{count} layer{'s' if count > 1 else ''}"
    return [Workload(f"walk, {layers}", walk, cold=True), Workload(f"lookup, {layers}", lookup, cold=True)]


def make_trials(
    chosen: Sequence[Workload], systems: Sequence[System], corpus: Corpus, directory: str
) -> list[Trial]:
    """Return the trials of *chosen*, each on the stack that its name contains."""
    trials = []
    for count in COUNTS:
        wanted = [w for w in workloads(count) if w.name in {workload.name for workload in chosen}]
        if wanted:
            stack = make_stack(os.path.join(directory, str(count)), count, corpus.amount(ENTRIES, 40))
            trials += [trial_of(workload, systems, stack, corpus, group=GROUP) for workload in wanted]
    return trials
