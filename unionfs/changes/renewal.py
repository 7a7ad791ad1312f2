"""Bring the writable layer into line with a layer below to which its changes have been written (`sandbox apply`).

The changes stay in the writable layer: as they equal what is below now, they are no longer changes. Two things must follow what
was written. The records of what is below (unionfs/upper/below_facts.py) describe the objects from before. And marks lead to
places from which objects moved away: the redirect of a directory that is at its new place below, too, and that of a metadata-only
copy whose contents are there. Over earlier layers, the marks stay: a relocation shows the objects at their old places
(unionfs/changes/relocation.py).

The caller makes sure that no server uses the layer if anything moved: a server keeps redirects in memory.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable

from unionfs.changes.compared_stack import ComparedStack
from unionfs.changes.merged_tree import Entry, joined
from unionfs.formats.xattrs import METACOPY_XATTRS, REDIRECT_XATTRS
from unionfs.layer.directory import LayerDir
from unionfs.layer.metacopy import is_metacopy, redirect_of
from unionfs.layer.objects import NO_XATTR, at_path
from unionfs.types import Mark
from unionfs.upper.below_facts import BelowFactsLog


def renew(stack: ComparedStack, home_fd: int, paths: Iterable[bytes]) -> None:
    """Renew the records of *paths*, and those of what the writable layer has below them, and mend their redirects.

    Over earlier layers, only the records of *paths* are renewed. Otherwise, first mend what an earlier call did not get to do,
    because its program was killed: directories and metadata-only copies whose redirect leads to nothing, while the layers below
    have the object at its own path.

    *home_fd* is the directory ``unionfs`` in the work directory.

    Raises:
        OSError: the layer cannot be written.
    """
    log = BelowFactsLog(home_fd)
    try:
        renewal = _Renewal(stack, log)
        if stack.earlier:
            for path in paths:
                renewal.record(path)
            return
        for path in [*renewal.unfinished(), *paths]:
            renewal.at(path)
    finally:
        log.close()


class _Renewal:
    """The renewal of one path and of what is below it."""

    def __init__(self, stack: ComparedStack, log: BelowFactsLog) -> None:
        self._below = stack.below
        self._log = log
        top = stack.union.root.ref
        assert isinstance(top, LayerDir)
        self._top = top

    def unfinished(self) -> list[bytes]:
        """Return the paths of objects of the writable layer that moved, and have moved below, too."""
        found: list[bytes] = []
        pending = [(self._top, b"")]
        while pending:
            directory, path = pending.pop()
            for name in directory.names():
                mark, at = directory.mark(name), joined(path, name)
                if mark in (Mark.DIRECTORY, Mark.OPAQUE_DIRECTORY):
                    child = directory.child(name)
                    if self._leads_nowhere(child.redirected(), path, at, directory=True):
                        found.append(at)
                    else:
                        pending.append((child, at))
                elif mark is Mark.OTHER and directory.layer.policy.metacopy:
                    ref = directory.entry(name)
                    if is_metacopy(ref, ref.stat()) and self._leads_nowhere(
                        redirect_of(ref), path, at, directory=False
                    ):
                        found.append(at)
        return found

    def _leads_nowhere(self, redirect: bytes | None, parent: bytes, path: bytes, *, directory: bool) -> bool:
        """Return whether *redirect* of the object at *path* leads to nothing, and there is such an object at *path* below."""
        if not redirect:
            return False
        target = redirect[1:] if redirect.startswith(b"/") else joined(parent, redirect)
        if target == path:
            return False
        try:
            here = self._below.at(path)
            return here is not None and here.is_dir == directory and self._below.at(target) is None
        except PermissionError:
            return False

    def at(self, path: bytes) -> None:
        self.record(path)
        parent, _, name = path.rpartition(b"/")
        directory = _descend(self._top, parent)
        if directory is not None and path:
            self._entry(directory, name, path)

    def record(self, path: bytes) -> Entry | None:
        """Renew the record of *path*, and return what is there below; None for nothing, and in a directory that is closed to us."""
        try:
            old = self._below.at(path)
        except PermissionError:
            return None
        self._log.renew(b"/" + path, None if old is None else old.info)
        return old

    def _entry(self, directory: LayerDir, name: bytes, path: bytes) -> None:
        """Mend *name* of *directory* in the writable layer, and renew the records of everything below it."""
        pending = [(directory, name, path)]
        while pending:
            directory, name, path = pending.pop()
            mark = directory.mark(name)
            if mark in (None, Mark.WHITEOUT):
                continue
            old = self.record(path)
            if mark is Mark.OTHER:
                if old is not None and old.is_file:
                    _lead_to(directory, name, path)
                continue
            child = directory.child(name)
            if old is not None and old.is_dir:
                _remove_redirect(child)
            pending += [(child, each, joined(path, each)) for each in child.names()]


def _descend(directory: LayerDir, path: bytes) -> LayerDir | None:
    """Return the directory at *path* below *directory* in the same layer; None if the layer has none there."""
    for name in filter(None, path.split(b"/")):
        if directory.mark(name) not in (Mark.DIRECTORY, Mark.OPAQUE_DIRECTORY):
            return None
        directory = directory.child(name)
    return directory


def _remove_redirect(directory: LayerDir) -> None:
    """Remove the redirect of *directory*: it merges with the directory at its own path below."""
    for name in REDIRECT_XATTRS:
        try:
            os.removexattr(directory.proc_path(), name)
        except OSError as error:
            if error.errno not in NO_XATTR:
                raise


def _lead_to(directory: LayerDir, name: bytes, path: bytes) -> None:
    """Let the metadata-only copy *name* of *directory* have its contents at *path* below. Any other file is left alone."""
    at = at_path(directory.fd(), name)
    if not stat.S_ISREG(os.stat(name, dir_fd=directory.fd(), follow_symlinks=False).st_mode):
        return
    try:
        present = os.listxattr(at, follow_symlinks=False)
    except OSError as error:
        if error.errno not in NO_XATTR:
            raise
        return
    if any(mark in present for mark in METACOPY_XATTRS):
        for redirect in REDIRECT_XATTRS:
            if redirect in present:
                os.setxattr(at, redirect, b"/" + path, follow_symlinks=False)
