"""Decides whether an object of the union equals an old one: type, owner, mode, times, size, attributes and contents.

Contents are read only if everything else is equal, as after a file was opened for writing but not written. Of a directory,
times and size do not count, because they change with its entries.
"""

from __future__ import annotations

import errno
import os
import stat

from unionfs.changes.merged_tree import GONE, Entry, MergedTree
from unionfs.changes.opened_file import OpenedFile
from unionfs.layer.objects import PathRef

_CHUNK = 1 << 18


class Equality:
    """Compares objects of two trees. It owns nothing."""

    def __init__(self, union: MergedTree, below: MergedTree) -> None:
        """Compare objects of *union* with objects of *below*."""
        self._union = union
        self._below = below

    def equal(self, new: Entry, old: Entry) -> bool:
        """Return whether *new*, of the union, equals *old*.

        It does not if it was removed or replaced meanwhile, or if this account may not read one of them.
        """
        try:
            return self._equal(new, old)
        except OSError as error:
            if error.errno not in GONE | {errno.EACCES, errno.EPERM}:
                raise
            return False

    def _equal(self, new: Entry, old: Entry) -> bool:
        if (new.mode, new.uid, new.gid) != (old.mode, old.uid, old.gid):
            return False
        if not new.is_dir:
            if (new.info.st_mtime_ns, new.info.st_size) != (old.info.st_mtime_ns, old.info.st_size):
                return False
            if stat.S_ISLNK(new.mode) and self._union.target(new) != self._below.target(old):
                return False
            if _is_device(new.mode) and new.info.st_rdev != old.info.st_rdev:
                return False
        if self._union.attributes(new) != self._below.attributes(old):
            return False
        return not new.is_file or self._same_contents(new, old)

    def _same_contents(self, new: Entry, old: Entry) -> bool:
        if not new.info.st_size:
            return True
        contents = self._union.metadata_copy_of(new)
        if contents is not None and isinstance(old.ref, PathRef) and _same_object(contents.stat(), old.info):
            return True
        with self._union.open(new) as one, self._below.open(old) as other:
            return _same_bytes(one, other)


def _same_object(one: os.stat_result, other: os.stat_result) -> bool:
    return (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)


def _is_device(mode: int) -> bool:
    return stat.S_ISCHR(mode) or stat.S_ISBLK(mode)


def _same_bytes(one: OpenedFile, other: OpenedFile) -> bool:
    offset = 0
    while True:
        chunk = one.read(_CHUNK, offset)
        if chunk != other.read(_CHUNK, offset):
            return False
        if not chunk:
            return True
        offset += len(chunk)
