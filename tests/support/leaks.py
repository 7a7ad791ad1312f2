"""pytest plugin: a test fails if it leaves a mount, a process, a descriptor or a cgroup behind.

Compared are the states before its first and after its last fixture of function scope; what a module or
session fixture holds is in both. At the end of the session those have to be gone too.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.support import _libc
from tests.support.requirements import memory_cgroups

#: Seconds that what is ending may take to end: a lazily unmounted server, a process that has been killed.
GRACE = 2.0
_POLL = 0.02
#: Of waitid(2): also children that were made to end without a signal.
_WALL = 0x40000000


@dataclass(frozen=True, slots=True)
class State:
    """What could leak; each key names one thing, each value describes it."""

    mounts: dict[str, str]
    children: dict[int, str]
    descriptors: dict[int, str]
    cgroups: frozenset[str]

    def leaked_since(self, before: State) -> list[str]:
        """Return a sentence for each thing that is here and was not *before*."""
        return [
            *(f"mount: {line}" for key, line in self.mounts.items() if key not in before.mounts),
            *(f"process {pid}: {what}" for pid, what in self.children.items() if pid not in before.children),
            *(
                f"descriptor {fd}: {target}"
                for fd, target in self.descriptors.items()
                if before.descriptors.get(fd) != target
            ),
            *(f"cgroup: {path}" for path in sorted(self.cgroups - before.cgroups)),
        ]


def _mounts() -> dict[str, str]:
    """Mounts of this namespace by their id, which no other mount gets while it is there."""
    with open("/proc/self/mountinfo") as file:
        return {line.split(" ", 1)[0]: line.rstrip("\n") for line in file}


def _children() -> dict[int, str]:
    """Children of this process, with those that came to it as their subreaper. The dead among the latter are
    reaped.
    """
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT | _WALL)
    except ChildProcessError:
        return {}  # as after nearly every test; all of /proc is read only to name what there is
    own = os.getpid()
    result = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat") as file:
                # The command, in parentheses, may itself hold blanks and parentheses (proc_pid_stat(5)).
                state, parent = file.read().rpartition(")")[2].split()[:2]
            if int(parent) == own:
                with open(f"/proc/{name}/cmdline") as file:
                    command = file.read().replace("\0", " ").strip()
                result[int(name)] = f"state {state}: {command or '(no command line)'}"
        except (FileNotFoundError, ProcessLookupError):
            continue
    return result


def _descriptors() -> dict[int, str]:
    """Return the open descriptors without the standard ones, which pytest replaces: at an interruption, before a test has ended."""
    result = {}
    for name in os.listdir("/proc/self/fd"):
        if int(name) <= 2:
            continue
        try:
            result[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:  # the one that listed the directory
            continue
    return result


def _cgroups() -> frozenset[str]:
    """Directories of ours named sandbox-* in this process's cgroup and beside it: on v2 a supervisor moves into a
    leaf, and tests with it. Those of other accounts, whose tests may run beside, are not ours to clear.
    """
    found: set[str] = set()
    for mount_point, path in memory_cgroups():
        for directory in {mount_point + path, mount_point + os.path.dirname(path)}:
            try:
                names = os.listdir(directory)
            except OSError:
                continue
            paths = (os.path.join(directory, name) for name in names if name.startswith("sandbox-"))
            found.update(path for path in paths if _is_own(path))
    return frozenset(found)


def _is_own(path: str) -> bool:
    try:
        return os.stat(path).st_uid == os.geteuid()
    except FileNotFoundError:
        return False


def observe() -> State:
    """Return what this process holds now."""
    return State(_mounts(), _children(), _descriptors(), _cgroups())


def reap(before: State) -> None:
    """Collect the dead children that came after *before*: an orphan whose parent has ended has no one else to
    do it.
    """
    for pid, what in _children().items():
        if pid not in before.children and what.startswith("state Z"):
            try:
                os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                continue


def wait_for_no_leaks(before: State) -> list[str]:
    """Return what leaked since *before*, after giving it `GRACE` seconds to go away."""
    leaked = observe().leaked_since(before)
    if not leaked:
        return []
    gc.collect()  # an object in a reference cycle, such as a traceback, may hold a descriptor
    deadline = time.monotonic() + GRACE
    while True:
        reap(before)
        leaked = observe().leaked_since(before)
        if not leaked or time.monotonic() > deadline:
            return leaked
        time.sleep(_POLL)


def _fail(leaked: list[str]) -> None:
    pytest.fail("left behind:\n  " + "\n  ".join(leaked), pytrace=False)


@pytest.fixture(scope="session", autouse=True)
def _no_leaks_of_the_session() -> Iterator[None]:
    _libc.become_subreaper()
    before = observe()
    yield
    if leaked := wait_for_no_leaks(before):
        _fail(leaked)


@pytest.fixture(autouse=True)
def _no_leaks(_no_leaks_of_the_session: None) -> Iterator[None]:
    before = observe()
    yield
    if leaked := wait_for_no_leaks(before):
        _fail(leaked)
