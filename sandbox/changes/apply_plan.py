"""Plan what `sandbox apply` does to a directory of the host: conflicts, marks, and steps in an order that can be resumed. Pure.

The caller reads rows with facts (sandbox/changes/rows.py), calls :func:`make`, shows the plan and asks; sandbox/changes/apply.py
executes it. sandbox/changes/selection.py selects the rows, sandbox/changes/step_order.py orders the steps.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence

from sandbox.changes import step_order
from sandbox.changes.rows import Change, OldObject
from sandbox.changes.selection import Needs, select
from sandbox.changes.step_order import Step
from sandbox.errors import SandboxError
from unionfs._stdlib.dataclasses import dataclass

_DEVICES = ("character-device", "block-device")
_SINCE = {
    "changed": "it changed on the host since the sandbox first used it",
    "gone": "it is gone from the host since the sandbox first used it",
    "unknown": "what it was when the sandbox first used it was not recorded",
    "touched": "its status changed on the host since the sandbox first used it",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What the plan is made by, besides the rows."""

    #: The layer that is written to; 0 is the topmost of the lower layers.
    layer: int = 0
    #: Only changes at and below these paths; all without any.
    paths: tuple[bytes, ...] = ()
    #: Patterns as of fnmatch(3), compared with a path and each directory above it; one without a slash with their names.
    exclude: tuple[str, ...] = ()
    #: Returns whether a path of the sandbox is in the user's own directories.
    is_own: Callable[[bytes], bool] = lambda _path: True
    #: Returns whether the user and group of a row are the user that runs the command.
    is_own_id: Callable[[int, int], bool] = lambda _uid, _gid: True
    #: Returns whether the object of a row on the host is unchanged although its status time differs.
    is_unchanged: Callable[[Change, OldObject], bool] = lambda _change, _old: False


@dataclass(frozen=True, slots=True)
class Conflict:
    """A selected row that cannot be applied."""

    change: Change
    path: bytes
    reason: str

    def text(self) -> str:
        """Return the path and the reason."""
        return f"{os.fsdecode(self.path)}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Mark:
    """A row that deserves a second look, and why."""

    change: Change
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be done."""

    #: The selected rows, in their order.
    changes: tuple[Change, ...]
    conflicts: tuple[Conflict, ...]
    marks: tuple[Mark, ...]
    #: Sentences about rows that were left out.
    notices: tuple[str, ...]
    steps: tuple[Step, ...]

    @property
    def members(self) -> tuple[bytes, ...]:
        """The paths, without a leading slash, to give to `unionfs changes --archive members` in this order."""
        return _members(self.steps)

    @property
    def structural_steps(self) -> tuple[Step, ...]:
        """The steps that bring objects to their new places, which come before all others."""
        return tuple(step for step in self.steps if step.action in step_order.STRUCTURAL)

    @property
    def structural_members(self) -> tuple[bytes, ...]:
        """The same as :attr:`members` for these steps alone."""
        return _members(self.structural_steps)


def _members(steps: Sequence[Step]) -> tuple[bytes, ...]:
    return tuple(step.path for step in steps if step.action in step_order.WITH_MEMBER)


def make(changes: Sequence[Change], rules: Rules) -> Plan:
    """Return the plan for *changes*, all rows of the sandbox.

    A plan with conflicts must not be executed.

    Raises:
        SandboxError: a given path has a component "..".
    """
    sockets = [row for row in changes if row.type == "socket" and row.kind in "AC"]
    changes = [row for row in changes if row.type != "socket" or row.kind not in "AC"]
    needs = Needs(changes)
    chosen = tuple(map(_normal, rules.paths))
    selected, left_out = select(changes, needs, chosen, rules.exclude)
    skipped, _ = select(sockets, Needs(sockets), chosen, rules.exclude)
    rows = tuple(_at(changes, selected))
    notices = [
        f"{_shown(change)}: a socket cannot be copied; it is left out" for change in _at(sockets, skipped)
    ]
    notices += [
        f"{_shown(changes[position])}: left out, because it needs an excluded path" for position in left_out
    ]
    return Plan(
        changes=rows,
        conflicts=tuple(conflict for change in rows for conflict in _conflicts(change, rules)),
        marks=tuple(Mark(change, reasons) for change in rows if (reasons := _reasons(change, rules))),
        notices=tuple(notices),
        steps=tuple(step_order.steps(changes, selected, needs)),
    )


def _normal(path: bytes) -> bytes:
    parts = [part for part in path.split(b"/") if part not in {b"", b"."}]
    if b".." in parts:
        raise SandboxError(
            f"{os.fsdecode(path)}: a path of the sandbox has no ..", hint="name it as the sandbox shows it"
        )
    return b"/".join(parts)


def _at(changes: Sequence[Change], positions: set[int]) -> list[Change]:
    return [changes[position] for position in sorted(positions)]


def _conflicts(change: Change, rules: Rules) -> list[Conflict]:
    found = []
    for old in (*((change.old,) if change.old is not None else ()), *change.replaced):
        if old.layer is not None and old.layer != rules.layer:
            reason = f"it is in lower layer {old.layer}, not in layer {rules.layer}, which is written to"
        elif old.since == "same" or (old.since == "touched" and rules.is_unchanged(change, old)):
            continue
        else:
            reason = _SINCE.get(old.since, _SINCE["unknown"])
        found.append(Conflict(change, old.path, reason))
    return found


def _reasons(change: Change, rules: Rules) -> tuple[str, ...]:
    """Return why *change* deserves a second look."""
    reasons = []
    if change.kind != "D":
        mode = change.mode or 0
        is_directory = change.type == "directory"
        if mode & stat.S_ISUID and not is_directory:
            reasons.append("set-user-ID")
        if mode & stat.S_ISGID and not is_directory:
            reasons.append("set-group-ID")
        if change.capabilities:
            reasons.append("capabilities")
        if change.type in _DEVICES:
            reasons.append("device")
        sticky = is_directory and mode & stat.S_ISVTX
        if mode & stat.S_IWOTH and change.type != "symlink" and not sticky:
            reasons.append("writable for everybody")
        if change.uid is not None and not rules.is_own_id(change.uid, change.gid or 0):
            reasons.append(f"owner {change.uid}:{change.gid}")
    places = [change.path] if change.from_path is None else [change.path, change.from_path]
    if not all(map(rules.is_own, places)):
        reasons.append("outside your own directories")
    return tuple(reasons)


def _shown(change: Change) -> str:
    return os.fsdecode(change.path)
