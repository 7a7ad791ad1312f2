"""The snapshots of a sandbox: names for states of its writable layer.

    HOME/snapshots.json    {"version": 1, "snapshots": [{"name": NAME, "time": SECONDS, "layers": [DIRECTORY, ...]}, ...]}
    HOME/snapshots.lock    locked by a command that makes or removes one, or needs the layers to stay as they are

HOME is the directory of the sandbox's record. ``layers`` are the earlier layers of that time, bottom first; none if there were no
changes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from sandbox.errors import StateError
from sandbox.state import locks
from sandbox.state.stack_record import absolutes, relative
from sandbox.state.trusted_files import NEW_SUFFIX, new_json, read_json
from unionfs._stdlib.dataclasses import dataclass
from unionfs._stdlib.typing import Any

_NAME = "snapshots.json"
_LOCK = "snapshots.lock"
_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A state of the writable layer that was given a name."""

    name: str
    #: In seconds since the epoch.
    time: float
    #: The directories of its layers, bottom first.
    layers: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the snapshot for JSON."""
        shown = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.time))
        return {"name": self.name, "time": shown, "layers": list(self.layers)}


def read_snapshots(home: str) -> list[Snapshot]:
    """Return the snapshots of the sandbox whose record is in *home*, oldest first.

    Raises:
        StateError: the list cannot be read.
    """
    path = os.path.join(home, _NAME)
    try:
        value = read_json(path)
        if value["version"] != _VERSION:
            raise StateError(f"{path} was written by a newer version", hint="use that version of sandbox")
        return [
            Snapshot(
                name=str(one["name"]), time=float(one["time"]), layers=tuple(absolutes(home, one["layers"]))
            )
            for one in value["snapshots"]
        ]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError):
        raise StateError(f"{path} is damaged", hint="restore the file") from None


def write_snapshots(home: str, snapshots: Sequence[Snapshot]) -> None:
    """Replace the list of snapshots in *home*.

    Raises:
        OSError: it cannot be written; the old list remains.
    """
    with new_list(home, snapshots) as replace:
        replace()


@contextmanager
def new_list(home: str, snapshots: Sequence[Snapshot]) -> Iterator[Callable[[], None]]:
    """Write *snapshots* beside the list in *home*, and give a function that replaces the list by them.

    The caller has the lock of the snapshots.

    Raises:
        OSError: they cannot be written; the old list remains.
    """
    listed = [
        {"name": one.name, "time": one.time, "layers": [relative(home, path) for path in one.layers]}
        for one in snapshots
    ]
    path, value = os.path.join(home, _NAME), {"version": _VERSION, "snapshots": listed}
    for name in os.listdir(home):
        if name.startswith(f"{_NAME}.") and name.endswith(NEW_SUFFIX):  # of a command that was killed
            os.unlink(os.path.join(home, name))
    with new_json(path, value, lasting=True) as replace:
        yield replace


@contextmanager
def locked(home: str, name: str) -> Iterator[None]:
    """Lock the snapshots in *home*, of the sandbox *name*, against other commands.

    Raises:
        StateError: another command has the lock, or has removed the sandbox.
    """
    path = os.path.join(home, _LOCK)
    try:
        fd = locks.take(path, wait=False)
    except FileNotFoundError:
        raise _removed(name) from None
    if fd is None:
        raise _in_use(name)
    try:
        if not locks.has_name(fd, path):
            raise _removed(name)
        yield
    finally:
        os.close(fd)


@contextmanager
def locked_to_remove(home: str, name: str) -> Iterator[None]:
    """Lock the snapshots in *home*, of the sandbox *name*, which is about to be removed or renamed.

    This creates no file, because the disk may be full. The caller has the lock of *home*, without which no layer is frozen.

    Raises:
        StateError: another command has the lock.
    """
    lock, fd = locks.claim(os.path.join(home, _LOCK))
    if lock == "held":
        raise _in_use(name)
    try:
        yield
    finally:
        if fd >= 0:
            os.close(fd)


def _in_use(name: str) -> StateError:
    return StateError(
        f"another command is using the snapshots of {name}", hint="run this one again afterwards"
    )


def _removed(name: str) -> StateError:
    return StateError(f"the writable layer of {name} was removed meanwhile")
