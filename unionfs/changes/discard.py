"""Discards changes of a writable layer that no server uses: the union shows the old objects again.

:func:`discard` is called by the command ``unionfs changes --discard``. It opens the stack for writing, as a mount does, and
compares it. :mod:`unionfs.changes.discard_plan` plans the steps, :class:`unionfs.changes.discarder.Discarder` executes them.

A killed process leaves the layer usable, and the same command resumes: it selects what is left. Some objects are only selected
because of others, which may be restored already: names of a changed hard link, and what was below a moved object. They are listed
in ``WORK/unionfs/discard`` meanwhile, a sequence of records that end with a zero byte: ``=PATH`` is a chosen path, ``+PATH`` an
old object to be shown, ``-PATH`` a hole in it, ``*PATH`` a name of a hard link. The list counts for the same chosen paths only.

If an earlier layer has one of the changes (:mod:`unionfs.changes.discard_earlier`), the old objects are those of the layers below
the earlier ones. The list is then in ``WORK/unionfs/discard-below-earlier``, because its old paths are those of these layers.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from contextlib import ExitStack, suppress

from unionfs.assemble import StackSource, open_stack
from unionfs.changes.compared_stack import ComparedStack, open_stack_to_compare
from unionfs.changes.comparison import Comparison
from unionfs.changes.discard_earlier import changes_of_writable_layer, without_earlier
from unionfs.changes.discard_plan import Conflict, make_plan
from unionfs.changes.discarder import Discarder
from unionfs.changes.hidden import hidden_in, names_in
from unionfs.changes.merged_tree import Entry
from unionfs.changes.places import parent_of
from unionfs.changes.rows import Row
from unionfs.changes.selection import Selection, Shown, Unfinished
from unionfs.changes.stack_copies import descriptors, duplicate, without_mount
from unionfs.errors import UnionError
from unionfs.inode.numbers import Identity
from unionfs.layer.directory import LayerDir
from unionfs.vfs.filesystem import UnionFs

_UNFINISHED = b"discard"
_UNFINISHED_BELOW_EARLIER = b"discard-below-earlier"
#: More than any plan needs.
_MOST_PLANS = 8


def discard(source: StackSource, paths: Iterable[bytes]) -> list[Row]:
    """Discard the changes at and below *paths* of the stack *source*, whose descriptors it takes over.

    Return the rows that it discarded. The umask must be 0.

    Raises:
        UnionError: there is no writable layer, a server uses it, or something that is not selected is in the way. Nothing is
            changed then.
        OSError: a step failed. The steps before it are done; the same call continues.
    """
    with ExitStack() as closing:
        for fd in descriptors(source):
            closing.callback(os.close, fd)
        if source.upper_fd is None or source.work_fd is None:
            raise UnionError("only a writable layer has changes: give upperdir and workdir")
        chosen = sorted({_normal(path) for path in paths})
        if not chosen:
            raise UnionError("no path to discard was given: give PATHs, / for everything")
        source = without_mount(source, source.work_fd)
        fs = open_stack(duplicate(source))
        try:
            return _discard(fs, source, chosen)
        finally:
            fs.close()


def _discard(fs: UnionFs, source: StackSource, chosen: Sequence[bytes]) -> list[Row]:
    workdir = fs.parts().upper.workdir
    list_name, unfinished = (
        _UNFINISHED,
        _read_unfinished(workdir.home_fd, _UNFINISHED, chosen) or Unfinished(),
    )
    discarded: list[Row] = []
    has_earlier = any(lower.earlier for lower in source.lowers)
    if has_earlier:
        begun = _read_unfinished(workdir.home_fd, _UNFINISHED_BELOW_EARLIER, chosen)
        found = None if begun is not None else changes_of_writable_layer(source, chosen, unfinished)
        if found is not None:
            discarded, source = found, without_earlier(source)
        else:
            list_name, unfinished = _UNFINISHED_BELOW_EARLIER, begun or Unfinished()
    for _ in range(_MOST_PLANS):
        stack = open_stack_to_compare(duplicate(source))
        try:
            rows = Comparison(stack).rows()
            selection = Selection(rows, chosen, unfinished)
            discarded = discarded or selection.rows()
            try:
                plan = make_plan(rows, selection, _Layers(stack))
            except Conflict as conflict:
                raise UnionError(str(conflict)) from None
            unfinished.add(plan.unfinished)
            if plan.unfinished.shown or plan.unfinished.restored:
                with suppress(OSError):  # on a full disk, the rest is discarded all the same
                    workdir.save(list_name, _encoded(chosen, unfinished))
            Discarder(fs, stack, rows, has_earlier=has_earlier).execute(plan.steps)
        finally:
            stack.close()
        if not plan.again:
            break
    else:
        raise UnionError("changes are still left, as only a damaged layer has them: see `unionfs changes`")
    fs.parts().index.prune()
    for name in (_UNFINISHED, _UNFINISHED_BELOW_EARLIER):
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=workdir.home_fd)
    return discarded


class _Layers:
    """What a plan has to know about the layers of a compared stack."""

    def __init__(self, stack: ComparedStack) -> None:
        self.has_earlier = bool(stack.earlier)
        self._union = stack.union
        self._below = stack.below

    def has(self, old_path: bytes) -> bool:
        return self._below.at(old_path) is not None

    def shows(self, path: bytes, old_path: bytes) -> bool:
        above, old = self._union.at(parent_of(path)), self._below.at(old_path)
        if above is None or old is None or not above.is_dir:
            return False
        parts = [part for part in above.parts if not part.layer.writable]
        shown = self._below.find(parts, path.rpartition(b"/")[2]) if parts else None
        return shown is not None and _is_same(shown, old)

    def occupied(self, path: bytes) -> bool:
        above = self._union.at(parent_of(path))
        if above is None or not above.ref.layer.writable or not isinstance(above.ref, LayerDir):
            return False
        return above.ref.mark(path.rpartition(b"/")[2]) is not None

    def hides(self, path: bytes, old_path: bytes, objects: Collection[Identity]) -> bool:
        above, old = self._union.at(parent_of(path)), self._below.at(old_path)
        if above is None or old is None or not isinstance(above.ref, LayerDir):
            return False
        found = hidden_in(self._below, above.ref, path.rpartition(b"/")[2], old, old_path)
        return any(_identity(entry) in objects for _, entry in found)

    def names_of(self, old_path: bytes, objects: Collection[Identity]) -> list[bytes]:
        old = self._below.at(old_path)
        if old is None:
            return []
        found = names_in(self._below, old, old_path)
        return sorted(path for path, entry in found if _identity(entry) in objects)


def _is_same(one: Entry, other: Entry) -> bool:
    return _identity(one) == _identity(other)


def _identity(entry: Entry) -> Identity:
    return entry.info.st_dev, entry.info.st_ino


# -- paths ---------------------------------------------------------------------------------------------


def _normal(path: bytes) -> bytes:
    """Return *path* without needless slashes and components.

    Raises:
        UnionError: it is empty or contains "..".
    """
    names = [name for name in path.split(b"/") if name not in (b"", b".")]
    if not path or b".." in names:
        raise UnionError(f"{os.fsdecode(path)!r} is not a path of the union")
    return b"/".join(names)


# -- what a killed process leaves ----------------------------------------------------------------------


def _encoded(chosen: Sequence[bytes], unfinished: Unfinished) -> bytes:
    records = [b"=" + path for path in chosen]
    for each in unfinished.shown:
        records += [b"+" + each.old_path, *(b"-" + hole for hole in sorted(each.holes))]
    records += [b"*" + path for path in sorted(unfinished.restored)]
    return b"".join(record + b"\0" for record in records)


def _read_unfinished(home_fd: int, list_name: bytes, chosen: Sequence[bytes]) -> Unfinished | None:
    """Return what a killed process left in the list *list_name* for the same *chosen* paths; None if there is no such list."""
    found = Unfinished()
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(list_name, flags, dir_fd=home_fd), "rb") as file:
            records = [(record[:1], record[1:]) for record in file.read().split(b"\0")[:-1]]
    except FileNotFoundError:
        return None
    if [path for kind, path in records if kind == b"="] != list(chosen):
        return None
    for kind, path in records:
        if kind == b"+":
            found.shown.append(Shown(path))
        elif kind == b"-" and found.shown:
            found.shown[-1] = Shown(found.shown[-1].old_path, found.shown[-1].holes | {path})
        elif kind == b"*":
            found.restored.add(path)
    return found
