"""The data classes Workload and Corpus."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

PROJECT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))

DATA = "bench"
"""The directory of a corpus with the trees made for workloads; everything else is a root file system."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Corpus:
    """The lower layers and the parts of them that workloads use. Paths in the tree are relative to its root."""

    #: Top first.
    layers: tuple[str, ...]
    #: A directory outside the layers with the packages and archives to install and unpack.
    inputs: str
    #: Directories to walk.
    directories: tuple[str, ...]
    #: Regular files in those directories, to read.
    files: tuple[str, ...]
    #: Which of perl and python3 run in the root file system.
    programs: tuple[str, ...]
    #: A description of the root file system's origin.
    origin: str
    #: The interpreter with pip that installs the wheel.
    python: str
    #: A factor for the amount of work.
    scale: float

    def amount(self, whole: int, least: int = 2) -> int:
        """Return *whole* multiplied by the scale, at least *least*."""
        return max(least, round(whole * self.scale))


Work = Callable[[str, Corpus], object]
"""Runs on (root of the mounted tree, corpus); returns a result that has to be the same on every system."""


@dataclass(frozen=True, slots=True)
class Workload:
    """A piece of work to measure: one row of the result."""

    name: str
    work: Work
    #: Runs before, not timed.
    prepare: Work | None = None
    #: Runs after, not timed. Its result is compared between systems, too.
    check: Work | None = None
    #: Drop the kernel's caches before the work, if root runs the benchmark.
    cold: bool = False
    #: Paths in the tree that the work changes. () only adds files; None changes nothing. On a plain directory, a workload
    #: that changes something gets a copy of these paths.
    changes: tuple[str, ...] | None = None
    #: Programs of this machine that it needs.
    needs: tuple[str, ...] = ()
    #: Returns which other requirement is missing, or None.
    missing: Callable[[Corpus], str | None] = lambda _: None
    #: Part of --quick.
    quick: bool = False

    @property
    def summary(self) -> str:
        """The first line of the docstring of its work."""
        return (self.work.__doc__ or "").strip().splitlines()[0]
