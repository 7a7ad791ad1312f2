"""Translates owners and modes between a layer on disk and the mount.

In a user namespace, stat(2) reports ids that are not mapped as 65534. A layer that was not made for this namespace (for example
the host's root) can be squashed: the mount shows such ids as 0, so that tools which check the owner of /etc work. Such objects
are shown without set-id bits, because the 0 does not stand for the host's root. The upper layer is never squashed, so files
that the sandbox wrote keep their owners.

Command-line options also translate the ids of all layers, as fuse-overlayfs does (fuse-overlayfs(1), "Dynamic UID and GID
mapping" and ``squash_to_root``): by a map from ids on disk to the ids shown, or to a single id.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence

from unionfs._stdlib.dataclasses import dataclass
from unionfs.layer.directory import OVERFLOW_ID, Layer


@dataclass(frozen=True, slots=True)
class IdRange:
    """Maps *count* ids in the layers, from *disk* on, to the shown ids from *shown* on."""

    disk: int
    shown: int
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class IdPolicy:
    """How the ids of all layers are shown."""

    #: Empty: ids are shown unchanged.
    uids: tuple[IdRange, ...] = ()
    gids: tuple[IdRange, ...] = ()
    #: Every object is shown as owned by this user or group. Copy-up preserves the owner on disk.
    squash_uid: int | None = None
    squash_gid: int | None = None


#: Ids are shown unchanged.
SAME_IDS = IdPolicy()


class Ownership:
    """Translates owners and modes between the layers and the mount."""

    def __init__(self, policy: IdPolicy = SAME_IDS) -> None:
        """Translate ids according to *policy*."""
        self._policy = policy
        self._plain = policy == SAME_IDS

    def visible(self, info: os.stat_result, layer: Layer) -> tuple[int, int, int]:
        """Return the owner, group and mode (with the type) that the mount shows for an object of *layer* with attributes
        *info*.
        """
        uid, gid, mode = self.for_copy(info, layer)
        if self._plain:
            return uid, gid, mode
        policy = self._policy
        uid = _shown(uid, policy.uids) if policy.squash_uid is None else policy.squash_uid
        gid = _shown(gid, policy.gids) if policy.squash_gid is None else policy.squash_gid
        return uid, gid, mode

    def for_copy(self, info: os.stat_result, layer: Layer) -> tuple[int, int, int]:
        """Return the owner, group and mode that a copy of an object of *layer* with attributes *info* has on disk."""
        uid, gid, mode = info.st_uid, info.st_gid, info.st_mode
        if layer.squash:
            if uid == OVERFLOW_ID:
                uid = 0
                mode &= ~stat.S_ISUID
            if gid == OVERFLOW_ID:
                gid = 0
                if not stat.S_ISDIR(mode):
                    mode &= ~stat.S_ISGID
        return uid, gid, mode

    def on_disk(self, uid: int | None, gid: int | None) -> tuple[int | None, int | None]:
        """Return the ids on disk that are shown as *uid* and *gid*. None (no change) stays None.

        Raises:
            OSError: EOVERFLOW if no id on disk is shown as *uid* or *gid*.
        """
        if self._plain:
            return uid, gid
        return (
            None if uid is None else _disk(uid, self._policy.uids),
            None if gid is None else _disk(gid, self._policy.gids),
        )

    def for_new(self, uid: int, gid: int, mode: int, parent: tuple[int, int, int]) -> tuple[int, int, int]:
        """Return the owner, group and mode on disk of a new object that the caller *uid*, *gid* creates in the directory
        *parent* (owner, group and mode on disk).

        In a set-group-id directory, the new object gets the directory's group, and a new directory is set-group-id too
        (inode(7), "The file mode").

        Raises:
            OSError: EOVERFLOW as :meth:`on_disk`.
        """
        if not self._plain:
            uid, gid = _disk(uid, self._policy.uids), _disk(gid, self._policy.gids)
        _, parent_gid, parent_mode = parent
        if parent_mode & stat.S_ISGID:
            gid = parent_gid
            if stat.S_ISDIR(mode):
                mode |= stat.S_ISGID
        return uid, gid, mode


def _shown(number: int, ranges: Sequence[IdRange]) -> int:
    for each in ranges:
        if each.disk <= number < each.disk + each.count:
            return each.shown + number - each.disk
    return OVERFLOW_ID if ranges else number


def _disk(number: int, ranges: Sequence[IdRange]) -> int:
    for each in ranges:
        if each.shown <= number < each.shown + each.count:
            return each.disk + number - each.shown
    if ranges:
        raise OSError(errno.EOVERFLOW, os.strerror(errno.EOVERFLOW))
    return number


def maps_every_id() -> bool:
    """Return whether this process's user namespace maps every id, so that 65534 is an ordinary id, not the overflow id
    (user_namespaces(7)).
    """
    # Not "ascii": that codec is a module to import, and a confined server may be unable to read it.
    with open("/proc/self/uid_map", encoding="utf-8") as file:
        return file.read().split() == ["0", "0", "4294967295"]
