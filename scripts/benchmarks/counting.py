"""Count the requests that a workload sends to the server: a number that does not depend on the load of the machine."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Sequence

from benchmarks.measuring import ready
from benchmarks.systems import PATIENCE, Mount, Stack, System
from benchmarks.workload import Corpus, Workload

#: Statistics of unionfs that are not requests with a reply (unionfs/fuse/statistics.py).
_NO_REQUESTS = frozenset(
    "inodes handles directory-fds copies copied-bytes pid forget batch_forget interrupt spun slept threaded".split()
)


def requests_of(mount: Mount) -> dict[str, int]:
    """Request the statistics of the unionfs that serves *mount*, and return the number of requests by kind.

    Raises:
        OSError: the server does not write them.
    """
    assert mount.server is not None
    path = os.path.join(os.path.dirname(mount.root), "work", "unionfs", "statistics")
    if os.path.exists(path):
        os.unlink(path)
    os.kill(mount.server, signal.SIGUSR1)
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            with open(path) as file:
                line = file.read()
        except FileNotFoundError:
            line = ""
        if line.endswith("\n"):
            break
        if time.monotonic() > deadline:
            raise OSError("the server does not write its statistics")
        time.sleep(0.002)
    return {
        kind: int(count) for kind, count in re.findall(r"([\w-]+)=(\d+)", line) if kind not in _NO_REQUESTS
    }


def count(
    system: System, workload: Workload, stack: Stack, corpus: Corpus, *, cold: bool = True
) -> dict[str, int]:
    """Run a workload once on a fresh mount of unionfs, and return its number of requests by kind.

    FORGET is not counted: the kernel sends it when the machine is short of memory, and expects no reply.

    Not *cold*: keep the kernel's caches of the layers. No request depends on them.
    """
    with ready(system, workload, stack, corpus, cold=cold) as mount:
        before = requests_of(mount)
        workload.work(mount.root, corpus)
        after = requests_of(mount)
        if workload.check is not None:
            workload.check(mount.root, corpus)
    grown = {kind: number - before.get(kind, 0) for kind, number in after.items()}
    return {kind: number for kind, number in sorted(grown.items()) if number}


def table(
    workloads: Sequence[Workload], systems: Sequence[System], stack: Stack, corpus: Corpus
) -> list[str]:
    """Count the requests of every workload on each of *systems*, and return the lines of a table."""
    lines = []
    for workload in workloads:
        for system in systems:
            counted = count(system, workload, stack, corpus)
            kinds = ", ".join(
                f"{kind} {number}" for kind, number in sorted(counted.items(), key=lambda pair: -pair[1])
            )
            lines.append(f"{workload.name:26}{system.name:20}{sum(counted.values()):>9}  {kinds}")
    return lines
