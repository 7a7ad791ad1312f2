"""What a workload is."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

PROJECT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))

DATA = "bench"
"""The directory of a corpus that holds what we made; all the rest of it is a root file system."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Corpus:
    """The lower layers, and what the workloads use of them. Paths of the tree are relative to its root."""

    #: Top first.
    layers: tuple[str, ...]
    #: A directory outside of the layers: what is installed and unpacked.
    inputs: str
    #: What is walked.
    directories: tuple[str, ...]
    #: Regular files in those directories: what is read.
    files: tuple[str, ...]
    #: What of perl and python3 runs in the root file system.
    programs: tuple[str, ...]
    #: Where the root file system is from, for people.
    origin: str
    #: Interpreter with pip, for installing a wheel.
    python: str
    #: 1 is the whole of the work.
    scale: float

    def amount(self, whole: int, least: int = 2) -> int:
        """Return how many of *whole* things are done at this scale."""
        return max(least, round(whole * self.scale))


Work = Callable[[str, Corpus], object]
"""(root of the mounted tree, corpus) -> what was seen, which has to be the same on every system."""


@dataclass(frozen=True, slots=True)
class Workload:
    """One row of the result."""

    name: str
    work: Work
    #: Done before, not timed.
    prepare: Work | None = None
    #: Done after, not timed: what it sees counts as seen, too.
    check: Work | None = None
    #: Everything that the kernel caches is dropped before, where root runs this.
    cold: bool = False
    #: What of the tree is changed, by its path; () only adds to it, None does not even that. On a plain
    #: directory a workload that changes something gets a copy of these parts.
    changes: tuple[str, ...] | None = None
    #: Programs of this machine that it takes.
    needs: tuple[str, ...] = ()
    #: Says what else is missing, or None.
    missing: Callable[[Corpus], str | None] = lambda _: None
    #: Belongs to --quick.
    quick: bool = False

    @property
    def summary(self) -> str:
        """Return one line about it."""
        return (self.work.__doc__ or "").strip().splitlines()[0]
