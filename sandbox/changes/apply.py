"""Execute the plan of `sandbox apply` on a directory of the host.

The caller starts `unionfs changes --archive members` with the paths of `Plan.members` and passes its output. Steps and members are
in the same order, so the archive is read once.

Before each step the object on the host is compared with the one in the row, by inode, size and modification time. If it is
another one, the step was done by an earlier execution of the same plan, or somebody else changed the host: then it is an error. A
process that is killed at any instant leaves each file old or new. Executing the same plan again does the steps that are left.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence

from sandbox.changes.apply_plan import Plan
from sandbox.changes.host_attributes import Attributes, Owners
from sandbox.changes.host_check import TYPES, Places, examine, has_attributes, is_old
from sandbox.changes.host_tree import HostTree
from sandbox.changes.members import LeftOut, Members
from sandbox.changes.rows import OldObject
from sandbox.changes.step_order import WITH_MEMBER, Action, Step
from sandbox.errors import SandboxError
from sandbox.images.compression import Readable
from sandbox.images.destination import RefusedError
from sandbox.images.destination import relative as member_path
from sandbox.images.names import printable
from sandbox.images.tar import Kind, Member
from unionfs._stdlib.dataclasses import dataclass

_CHANGED = "it changed on the host since it was compared"
_HINT = "look at it, then run the command again, or exclude this path"
_AGAIN = "the sandbox changed it meanwhile: run the command again"
_MEMBER_TYPES = {
    Kind.FILE: stat.S_IFREG,
    Kind.DIRECTORY: stat.S_IFDIR,
    Kind.SYMLINK: stat.S_IFLNK,
    Kind.FIFO: stat.S_IFIFO,
    Kind.CHARACTER_DEVICE: stat.S_IFCHR,
    Kind.BLOCK_DEVICE: stat.S_IFBLK,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """What was done."""

    #: Steps that were done now, and steps that an earlier execution had done.
    done: int
    found_done: int
    left_out: tuple[LeftOut, ...]


def execute(
    plan: Plan,
    tree: HostTree,
    stream: Readable | None,
    owners: Owners,
    on_step: Callable[[Step], None] = lambda _step: None,
    *,
    structural: bool = False,
) -> Applied:
    """Do the steps of *plan*, which must have no conflicts, to *tree*.

    Args:
        plan: what is to be done.
        tree: the directory of the host.
        stream: the archive of `Plan.members`, or of `Plan.structural_members`; None if there are none.
        owners: returns the ids of the host for those of a row or member.
        on_step: called after each step, also if it was found done.
        structural: do the structural steps only. A later call without it does the others.

    Raises:
        SandboxError: the host has changed since it was compared, or something cannot be written. The message names the path.
    """
    if plan.conflicts or (found := examine(plan, tree, owners)):
        conflicts = plan.conflicts or found
        more = f", and {len(conflicts) - 1} more conflicts" if len(conflicts) > 1 else ""
        raise SandboxError(f"{conflicts[0].text()}{more}; nothing was changed", hint=_HINT)
    steps = plan.structural_steps if structural else plan.steps
    execution = _Execution(plan, steps, tree, stream, owners)
    for step in steps:
        execution.run(step)
        on_step(step)
    return execution.finish()


class _Execution:
    def __init__(
        self, plan: Plan, steps: Sequence[Step], tree: HostTree, stream: Readable | None, owners: Owners
    ) -> None:
        self._tree = tree
        self._members = None
        if any(step.action in WITH_MEMBER for step in steps):
            if stream is None:
                raise ValueError("the plan needs an archive")
            self._members = Members(stream, tree, owners)
        self._places = Places(plan)
        #: The directories that were made, whose times are set at the end.
        self._made: list[tuple[bytes, Attributes]] = []
        self._written: set[bytes] = set()
        self._done = 0
        self._found_done = 0

    def run(self, step: Step) -> None:
        """Do *step*, unless an earlier execution of the plan did."""
        match step.action:
            case Action.MOVE | Action.MOVE_ASIDE:
                done = self._move(step)
            case Action.REMOVE:
                done = self._remove(step)
            case Action.MAKE_DIRECTORY:
                done = self._make_directory(step, self._member(step))
            case Action.WRITE:
                done = self._write(step, self._member(step))
            case _:
                done = self._set_attributes(step, self._member(step))
        if done:
            self._done += 1
        else:
            self._found_done += 1

    def finish(self) -> Applied:
        """Set the times of new directories, and write everything to disk."""
        left_out: tuple[LeftOut, ...] = ()
        if self._members is not None:
            member = self._members.next()
            if member is not None:
                raise self._unexpected(member)
            left_out = tuple(self._members.left_out)
        for path, attributes in reversed(self._made):
            self._tree.set_time(path, attributes.mtime_ns)
        self._tree.synchronize()
        return Applied(done=self._done, found_done=self._found_done, left_out=left_out)

    # -- steps; each returns whether it was done now -----------------------------------------------

    def _move(self, step: Step) -> bool:
        assert step.old is not None
        if self._places.is_before(self._tree, step):
            target = self._tree.lstat(step.path)
            if target is not None and not is_old(target, step.replaced):
                raise self._conflict(step.path)
            check = self._check(step.path, step.replaced)
            self._tree.rename(step.source, step.path, replace=target is not None, check=check)
            return True
        if not self._places.has_moved(self._tree, step):
            raise self._conflict(step.source)
        return False

    def _remove(self, step: Step) -> bool:
        assert step.old is not None
        here = self._tree.lstat(step.path)
        if here is None or self._places.is_replaced(self._tree, step.path, step.old, here):
            return False
        self._tree.remove(step.path, self._check(step.path, step.old))
        return True

    def _make_directory(self, step: Step, member: Member) -> bool:
        assert self._members is not None
        attributes = self._members.attributes(member)
        here = self._tree.lstat(step.path)
        if here is not None and stat.S_ISDIR(here.st_mode):
            if not has_attributes(here, attributes):
                raise self._conflict(step.path)
            self._tree.discard_leftover(step.path)
            if stat.S_IMODE(here.st_mode) != attributes.mode:
                self._tree.set_directory_attributes(step.path, attributes)
            self._made.append((step.path, attributes))
            return False
        check = self._check(step.path, step.old)
        check(here)
        self._members.note(step.path, member, self._tree.make_directory(step.path, attributes, check))
        self._made.append((step.path, attributes))
        return True

    def _write(self, step: Step, member: Member) -> bool:
        assert self._members is not None
        first = None
        if member.kind is Kind.HARD_LINK:
            first = self._path(member.link)
            if first not in self._written:
                raise self._unexpected(member)
        self._written.add(step.path)
        here = self._tree.lstat(step.path)
        if is_old(here, step.old) if step.old is not None else here is None:
            self._members.put(member, step.path, first, self._check(step.path, step.old))
            return True
        changed_in_place = here is not None and step.old is not None and here.st_ino == step.old.ino
        if here is None or changed_in_place or not self._is_wanted(here, step.path, member, first):
            raise self._conflict(step.path)
        self._tree.discard_leftover(step.path)
        return False

    def _set_attributes(self, step: Step, member: Member) -> bool:
        assert self._members is not None
        here = self._tree.lstat(step.path)
        if not is_old(here, step.old):
            raise self._conflict(step.path)
        attributes = self._members.attributes(member)
        self._members.note(step.path, member, self._tree.set_directory_attributes(step.path, attributes))
        return True

    # -- comparing ---------------------------------------------------------------------------------

    def _is_wanted(self, here: os.stat_result, path: bytes, member: Member, first: bytes | None) -> bool:
        """Return whether the object at *path* is the one of *member*, written by an earlier execution."""
        assert self._members is not None
        tree = self._tree
        if first is not None:
            there = tree.lstat(first)
            return there is not None and os.path.samestat(here, there)
        attributes = self._members.attributes(member)
        if stat.S_IFMT(here.st_mode) != _MEMBER_TYPES[member.kind] or not has_attributes(here, attributes):
            return False
        match member.kind:
            case Kind.FILE:
                equal = self._has_contents(path, member)
            case Kind.SYMLINK:
                equal = tree.read_link(path) == member.link
            case Kind.CHARACTER_DEVICE | Kind.BLOCK_DEVICE:
                equal = here.st_rdev == self._members.device(member, path)
            case _:
                equal = True
        if equal and here.st_mtime_ns != member.mtime_ns:
            tree.set_time(path, member.mtime_ns)
        return equal

    def _has_contents(self, path: bytes, member: Member) -> bool:
        assert self._members is not None
        fd = self._tree.open_file(path)
        try:
            return stat.S_ISREG(os.fstat(fd).st_mode) and self._members.equals(fd, member)
        finally:
            os.close(fd)

    def _check(self, path: bytes, old: OldObject | None) -> Callable[[os.stat_result | None], None]:
        """Return a function that raises unless it is given the status of *old*, None if *old* is None."""

        def check(here: os.stat_result | None) -> None:
            if not (is_old(here, old) if old is not None else here is None):
                raise self._conflict(path)

        return check

    def _conflict(self, path: bytes) -> SandboxError:
        return SandboxError(f"{self._tree.shown(path)}: {_CHANGED}", hint=_HINT)

    # -- members -----------------------------------------------------------------------------------

    def _member(self, step: Step) -> Member:
        """Return the next member, which must be that of *step*."""
        assert self._members is not None
        member = self._members.next()
        if member is None:
            raise SandboxError(f"{self._tree.shown(step.path)}: it is missing in the sandbox", hint=_AGAIN)
        if self._path(member.name) != step.path:
            raise self._unexpected(member)
        wanted = TYPES[step.change.type]
        if member.kind is Kind.HARD_LINK:
            fits = wanted != stat.S_IFDIR
        else:
            fits = _MEMBER_TYPES[member.kind] == wanted
        if not fits:
            raise SandboxError(f"{self._tree.shown(step.path)}: it is no {step.change.type}", hint=_AGAIN)
        return member

    def _path(self, name: bytes) -> bytes:
        try:
            return member_path(name)
        except RefusedError as error:
            raise SandboxError(f"{printable(name)}: {error}", hint=_AGAIN) from None

    def _unexpected(self, member: Member) -> SandboxError:
        return SandboxError(f"{printable(member.name)}: it is not expected here", hint=_AGAIN)
