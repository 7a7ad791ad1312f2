"""Compare a directory of the host with the rows of a plan, before and during its execution. Reads only.

sandbox/changes/apply.py calls this. What is found may be the state before the plan, a state within it, which an earlier execution
left when it was killed, or something else: a conflict.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from sandbox.changes.apply_plan import Conflict, Plan
from sandbox.changes.host_attributes import Attributes, Owners
from sandbox.changes.host_tree import HostTree
from sandbox.changes.rows import Change, OldObject
from sandbox.changes.selection import is_at_or_below, old_path, parent_of, relative
from sandbox.changes.step_order import Action, Step

TYPES = {
    "file": stat.S_IFREG,
    "directory": stat.S_IFDIR,
    "symlink": stat.S_IFLNK,
    "fifo": stat.S_IFIFO,
    "socket": stat.S_IFSOCK,
    "character-device": stat.S_IFCHR,
    "block-device": stat.S_IFBLK,
}
_CHANGED = "it changed on the host since it was compared"
_OCCUPIED = "something is there on the host since it was compared"
_NO_DIRECTORY = "its directory is not on the host"


def is_old(here: os.stat_result | None, old: OldObject | None) -> bool:
    """Return whether an object with the status *here* is *old*: by inode and type, and, but of directories, size and time."""
    if here is None or old is None or old.mode is None or here.st_ino != old.ino:
        return False
    if stat.S_IFMT(here.st_mode) != stat.S_IFMT(old.mode):
        return False
    return stat.S_ISDIR(here.st_mode) or (here.st_size, here.st_mtime_ns) == (old.size, old.mtime)


def has_attributes(here: os.stat_result, wanted: Attributes) -> bool:
    """Return whether an object with the status *here* has the wanted owner and mode.

    A directory may also have all permissions for its owner, as HostTree grants them for single calls.
    """
    if (here.st_uid, here.st_gid) != (wanted.uid, wanted.gid):
        return False
    mode = stat.S_IMODE(here.st_mode)
    if stat.S_ISLNK(here.st_mode) or mode == wanted.mode:
        return True
    return stat.S_ISDIR(here.st_mode) and mode == wanted.mode | stat.S_IRWXU


class Places:
    """Where a plan puts objects: what is found there may be the work of an earlier execution."""

    def __init__(self, plan: Plan) -> None:
        """Index the steps of *plan*."""
        #: The final and the temporary places of moved objects, by their old path.
        self._final: dict[bytes, bytes] = {}
        self._aside: dict[bytes, bytes] = {}
        #: Paths at which the plan writes an object that is no directory.
        self.written: set[bytes] = set()
        self._targets: set[bytes] = set()
        self._movers: dict[bytes, Step] = {}
        for step in plan.steps:
            if step.action in (Action.MOVE, Action.MAKE_DIRECTORY, Action.WRITE):
                self._targets.add(step.path)
            if step.action is Action.WRITE:
                self.written.add(step.path)
            elif step.action is Action.MOVE:
                self._final[old_path(step.change)] = step.path
                self._movers[step.path] = step
            elif step.action is Action.MOVE_ASIDE:
                self._aside[old_path(step.change)] = step.path

    def is_filled(self, path: bytes) -> bool:
        """Return whether the plan puts an object at *path* or above it."""
        at = path
        while at and at not in self._targets:
            at = parent_of(at)
        return bool(at)

    def of(self, old: bytes) -> Iterator[bytes]:
        """Yield the paths at which the object with the old path *old* may be during an execution."""
        yield old
        at = old
        while at:
            for moved in (self._final.get(at), self._aside.get(at)):
                if moved is not None:
                    yield moved + old[len(at) :]
            at = parent_of(at)

    def is_awaited(self, tree: HostTree, path: bytes) -> bool:
        """Return whether a directory that is still elsewhere moves to *path*."""
        mover = self._movers.get(path)
        return mover is not None and not is_old(tree.lstat(path), mover.old)

    def is_before(self, tree: HostTree, step: Step) -> bool:
        """Return whether the object of the move *step* is still where the step finds it.

        Names of one file cannot be told apart. So it is not if a later move has put another name of the file there.
        """
        later: Step | None = step
        while later is not None and step.old is not None:
            if not is_old(tree.lstat(later.source), step.old):
                return False
            later = self._movers.get(later.source)
            if later is not None and (later.old is None or later.old.ino != step.old.ino):
                later = None
        return True

    def is_replaced(self, tree: HostTree, path: bytes, old: OldObject, here: os.stat_result) -> bool:
        """Return whether the object at *path* with the status *here* was put there after *old* had been removed from it.

        It may be another name of the file *old*, in a directory that moved there.
        """
        at = path
        while at and at not in self._targets:
            at = parent_of(at)
        mover = self._movers.get(at)
        if mover is None:
            return bool(at) and not is_old(here, old)
        if is_at_or_below(relative(old.path), old_path(mover.change)):
            return False  # *old* came here with this directory
        return self.has_moved(tree, mover)

    def has_moved(self, tree: HostTree, step: Step) -> bool:
        """Return whether the move *step* was done: its object is at a later place, or was then replaced by a new one."""
        final = relative(step.change.path)
        if is_old(tree.lstat(step.path), step.old) or is_old(tree.lstat(final), step.old):
            return True
        if final not in self.written or tree.lstat(final) is None:
            return False
        return not any(is_old(tree.lstat(place), step.old) for place in self.of(old_path(step.change)))


def examine(plan: Plan, tree: HostTree, owners: Owners) -> list[Conflict]:
    """Return the rows of *plan* for which the host is neither as it was compared nor as an earlier execution left it.

    The execution checks each object again. This function finds all conflicts before anything is changed.
    """
    examination = _Examination(plan, tree, owners)
    return [conflict for change in plan.changes for conflict in examination.of(change)]


class _Examination:
    def __init__(self, plan: Plan, tree: HostTree, owners: Owners) -> None:
        self._tree = tree
        self._owners = owners
        self._places = Places(plan)
        #: Moved objects by the paths that they leave.
        self._leaving: dict[bytes, list[OldObject]] = {}
        for change in plan.changes:
            if change.kind == "R" and change.old is not None:
                for place in self._places.of(old_path(change)):
                    self._leaving.setdefault(place, []).append(change.old)

    def of(self, change: Change) -> Iterator[Conflict]:
        """Yield the conflicts of *change*."""
        path = relative(change.path)
        match change.kind:
            case "D":
                conflict = not self._is_removable(change.old, path)
            case "A":
                conflict = not self._is_free(change, path)
            case _:
                conflict = not (
                    any(
                        is_old(self._tree.lstat(place), change.old)
                        for place in self._places.of(old_path(change))
                    )
                    or (
                        change.kind == "R"
                        and path in self._places.written
                        and self._tree.lstat(path) is not None
                    )
                    or (change.kind == "C" and self._is_wanted(change, self._tree.lstat(path)))
                )
        if conflict:
            yield Conflict(change, change.path, _OCCUPIED if change.kind == "A" else _CHANGED)
        for old in change.replaced:
            if not self._is_removable(old, relative(old.path)):
                yield Conflict(change, old.path, _CHANGED)
        if change.kind in "AR" and not self._has_directory(path):
            yield Conflict(change, change.path, _NO_DIRECTORY)

    def _is_removable(self, old: OldObject | None, path: bytes) -> bool:
        """Return whether *old*, which goes, is where it was, or is gone already."""
        replaced = True
        for place in self._places.of(path):
            here = self._tree.lstat(place)
            if here is not None and old is not None:
                if is_old(here, old):
                    return True
                replaced &= self._places.is_replaced(self._tree, place, old, here)
        return replaced

    def _is_free(self, change: Change, path: bytes) -> bool:
        """Return whether nothing is at *path*, or something that goes, or the object of *change* already."""
        here = self._tree.lstat(path)
        if here is None or self._is_wanted(change, here):
            return True
        at = path
        while at:
            there = self._tree.lstat(at)
            if any(is_old(there, old) for old in self._leaving.get(at, ())):
                return True
            at = parent_of(at)
            if self._places.is_awaited(self._tree, at):
                return True
        return False

    def _is_wanted(self, change: Change, here: os.stat_result | None) -> bool:
        """Return whether an object with the status *here* may be the one of *change*: its contents are not compared."""
        if here is None or change.mode is None or change.uid is None or change.gid is None:
            return False
        if change.old is not None and here.st_ino == change.old.ino:
            return False  # the old one, which was changed in place
        if stat.S_IFMT(here.st_mode) != TYPES[change.type]:
            return False
        if change.type != "directory" and here.st_size != change.size:
            return False
        uid, gid = self._owners(change.uid, change.gid)
        return has_attributes(here, Attributes(uid=uid, gid=gid, mode=change.mode, mtime_ns=0))

    def _has_directory(self, path: bytes) -> bool:
        directory = parent_of(path)
        if not directory or self._places.is_filled(directory):
            return True
        here = self._tree.lstat(directory)
        return here is not None and stat.S_ISDIR(here.st_mode)
