"""Plans how changes are discarded: which steps show the old objects again, in which order, and what forbids it.

:mod:`unionfs.changes.discard` executes the steps, and plans again if the plan says so. A planner makes no system calls. What it has
to know about the layers, it asks :class:`unionfs.changes.clearing.Layers`. Everything that forbids a plan is found before its
first step. The order is such that a process can be killed between any two steps, and the same command selects what is left:

1. Where everything at a path is discarded, and nothing has to be moved into it or out of it, the writable layer's entry is
   removed whole, and the layers below show through.
2. Changed objects are restored where they are, before the moved directories that contain them lose their new paths.
3. Deleted objects are shown. What is to stay hidden in them is a hole.
4. Added objects are removed, and moved objects renamed to their old paths, each as soon as nothing is in its way. Two that
   are in the way of each other are exchanged.

After a plan with moves, the rows are compared and planned once more: when nothing is moved, step 1 applies to more of them.
"""

from __future__ import annotations

import stat
from bisect import bisect_left
from collections.abc import Sequence

from unionfs.changes.clearing import Clearing, Layers
from unionfs.changes.discard_steps import (
    NO_HOLES,
    Exchange,
    Hide,
    MakeDirectory,
    Move,
    Plan,
    Recreate,
    Release,
    Restore,
    RestoreLinks,
    SetAttributes,
)
from unionfs.changes.places import PathSet, Places, is_at_or_below, parent_of, prefixes, topmost
from unionfs.changes.rows import ADDED, CHANGED, DELETED, MOVED, Row
from unionfs.changes.selection import Selection, Shown, printable


class Conflict(Exception):
    """Selected changes cannot be discarded without others. The message names the paths, and says what to discard too."""


def make_plan(rows: Sequence[Row], selection: Selection, layers: Layers) -> Plan:
    """Return the plan for discarding those of *rows* that are in *selection*.

    Raises:
        Conflict: something that is not selected forbids it.
    """
    return _Planner(rows, selection, layers).plan


class _Planner:
    """Makes one plan. The paths of moved objects change while it is made, as they will when it is executed."""

    def __init__(self, rows: Sequence[Row], selection: Selection, layers: Layers) -> None:
        self.plan = Plan()
        self._rows = rows
        self._selection = selection
        self._chosen = selection.chosen
        self._layers = layers
        self._places = Places(rows)
        #: Paths of added, deleted and changed objects, and whether they are selected.
        self._added = {row.path: row in selection for row in rows if row.kind == ADDED}
        self._deleted = {row.path: row in selection for row in rows if row.kind == DELETED}
        self._still_deleted = sorted(path for path, selected in self._deleted.items() if not selected)
        #: Those of old directories at whose place is something else now.
        self._replaced_directories = {
            row.path: row in selection
            for row in rows
            if row.kind == CHANGED and row.old and row.new and row.old.is_dir and not row.new.is_dir
        }
        #: Selected directories at whose place was something else, and its old path.
        self._new_directories: dict[bytes, bytes] = {}
        #: Old objects that are shown again (True), and holes in them (False). The nearest above a path decides.
        self._shown: dict[bytes, bool] = {}
        #: Directories that a step makes, without what is in them.
        self._made: set[bytes] = set()
        self._clearing = Clearing(rows, selection, self._places, layers)
        #: The paths of selected moved objects that are not at their old paths yet; and how many of them are below each path.
        self._pending: set[bytes] = set()
        self._inside: dict[bytes, int] = {}
        self._check()
        for path, home in self._clearing.topmost():
            self._clear(path, home)
        #: How many added objects, and directories that replaced others, are to be removed below each path.
        self._unwanted: dict[bytes, int] = {}
        for path, selected in self._added.items():
            if selected and not self._clearing.covers_path(path):
                _count(self._unwanted, path, 1)
        for row in rows:
            if row.kind == MOVED and row in selection and not self._clearing.covers(row):
                self._expect(row.path)
        self.plan.again = bool(self._pending)
        self._restore_changed()
        self._show_deleted()
        self._hide_added()
        self._move_back()

    # -- what forbids a plan -----------------------------------------------------------------------

    def _check(self) -> None:
        """Find everything that is not selected and in the way of something that is."""
        for path, selected in self._deleted.items():
            if selected and parent_of(path) not in self._deleted:
                self._check_directory(parent_of(path), f"{printable(path)} cannot be shown again")
        for row in self._rows:
            if row.kind != MOVED or row not in self._selection or row.old_path is None:
                continue
            what = f"{printable(row.path)} cannot be moved back to {printable(row.old_path)}"
            above = parent_of(row.old_path)
            if self._deleted.get(above) is False:
                _refuse(f"{what}: the directory {printable(above)} no longer exists", above)
            if above not in self._deleted:
                self._check_directory(above, what)
            place = self._places.place(row.old_path)
            is_moved = place in self._places.sources and not self._selection.tops.covers(place)
            if self._added.get(place) is False or is_moved:
                _refuse(f"{what}: {printable(place)} is there now", place)

    def _check_directory(self, old_path: bytes, what: str) -> None:
        """Check that the old directory *old_path*, which is not deleted, exists or will."""
        place = self._places.new_path(old_path)
        for path in prefixes(place):
            if self._replaced_directories.get(path) is False:
                _refuse(f"{what}: {printable(path)} is no longer a directory", path)
        if self._places.old_path(place) == old_path:
            return
        for path in prefixes(place):
            if path in self._places.sources and not self._selection.tops.covers(path):
                _refuse(f"{what}: {printable(path)} is where its directory was", path)

    # -- step 1 ------------------------------------------------------------------------------------

    def _clear(self, path: bytes, home: bytes) -> None:
        self._shown[home] = True
        self.plan.steps.append(Restore(path, home if self._layers.has(home) else None))

    # -- step 2 ------------------------------------------------------------------------------------

    def _restore_changed(self) -> None:
        names_of_links: set[int] = set()
        for names in self._selection.groups:
            if names[0] in self._selection:
                names_of_links.update(map(id, names))
                self._restore_names(names)
        for row in self._rows:
            if (
                row.kind == CHANGED
                and row in self._selection
                and id(row) not in names_of_links
                and not self._clearing.covers(row)
            ):
                self._restore_one(row)

    def _restore_one(self, row: Row) -> None:
        path, old_path, new, old = row.path, row.old_path, row.new, row.old
        assert old_path is not None
        assert new is not None
        assert old is not None
        if new.is_dir and old.is_dir:
            self.plan.steps.append(SetAttributes(path, old_path))
        elif new.is_dir:
            self._new_directories[path] = old_path
            _count(self._unwanted, path, 1)
        elif old.is_dir:
            if self.plan.again and not self._layers.shows(path, old_path):
                # When nothing is moved any more, a directory above may be cleared, and what is in this one need not be copied.
                self.plan.steps.append(MakeDirectory(path, old_path))
            else:
                self._show(path, old_path)
        elif not self._can_wait(path, old_path):
            self.plan.steps.append(Restore(path, old_path))

    def _can_wait(self, path: bytes, old_path: bytes) -> bool:
        """Return whether the changed object at *path* would have to be copied, but perhaps not when nothing is moved any more."""
        if not self.plan.again or self._layers.shows(path, old_path) or self._places.place(old_path) != path:
            return False
        return not any(above in self._pending for above in prefixes(path))

    def _restore_names(self, names: Sequence[Row]) -> None:
        """Restore the names of a changed hard link, which are one object."""
        in_place: list[Row] = []
        moved: list[Row] = []
        for row in names:
            assert row.old_path is not None
            is_in_place = self._clearing.covers(row) or self._places.place(row.old_path) == row.path
            (in_place if is_in_place else moved).append(row)
        new, old, old_path = names[0].new, names[0].old, names[0].old_path
        assert new is not None
        assert old is not None
        assert old_path is not None
        self.plan.unfinished.restored.update(row.path for row in names if not self._chosen.covers(row.path))
        if moved and not old.is_file and stat.S_IFMT(new.mode) == stat.S_IFMT(old.mode):
            # Only a regular file can record where it was. Of another object, nothing but attributes can have changed.
            self.plan.steps.append(SetAttributes(moved[0].path, old_path))
            return
        if moved:
            first = moved[0].old_path
            assert first is not None
            self.plan.steps.append(RestoreLinks(first, new.info.st_ino, tuple(row.path for row in moved)))
        self.plan.steps += [
            Restore(row.path, row.old_path)
            for row in in_place
            if not self._clearing.covers(row) and self._must_restore(row)
        ]
        if not moved:
            shown = tuple(
                row.old_path
                for row in in_place
                if row.old_path is not None and self._layers.shows(row.path, row.old_path)
            )
            self.plan.steps.append(Release(old_path, new.info.st_ino, shown))

    def _must_restore(self, row: Row) -> bool:
        """Return whether *row*, one name of a changed hard link, leads to the changed object without the link index."""
        assert row.old_path is not None
        return self._layers.occupied(row.path) or not self._layers.shows(row.path, row.old_path)

    # -- step 3 ------------------------------------------------------------------------------------

    def _show_deleted(self) -> None:
        needed = {
            above for path in self._pending for above in prefixes(parent_of(self._places.sources[path]))
        }
        for old_path, selected in sorted(self._deleted.items()):
            above = parent_of(old_path)
            if (
                not selected
                or self._is_shown(old_path)
                or (above in self._deleted and above not in self._made)
            ):
                continue
            place = self._places.place(old_path)
            if self._places.old_path(parent_of(place)) != above:
                continue  # something that will be moved back is there
            if not self.plan.again or self._layers.shows(place, old_path):
                self._show(place, old_path)
            elif old_path in needed:
                self.plan.steps.append(MakeDirectory(place, old_path))
                self._made.add(old_path)

    def _show(self, path: bytes, old_path: bytes) -> None:
        """Show the old object *old_path* at *path*.

        A name of a file whose other names lead to a changed copy, which stays, would lead to that copy, too.
        """
        holes = self._holes(old_path)
        links = self._links(old_path, holes)
        if old_path not in links:
            self.plan.steps.append(Restore(path, old_path, holes.union(links)))
        self.plan.steps += [Recreate(path + link[len(old_path) :], link) for link in links]
        self._record_shown(old_path, holes)

    def _links(self, old_path: bytes, holes: frozenset[bytes]) -> list[bytes]:
        if not self._clearing.kept_links:
            return []
        names = self._layers.names_of(old_path, self._clearing.kept_links)
        return [name for name in names if not any(above in holes for above in prefixes(name))]

    def _holes(self, old_path: bytes) -> frozenset[bytes]:
        """Return the topmost paths of what is to stay hidden in the old directory *old_path*."""
        top = old_path + b"/"
        found = [path for path in self._places.moves if path.startswith(top)]
        at = bisect_left(self._still_deleted, top)
        while at < len(self._still_deleted) and self._still_deleted[at].startswith(top):
            found.append(self._still_deleted[at])
            at += 1
        return frozenset(topmost(found))

    def _record_shown(self, old_path: bytes, holes: frozenset[bytes]) -> None:
        self._shown[old_path] = True
        self._shown.update((hole, False) for hole in holes)

    def _is_shown(self, old_path: bytes) -> bool:
        while old_path:
            if old_path in self._shown:
                return self._shown[old_path]
            old_path = parent_of(old_path)
        return False

    # -- step 4 ------------------------------------------------------------------------------------

    def _hide_added(self) -> None:
        """Remove added objects that contain no moved one, and new directories where another object was."""
        done = PathSet()
        added = [
            path
            for path, selected in self._added.items()
            if selected and not self._clearing.covers_path(path)
        ]
        candidates = sorted([*added, *self._new_directories])
        for path in candidates:
            if done.covers(path) or self._inside.get(path, 0):
                continue
            done.add(path)
            old_path = self._new_directories.get(path)
            if old_path is None:
                self.plan.steps.append(Hide(path))
                continue
            self.plan.steps.append(Restore(path, old_path))
            if not self._layers.shows(path, old_path) and not self._chosen.covers(old_path):
                self.plan.unfinished.shown.append(Shown(old_path))
        for path in candidates:
            if done.covers(path):
                self._added.pop(path, None)
                self._new_directories.pop(path, None)
                _count(self._unwanted, path, -1)

    def _move_back(self) -> None:
        while self._pending:
            left = len(self._pending)
            # From the inside out: what is inside a moved directory is no longer selected when the directory has moved back.
            for path in sorted(self._pending, key=lambda path: (-path.count(b"/"), path)):
                if self._inside.get(path, 0) or not self._is_free(path):
                    continue
                if self._unwanted.get(path, 0):
                    self._hide_added()
                self._move(path)
            self._hide_added()
            if len(self._pending) == left and not (self._exchange() or self._clear_around()):
                self._give_up()

    def _is_free(self, path: bytes) -> bool:
        """Return whether the moved object at *path* can be renamed to its old path."""
        old_path = self._places.sources[path]
        place = self._places.place(old_path)
        is_free = not (place in self._added or place in self._places.sources)
        return is_free and self._has_directory(parent_of(old_path))

    def _has_directory(self, old_path: bytes) -> bool:
        """Return whether the old directory *old_path* exists now, at the place where it belongs."""
        if old_path in self._deleted and old_path not in self._made and not self._is_shown(old_path):
            return False
        return self._places.old_path(self._places.new_path(old_path)) == old_path

    def _move(self, path: bytes) -> None:
        old_path = self._places.sources[path]
        place = self._places.place(old_path)
        home = self._places.home(path)
        self._forget(path)
        if home is None or home in self._places.moves or not self._layers.has(home):
            self.plan.steps.append(Move(path, place, old_path))
            return
        # The object covered another one, which has no row of its own.
        holes = self._holes(home)
        if not self._chosen.covers(home):
            self.plan.unfinished.shown.append(Shown(home, holes))
        if self._layers.shows(path, home) and not (holes or self._links(home, holes)):
            self.plan.steps.append(Move(path, place, old_path, home))
            self._record_shown(home, NO_HOLES)
        else:
            self.plan.steps.append(Move(path, place, old_path))
            self._show(path, home)

    def _exchange(self) -> bool:
        """Exchange a moved object with another one that is at its place. Return whether there is one."""
        for path in sorted(self._pending):
            old_path = self._places.sources[path]
            other = self._places.place(old_path)
            if other not in self._pending or self._inside.get(path, 0) or self._inside.get(other, 0):
                continue
            if is_at_or_below(path, other) or is_at_or_below(other, path):
                continue
            other_old_path = self._places.sources[other]
            # Otherwise, the other one would not be selected where it will be.
            is_selected = (
                self._chosen.covers(path)
                or self._chosen.covers(other_old_path)
                or any(above in self._pending for above in prefixes(parent_of(path)))
            )
            if not is_selected or not self._has_directory(parent_of(old_path)):
                continue
            self.plan.steps.append(Exchange(path, other, old_path, other_old_path))
            self._forget(path)
            self._forget(other)
            if self._places.place(other_old_path) != path:
                self._places.add(other_old_path, path)
                self._expect(path)
            return True
        return False

    def _clear_around(self) -> bool:
        """Clear a path that contains a moved object and its place, which are in each other. Return whether there is one."""
        for path in sorted(self._pending):
            found = self._clearing.around(path)
            if found is None:
                continue
            self._clear(*found)
            if not self._chosen.covers(found[1]):
                self.plan.unfinished.shown.append(Shown(found[1]))
            for each in [each for each in self._pending if is_at_or_below(each, found[0])]:
                self._forget(each)
            for each in [each for each in self._added if is_at_or_below(each, found[0])]:
                del self._added[each]
            for each in [each for each in self._new_directories if is_at_or_below(each, found[0])]:
                del self._new_directories[each]
            return True
        return False

    def _give_up(self) -> None:
        """Plan to clear everything if everything is selected."""
        path = min(self._pending)
        if not self._chosen.covers(b""):
            _refuse(
                f"{printable(path)} cannot be moved back to {printable(self._places.sources[path])}: one of them is in the other",
                None,
            )
        paths = {row.path for row in self._rows} | {row.old_path or b"" for row in self._rows}
        tops = sorted({path.partition(b"/")[0] for path in paths} - {b""})
        self.plan.steps = [Restore(top, top if self._layers.has(top) else None) for top in tops]
        self._pending.clear()

    def _expect(self, path: bytes) -> None:
        """Record that the object at *path* has to be moved back."""
        self._pending.add(path)
        _count(self._inside, path, 1)

    def _forget(self, path: bytes) -> None:
        """Record that the object at *path* is at its old path."""
        self._places.remove(path)
        self._pending.remove(path)
        _count(self._inside, path, -1)


def _count(inside: dict[bytes, int], path: bytes, change: int) -> None:
    """Count *path* for each directory above it."""
    for above in prefixes(parent_of(path)):
        inside[above] = inside.get(above, 0) + change


def _refuse(reason: str, path: bytes | None) -> None:
    """Raise a conflict that discarding *path*, too, would solve."""
    what = "the directory that contains both" if path is None else printable(path)
    raise Conflict(f"{reason}; discard {what}, too")
