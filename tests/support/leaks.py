"""pytest plugin: a test fails if it leaves a mount, a process, a descriptor or a cgroup behind.

It compares the states before the first and after the last fixture of function scope. Resources of module and session
fixtures are in both. They must be gone at the end of the session.
"""

from __future__ import annotations

import functools
import gc
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.support import _libc
from tests.support.requirements import memory_cgroups

#: Seconds that a lazily unmounted server or a killed process may take to end.
GRACE = 2.0
_POLL = 0.02
#: __WALL of waitid(2): also wait for children that send no signal at their end.
_WALL = 0x40000000


@dataclass(frozen=True, slots=True)
class State:
    """Resources that can leak. Each key identifies one, and each value describes it."""

    mounts: dict[str, str]
    children: dict[int, str]
    descriptors: dict[int, str]
    cgroups: frozenset[str]

    def leaked_since(self, before: State) -> list[str]:
        """Return a line for each resource that is in this state and was not in *before*."""
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
    """Return the mounts of this namespace by id. No other mount gets the id while the mount exists."""
    with open("/proc/self/mountinfo") as file:
        return _by_id(file.read())


@functools.lru_cache(maxsize=2)  # most tests mount nothing
def _by_id(mounts: str) -> dict[str, str]:
    return {line.split(" ", 1)[0]: line for line in mounts.splitlines()}


def _children() -> dict[int, str]:
    """Return the children of this process, including orphans of which it is the subreaper. Reap dead orphans."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT | _WALL)
    except ChildProcessError:
        return {}  # The usual case. All of /proc is read only to name existing children.
    own = os.getpid()
    result = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat") as file:
                # The command, in parentheses, may itself contain blanks and parentheses (proc_pid_stat(5)).
                state, parent = file.read().rpartition(")")[2].split()[:2]
            if int(parent) == own:
                with open(f"/proc/{name}/cmdline") as file:
                    command = file.read().replace("\0", " ").strip()
                result[int(name)] = f"state {state}: {command or '(no command line)'}"
        except (FileNotFoundError, ProcessLookupError):
            continue
    return result


def _descriptors() -> dict[int, str]:
    """Return the open descriptors, except the standard ones, which pytest replaces when it is interrupted."""
    result = {}
    for name in os.listdir("/proc/self/fd"):
        if int(name) <= 2:
            continue
        try:
            result[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:  # the descriptor of the listing
            continue
    return result


def _cgroups() -> frozenset[str]:
    """Return this account's directories named sandbox-* in the cgroup of this process and beside it.

    On v2 a supervisor moves into a leaf, and the tests with it. Other accounts, whose tests may run at the same time,
    have cgroups of their own.
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
    """Return the present state."""
    return State(_mounts(), _children(), _descriptors(), _cgroups())


def reap(before: State) -> None:
    """Reap the dead children that are not in *before*. Orphans have no other parent."""
    for pid, what in _children().items():
        if pid not in before.children and what.startswith("state Z"):
            try:
                os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                continue


def wait_for_no_leaks(before: State) -> list[str]:
    """Return the leaks since *before* that remain after at most `GRACE` seconds."""
    leaked = observe().leaked_since(before)
    if not leaked:
        return []
    gc.collect()  # an object in a reference cycle, such as a traceback, may have an open descriptor
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
