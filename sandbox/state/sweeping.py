"""Remove the processes, cgroups and directories of runs of this node that ended without removing them.

Runs of other nodes are left alone, whatever the state of their locks is. The caller has the lock under which runs of this node
are created.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress

from sandbox.errors import SandboxError
from sandbox.kernel import cgroups
from sandbox.kernel.process import end_rooted
from sandbox.state.layer_records import ids_from_json
from sandbox.state.locks import claim
from sandbox.state.node import Place, this_place
from sandbox.state.removal import NEW, remove_directory
from sandbox.state.run_record import Lock, RunRecord
from sandbox.state.runs import is_empty, is_private, lock_of, paths_in, read_run_record, state_of
from sandbox.state.trusted_files import read_json, replace_json
from unionfs._stdlib.dataclasses import dataclass

_FORGOTTEN = 86400.0
"""The age in seconds after which a directory without a record counts as abandoned, not as being created."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedRun:
    """A run to sweep: its directories, its record, and a descriptor of its lock, -1 if there is none. :func:`sweep` closes it."""

    id: str
    paths: tuple[str, ...]
    record: RunRecord | None
    lock_fd: int

    def close(self) -> None:
        """Release the lock."""
        if self.lock_fd >= 0:
            os.close(self.lock_fd)


def find_ended(state_directory: str, run_directory: str, here: Place) -> list[EndedRun]:
    """Return the ended runs, locked: those with a record in the state directory, and those whose record is lost.

    Raises:
        OSError: the directories cannot be listed, or a lock cannot be taken; then no lock is kept.
    """
    found: list[EndedRun] = []
    records = os.path.join(state_directory, "run")
    places = os.path.join(run_directory, "run")
    try:
        for path in paths_in(records):
            record = read_run_record(path)
            if record is not None and record.background and record.phase == "exited":
                continue  # `sandbox rm` removes it
            if (ended := _claim(path, record, here)) is not None:
                found.append(ended)
        for path in paths_in(places) if places != records else ():
            record = read_run_record(path)
            if record is None and _is_new(path):
                found.append(_unfinished_run(path, records))
            elif not _has_original(record) and (ended := _claim(path, record, here)) is not None:
                found.append(ended)
    except BaseException:
        for run in found:
            run.close()
        raise
    return found


def claim_ended(path: str, here: Place) -> EndedRun | None:
    """Return the run in the directory *path*, locked, if it has ended.

    Raises:
        OSError: its lock cannot be taken.
    """
    return _claim(path, read_run_record(path), here)


def _claim(path: str, record: RunRecord | None, here: Place) -> EndedRun | None:
    name = os.path.basename(path)
    if record is None and _is_new(path):
        # Another process, perhaps on another node, may be about to write the record.
        return EndedRun(id=name, paths=(path,), record=None, lock_fd=-1) if _is_forgotten(path) else None
    if record is not None and record.place is not None and record.place.node != here.node:
        return None  # do not even touch its lock
    lock: Lock = "missing"
    fd = -1
    if (place_of_lock := lock_of(path, record)) is not None:
        lock, fd = claim(place_of_lock)
    if state_of(path, record, lock, here) != "ended":
        if fd >= 0:
            os.close(fd)
        return None
    paths = directories_of(path, record)
    if paths is None:
        if fd >= 0:
            os.close(fd)
        return None
    return EndedRun(id=name, paths=paths, record=record, lock_fd=fd)


def directories_of(path: str, record: RunRecord | None) -> tuple[str, ...] | None:
    """Return the directories of the run whose *record* is in the directory *path*, which comes last.

    Return None if *record* names an existing directory that is not this run's: then the run's own directory is unknown.
    """
    if record is None or record.run_directory in (None, path):
        return (path,)
    place = str(record.run_directory)
    if _belongs(place, path):
        return place, path
    return None if os.path.lexists(place) else (path,)


def _belongs(place: str, path: str) -> bool:
    """Return whether *place*, named by the record in *path*, is that run's directory: its own copy of the record must agree."""
    name = os.path.basename(path).removeprefix(NEW)
    if os.path.basename(place) != name:
        return False
    if not is_private(place):
        return False
    inner = read_run_record(place)
    if inner is None:
        return is_empty(place)  # its removal was interrupted after its content was removed
    if inner.record is None:
        return False
    return os.path.basename(inner.record) == name and (
        inner.record == path or not os.path.lexists(inner.record)
    )


def _has_original(copy: RunRecord | None) -> bool:
    """Return whether *copy*, read in the run directory, has its original in any state directory."""
    return copy is not None and copy.record is not None and os.path.lexists(copy.record)


def _is_new(path: str) -> bool:
    """Return whether *path* has the name of a run's directory before the run has a record."""
    return os.path.basename(path).startswith(NEW)


def _unfinished_run(place: str, records: str) -> EndedRun:
    """Return the run whose start was killed before the directory *place*, in the run directory, had a record.

    Only this node creates directories there, under the lock that the caller has. The directory in *records* is created after
    *place* and removed before it, so that it never exists alone.
    """
    name = os.path.basename(place)
    beside = os.path.join(records, name)
    paths = (beside, place) if read_run_record(beside) is None else (place,)
    return EndedRun(id=name, paths=paths, record=None, lock_fd=-1)


def _is_forgotten(path: str) -> bool:
    try:
        return time.time() - os.lstat(path).st_mtime > _FORGOTTEN
    except OSError:
        return False


def sweep(ended: list[EndedRun], *, keep: bool = False) -> list[str]:
    """Remove what the *ended* runs have left, and release their locks; return the names of the runs that were removed.

    With *keep*, the record and the log of a run in the background stay: its supervisor was killed, and nobody has seen it yet.
    """
    swept = []
    for run in ended:
        try:
            record = run.record
            if record is not None and record.root is not None:
                end_rooted(record.root)
            if record is not None and cgroups.remove_stale(record.cgroups):
                continue  # keep the record: the next command finds the remaining cgroups by it
            kept = keep and record is not None and record.background
            if record is not None and kept:
                _record_end(run.paths[-1], record)
            for path in run.paths[:-1] if kept else run.paths:
                remove_directory(path, None if record is None else ids_from_json(record.ids))
            swept.append(run.id)
        except (SandboxError, OSError, ValueError):
            pass  # the next command tries again
        finally:
            with suppress(OSError):
                run.close()
    return swept


def _record_end(path: str, record: RunRecord) -> None:
    """Record in *path* that the supervisor of *record* has ended without doing so itself."""
    here = this_place()
    restarted = record.place is not None and record.place.boot != here.boot
    state = read_json(os.path.join(path, "state.json"))
    reason = "machine restarted" if restarted else "supervisor was killed"
    replace_json(
        os.path.join(path, "state.json"), {**state, "phase": "exited", "since": time.time(), "reason": reason}
    )
