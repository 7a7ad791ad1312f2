"""Run trials on several systems in turn, and collect the measurements."""

from __future__ import annotations

import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from benchmarks.systems import BASELINE, SUBJECT, Mount, Stack, System, drop_caches, mounted
from benchmarks.workload import Corpus, Workload

FAILURES = (OSError, subprocess.SubprocessError, sqlite3.Error)


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement."""

    seconds: float
    #: The result of the workload, such as counts and checksums.
    seen: object
    #: CPU seconds of the server during the measurement.
    server: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """A workload with a function for each system that runs it there."""

    name: str
    group: str
    runs: Mapping[str, Callable[[], Sample]]
    subject: str = SUBJECT
    baseline: str = BASELINE


@dataclass(kw_only=True, slots=True)
class Row:
    """The results of a trial: by system, the seconds of every round and the server's CPU seconds."""

    name: str
    group: str
    subject: str
    baseline: str
    seconds: dict[str, list[float]] = field(default_factory=dict)
    server: dict[str, list[float]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def turns(systems: Sequence[str], number: int) -> list[str]:
    """Return the order of the systems in round *number*: each of them is first, and last, equally often.

    >>> turns(["a", "b", "c"], 1)
    ['b', 'c', 'a']
    """
    start = number % len(systems)
    return [*systems[start:], *systems[:start]]


def disagreement(answers: Mapping[str, Sequence[object]]) -> str | None:
    """Describe the results of each system if they differ between systems or rounds; None if all are the same."""
    texts = {name: sorted({repr(answer) for answer in seen}) for name, seen in answers.items()}
    if len({text for several in texts.values() for text in several}) <= 1:
        return None
    return "; ".join(f"{name} saw {' or '.join(several)}" for name, several in texts.items())


def run(trials: Sequence[Trial], rounds: int, say: Callable[[str], None]) -> list[Row]:
    """Run every trial *rounds* times on each of its systems, in turn."""
    rows = []
    for trial in trials:
        say(f"{trial.name} ...")
        row = Row(name=trial.name, group=trial.group, subject=trial.subject, baseline=trial.baseline)
        row.seconds = {name: [] for name in trial.runs}
        row.server = {name: [] for name in trial.runs}
        answers: dict[str, list[object]] = {}
        for number in range(rounds):
            for name in turns([*trial.runs], number):
                try:
                    sample = trial.runs[name]()
                except FAILURES as error:
                    row.problems.append(f"{trial.name} on {name}: {error}")
                    continue
                row.seconds[name].append(sample.seconds)
                row.server[name].append(sample.server)
                answers.setdefault(name, []).append(sample.seen)
        if (said := disagreement(answers)) is not None:
            row.problems.append(f"{trial.name}: the systems disagree on what was there: {said}")
        rows.append(row)
    return rows


@contextmanager
def ready(
    system: System, workload: Workload, stack: Stack, corpus: Corpus, *, cold: bool = True
) -> Iterator[Mount]:
    """Yield a fresh mount of *stack*, prepared for the workload. Not *cold*: keep the kernel's caches in any case."""
    with mounted(system, stack, workload.changes) as mount:
        if workload.prepare is not None:
            workload.prepare(mount.root, corpus)
        if workload.cold and cold:
            drop_caches()
        yield mount


def measure(system: System, workload: Workload, stack: Stack, corpus: Corpus) -> Sample:
    """Run a workload once on a fresh mount of *stack*."""
    with ready(system, workload, stack, corpus) as mount:
        cpu, begin = mount.cpu(), time.perf_counter()
        seen = workload.work(mount.root, corpus)
        seconds = time.perf_counter() - begin
        cpu = max(0.0, mount.cpu() - cpu)
        checked = workload.check(mount.root, corpus) if workload.check is not None else None
    return Sample(seconds, (seen, checked), cpu)


def trial_of(
    workload: Workload,
    systems: Sequence[System],
    stack: Stack,
    corpus: Corpus,
    *,
    group: str = "files",
) -> Trial:
    """Return the trial that runs a workload on *systems*."""

    def on(system: System) -> Callable[[], Sample]:
        return lambda: measure(system, workload, stack, corpus)

    return Trial(name=workload.name, group=group, runs={system.name: on(system) for system in systems})
