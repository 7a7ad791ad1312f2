"""Executes the steps of a plan to discard changes. Each step is atomic, unless its description says otherwise.

The steps work on the directories of the writable layer (:class:`unionfs.upper.upper.Upper`), whose paths are those of the union.
The table of inodes is empty between two steps, because it would not notice the changes. The link index counts each name of a
lower file that is shown again, before that happens.
"""

from __future__ import annotations

import errno
import os
import stat
from bisect import bisect_left
from collections.abc import Collection, Iterable

from unionfs.changes.compared_stack import ComparedStack
from unionfs.changes.discard_steps import (
    NO_HOLES,
    Exchange,
    Hide,
    MakeDirectory,
    Move,
    Recreate,
    Release,
    Restore,
    RestoreLinks,
    SetAttributes,
    Step,
)
from unionfs.changes.hidden import copies_in, hidden_in, names_in
from unionfs.changes.link_counts import LinkCounts
from unionfs.changes.merged_tree import LABELS, Entry, joined
from unionfs.changes.names_over_earlier import NamesOverEarlier
from unionfs.changes.places import is_at_or_below
from unionfs.changes.rows import Row
from unionfs.changes.union_paths import UnionPaths, kept_times
from unionfs.copyup.transaction import times_of
from unionfs.formats import acl
from unionfs.inode.inode import DirectoryInode, FileInode, Inode
from unionfs.layer.directory import LayerDir
from unionfs.layer.objects import PathRef
from unionfs.layer.resolve import resolve
from unionfs.types import Mark
from unionfs.upper.workdir import OPEN_DIR
from unionfs.vfs.attributes import Change
from unionfs.vfs.filesystem import UnionFs

_ACLS = frozenset((acl.ACCESS, acl.DEFAULT))


class Discarder:
    """Executes the steps of one plan. It borrows the file system and the stack that was compared for the plan."""

    def __init__(
        self, fs: UnionFs, stack: ComparedStack, rows: Collection[Row], *, has_earlier: bool = False
    ) -> None:
        """Change the writable layer of *fs*, which is that of *stack*. *rows* are all of its changes.

        *has_earlier*: some of the lower layers are earlier ones. If *stack* has them as such, the steps show the objects below them;
        otherwise, they show those of all lower layers.
        """
        self._fs = fs
        self._inode_table = fs.inode_table
        parts = fs.parts()
        self._upper = parts.upper
        self._index = parts.index
        self._copy_up = parts.copy_up
        self._paths = UnionPaths(fs)
        self._below = stack.below
        self._has_earlier = has_earlier
        #: None: the layers that the steps show lie directly below the writable one.
        self._names = NamesOverEarlier(fs, stack.below, rows) if stack.earlier else None
        self._recorded = stack.facts.paths() if stack.facts is not None else []
        self._link_counts = LinkCounts(self._index, fs.inode_table.numbers, stack, rows)

    def execute(self, steps: Iterable[Step]) -> None:
        """Execute *steps*.

        Raises:
            OSError: a step failed.
        """
        for step in steps:
            if isinstance(step, Restore):
                self._restore(step.path, step.old_path, step.holes)
            elif isinstance(step, MakeDirectory):
                self._put_directory(step.path, self._old(step.old_path), step.old_path, None)
            elif isinstance(step, SetAttributes):
                self._set_attributes(step.path, step.old_path)
            elif isinstance(step, Recreate):
                self._copy(step.path, self._old(step.old_path), step.old_path)
            elif isinstance(step, RestoreLinks):
                self._restore_links(step)
            elif isinstance(step, Release):
                self._release(step)
            elif isinstance(step, Hide):
                self._hide(step.path)
            elif isinstance(step, Move):
                self._move(step)
            else:
                self._exchange(step)
            self._fs.trim()

    # -- names -------------------------------------------------------------------------------------

    def _old(self, old_path: bytes) -> Entry:
        entry = self._below.at(old_path)
        if entry is None:
            raise OSError(errno.ESTALE, "a layer below has changed meanwhile", b"/" + old_path)
        return entry

    @staticmethod
    def _shows(above: DirectoryInode, name: bytes, old: Entry) -> bool:
        """Return whether the layers below the writable one show *old* as *name* of *above*."""
        parts = [part for part in above.parts if not (part.layer.writable or part.layer.skeleton)]
        found = resolve(parts, name)
        if found is None:
            return False
        directory, at = found.places(parts, name)[0]
        info = directory.child(at).stat() if found.is_dir else directory.entry(at).stat()
        return (info.st_dev, info.st_ino) == (old.info.st_dev, old.info.st_ino)

    # -- objects are shown -------------------------------------------------------------------------

    def _restore(self, path: bytes, old_path: bytes | None, holes: frozenset[bytes]) -> None:
        above, directory, name = self._paths.directory_of(path)
        if old_path is None:
            self._clear(path)
            return
        old = self._old(old_path)
        if not self._shows(above, name, old):
            if old.is_dir:
                self._copy_tree(path, old, old_path, holes)
            else:
                self._copy(path, old, old_path)
        elif holes:
            self._put_directory(path, old, old_path, holes)
        else:
            self._show_through(directory, name, old, old_path)

    def _clear(self, path: bytes) -> None:
        """Remove what the writable layer has at *path*, where the layers below have nothing."""
        if self._names is not None:
            self._paths.remove(path)  # an earlier layer may have something there
            return
        _, directory, name = self._paths.directory_of(path)
        with kept_times(directory):
            self._upper.clear(directory, name)

    def _show_through(self, directory: LayerDir, name: bytes, old: Entry, old_path: bytes) -> None:
        self._link_counts.gain(hidden_in(self._below, directory, name, old, old_path))
        for copy, entry in copies_in(self._below, directory, name, old):
            info = copy.stat()
            # Its other links are no copies of the old object any more.
            has_others = info.st_nlink > 1 and not self._index.has(info.st_ino)
            if has_others and self._index.origin(copy, info) == self._link_counts.number(entry):
                self._index.clear_origin(copy)
        with kept_times(directory):
            self._upper.clear(directory, name)
        self._forget_facts(old_path, NO_HOLES)

    def _copy_tree(self, path: bytes, old: Entry, old_path: bytes, holes: frozenset[bytes]) -> None:
        """Copy the old directory *old* with what is in it, but for *holes*. Each object is copied whole."""
        pending = [(path, old, old_path)]
        while pending:
            to, entry, at = pending.pop()
            if not entry.is_dir:
                self._copy(to, entry, at)
            else:
                self._put_directory(to, entry, at, None)
                pending += [
                    (joined(to, name), child, joined(at, name))
                    for name in reversed(self._below.names(entry.parts))
                    if joined(at, name) not in holes and (child := self._below.find(entry.parts, name))
                ]
            self._fs.trim()

    def _copy(self, path: bytes, old: Entry, old_path: bytes, *, as_copy: bool = False) -> None:
        """Put a copy of the non-directory *old* at *path*.

        It gets the inode number of *old* if no other name leads to *old*, or if it is to stand for *old* *as_copy* of it.
        """
        assert isinstance(old.ref, PathRef)
        _, directory, name = self._paths.directory_of(path)
        if (
            directory.mark(name) is Mark.OTHER
            and not old.is_file
            and self._differs_in_attributes_only(path, old)
        ):
            self._set_attributes(path, old_path)  # a copy of it could not record where it was
            return
        self._fs.trim()
        if self._names is not None and self._names.link(path, old):
            self._renew_fact(old, old_path)
            return
        replaced = None
        if self._names is not None:
            self._paths.empty(path)
            replaced = self._names.replacing(path)
        self._fs.trim()
        inode = self._inode_table.add_unnamed_file(old.ref, old.info)
        above, _, _ = self._paths.directory_of(path)
        self._inode_table.attach(inode, above, name)
        if old.info.st_dev != old.ref.directory.device:
            inode.is_mount_point = old.ref.directory.is_mount_point(old.ref.name)
        if old.is_file and not inode.is_mount_point:
            inode.data = self._below.metadata_copy_of(old)
            inode.metacopy = inode.data is not None
        is_only_copy = self._names is not None and self._index.find(self._link_counts.number(old)) is None
        self._copy_up.recreate(inode, origin=as_copy or is_only_copy or old.info.st_nlink == 1)
        self._fs.trim()
        if self._names is not None and replaced is not None:
            replaced()
            self._names.note_same(old, old_path, path)
            self._renew_fact(old, old_path)
            self._fs.trim()

    def _differs_in_attributes_only(self, path: bytes, old: Entry) -> bool:
        """Return whether the object at *path* may be *old*, which is neither a file nor a directory, with other attributes."""
        inode = self._paths.inode(path)
        if not isinstance(inode, FileInode) or inode.kind != stat.S_IFMT(old.mode):
            is_same = False
        elif stat.S_ISLNK(inode.kind):
            is_same = inode.ref.readlink() == self._below.target(old)
        else:
            is_same = inode.ref.stat().st_rdev == old.info.st_rdev
        return is_same

    # -- directories are made ----------------------------------------------------------------------

    def _put_directory(
        self, path: bytes, old: Entry, old_path: bytes, holes: frozenset[bytes] | None
    ) -> None:
        """Put a directory with the attributes of *old* at *path*, in place of what is there.

        With *holes*, it merges with the old one, and hides what is at these old paths. None: it does not merge.
        """
        above, directory, name = self._paths.directory_of(path)
        if holes is not None:
            self._link_counts.gain(names_in(self._below, old, old_path, holes))
        below = self._inode_table.below(above, name) if self._names is not None and holes is None else None
        replaced = self._names.replacing(path) if self._names is not None else None
        with kept_times(directory), self._upper.workdir.building() as (tmp_fd, tmp):
            opaque = below is not None and below.is_dir
            self._make_directory(tmp_fd, tmp, old, old_path, holes or NO_HOLES, opaque=opaque)
            self._upper.put_directory(tmp, directory, name)
        if replaced is not None:
            replaced()
            self._renew_fact(old, old_path)
        if holes is not None:
            self._forget_facts(old_path, holes)

    def _make_directory(
        self,
        tmp_fd: int,
        tmp: bytes,
        old: Entry,
        old_path: bytes,
        holes: frozenset[bytes],
        *,
        opaque: bool = False,
    ) -> None:
        assert isinstance(old.ref, LayerDir)
        os.mkdir(tmp, 0o700, dir_fd=tmp_fd)
        made = LayerDir(self._upper.layer, None, tmp)
        made.adopt(os.open(tmp, OPEN_DIR, dir_fd=tmp_fd))
        try:
            for name in sorted({hole[len(old_path) + 1 :].partition(b"/")[0] for hole in holes}):
                child_path = joined(old_path, name)
                if child_path in holes:
                    self._upper.marks.whiteout(made, name)
                else:
                    inner = frozenset(hole for hole in holes if is_at_or_below(hole, child_path))
                    self._make_directory(made.fd(), name, self._old(child_path), child_path, inner)
            if opaque:
                self._upper.marks.set_opaque(tmp_fd, tmp)
        finally:
            made.close()
        self._copy_up.make_alike(old.ref, tmp_fd, tmp, old.ref.stat())

    # -- attributes --------------------------------------------------------------------------------

    def _set_attributes(self, path: bytes, old_path: bytes) -> None:
        """Set owner, mode and attributes of an object in the writable layer. A kill may leave some of them as they were.

        Of a directory that has nothing in the writable layer, the old one shows through instead.
        """
        old = self._old(old_path)
        if path and old.is_dir:
            above, directory, name = self._paths.directory_of(path)
            if self._shows(above, name, old) and _is_empty_and_unmarked(directory, name):
                self._show_through(directory, name, old, old_path)
                return
        inode = self._paths.inode(path)
        now, change = self._fs.attributes.of(inode), self._fs.attributes.change
        if (now.uid, now.gid) != (old.uid, old.gid):
            change(inode.ino, Change(uid=old.uid, gid=old.gid), None)
        self._set_xattrs(inode, self._below.attributes(old))
        if not stat.S_ISLNK(old.mode) and self._fs.attributes.of(inode).mode != old.mode:
            change(inode.ino, Change(mode=stat.S_IMODE(old.mode)), None)
        if not old.is_dir:
            atime_ns, mtime_ns = times_of(old.info)
            change(inode.ino, Change(atime_ns=atime_ns, mtime_ns=mtime_ns), None)

    def _set_xattrs(self, inode: Inode, wanted: dict[str, bytes]) -> None:
        xattrs = self._fs.xattrs
        present = {name: xattrs.get(inode.ino, name) for name in xattrs.list(inode.ino)}
        for name in present.keys() - wanted.keys() - LABELS:
            xattrs.remove(inode.ino, name)
        for name, stored in wanted.items():
            value = acl.mapped(stored) if name in _ACLS else stored
            if present.get(name) == value:
                continue
            try:
                xattrs.set(inode.ino, name, value)
            except OSError as error:  # as for a copy-up (copyup/transaction.py)
                unprivileged = error.errno == errno.EPERM and name.startswith(("trusted.", "security."))
                if not unprivileged and (error.errno != errno.EOPNOTSUPP or name in _ACLS):
                    raise

    # -- objects are removed and moved -------------------------------------------------------------

    def _hide(self, path: bytes) -> None:
        if self._names is not None:
            self._paths.remove(path)
            return
        above, directory, name = self._paths.directory_of(path)
        mark = directory.mark(name)
        lower = self._inode_table.below(above, name) is not None
        with kept_times(directory):
            if mark in (Mark.DIRECTORY, Mark.OPAQUE_DIRECTORY):
                self._upper.remove_directory(directory, name, whiteout=lower)
            elif mark is Mark.OTHER:
                self._upper.remove(directory, name, whiteout=lower)

    def _move(self, step: Move) -> None:
        above, directory, name = self._paths.directory_of(step.path)
        to_above, to_directory, to_name = self._paths.directory_of(step.to)
        old = self._old(step.old_path)
        if self._inode_table.exists(to_above, to_name):
            raise OSError(errno.EEXIST, os.strerror(errno.EEXIST), b"/" + step.to)
        if self._names is not None:
            self._names.move(step)
            if step.reveals is not None:
                self._restore(step.path, step.reveals, NO_HOLES)
            return
        is_dir = self._prepare_to_move(directory, name, step.old_path)
        whiteout = step.reveals is None and self._inode_table.below(above, name) is not None
        if step.reveals is not None:
            self._link_counts.gain(names_in(self._below, self._old(step.reveals), step.reveals))
        with kept_times(directory), kept_times(to_directory):
            self._upper.rename((directory, name), (to_directory, to_name), whiteout=whiteout, is_dir=is_dir)
        if step.reveals is not None:
            self._forget_facts(step.reveals, NO_HOLES)
        if not is_dir and self._shows(to_above, to_name, old):
            self._show_through(to_directory, to_name, old, step.old_path)  # the copy is no longer needed

    def _exchange(self, step: Exchange) -> None:
        if self._names is not None:
            self._names.exchange(step)
            return
        _, directory, name = self._paths.directory_of(step.path)
        _, other_directory, other_name = self._paths.directory_of(step.other)
        self._prepare_to_move(directory, name, step.old_path)
        self._prepare_to_move(other_directory, other_name, step.other_old_path)
        with kept_times(directory), kept_times(other_directory):
            self._upper.exchange((directory, name), (other_directory, other_name))

    def _prepare_to_move(self, directory: LayerDir, name: bytes, old_path: bytes) -> bool:
        """Let the moved object *name* find what it has in the layers below from any other place. Return whether it is a
        directory.
        """
        mark = directory.mark(name)
        if mark is None or mark is Mark.WHITEOUT:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        if mark is Mark.OTHER:
            return False
        child = directory.child(name)
        if not (child.redirected() or b"").startswith(b"/"):
            self._upper.set_redirect(child, b"/" + old_path)
        return True

    # -- hard links, and the records of what was below ---------------------------------------------

    def _renew_fact(self, old: Entry, old_path: bytes) -> None:
        """Record what the layers below the earlier ones have at *old_path*, of which there is a copy now."""
        log = self._upper.below_facts
        if log is not None:
            log.renew(b"/" + old_path, old.info)

    def _restore_links(self, step: RestoreLinks) -> None:
        old, first = self._old(step.old_path), step.names[0]
        ino = self._link_counts.number(old)
        _, directory, name = self._paths.directory_of(first)
        changed = PathRef(directory, name).pinned() if directory.mark(name) is Mark.OTHER else None
        try:
            self._copy(first, old, step.old_path, as_copy=True)
            _, directory, name = self._paths.directory_of(first)
            copy = PathRef(directory, name)
            present = self._index.find(ino)
            if present is not None and present.stat().st_ino == step.inode:
                self._index.replace(ino, copy)
            if self._names is not None:
                for path in step.names[1:]:
                    self._names.link(path, old)
                return
            for path in step.names[1:]:
                _, to, to_name = self._paths.directory_of(path)
                with kept_times(to), self._upper.workdir.building() as (tmp_fd, tmp):
                    os.link(name, tmp, src_dir_fd=directory.fd(), dst_dir_fd=tmp_fd, follow_symlinks=False)
                    self._upper.publish(tmp, to, to_name)
            if changed is not None:
                self._index.clear_origin(changed)
        finally:
            if changed is not None:
                changed.close()

    def _release(self, step: Release) -> None:
        old = self._old(step.old_path)
        ino = self._link_counts.number(old)
        copy = self._index.find(ino)
        if copy is not None and copy.stat().st_ino == step.inode:
            self._index.clear_origin(copy)
            self._index.release(ino, old.info.st_nlink)
        for name in step.names:
            self._forget_facts(name, NO_HOLES)

    def _forget_facts(self, old_path: bytes, holes: frozenset[bytes]) -> None:
        """Remove the records of what the layers below had at and below *old_path*, where they show through now.

        With *holes*, the writable layer has directories there that lead to these.
        """
        log = self._upper.below_facts
        if log is None:
            return
        if self._has_earlier:
            base = _base_path(self._old(old_path))
            holes = frozenset(base + hole[len(old_path) :] for hole in holes)
            old_path = base
        at = bisect_left(self._recorded, old_path)
        while at < len(self._recorded) and self._recorded[at].startswith(old_path):
            path = self._recorded[at]
            at += 1
            is_kept = any(is_at_or_below(path, hole) or is_at_or_below(hole, path) for hole in holes)
            if is_at_or_below(path, old_path) and not is_kept:
                log.renew(b"/" + path, None)


def _base_path(old: Entry) -> bytes:
    """Return the path of *old* in its lowest layer, which no earlier layer has moved. The records have that path."""
    if isinstance(old.ref, PathRef):
        return joined(old.ref.directory.path(), old.ref.name)
    return old.parts[-1].path()


def _is_empty_and_unmarked(directory: LayerDir, name: bytes) -> bool:
    """Return whether the directory *name* of the writable layer has no entries and no marks."""
    if directory.mark(name) is not Mark.DIRECTORY:
        return False
    child = directory.child(name)
    try:
        return not (child.is_opaque() or child.redirected() or os.listdir(child.proc_path()))
    except PermissionError:
        return False
