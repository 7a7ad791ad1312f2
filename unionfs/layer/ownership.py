"""Owners and modes: what a layer has on disk, and what the mount shows of it.

In a user namespace, ids that are not mapped stat as 65534. In a layer that was not made for this namespace
(the host's root, say) they are shown as 0, so that tools which check who owns /etc work, and their set-id
bits are not shown: the program is not the host's root (Corrections 16). Nothing that the sandbox itself wrote
is ever shown so: the upper layer is not squashed.

Apart from that, and for callers that ask for it, ids are translated as fuse-overlayfs does (fuse-overlayfs(1),
"Dynamic UID and GID mapping" and ``squash_to_root``): a map from the ids on disk to those shown, or one id for all.
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
    """*count* ids from *disk* on in the layers are shown as those from *shown* on."""

    disk: int
    shown: int
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class IdPolicy:
    """How the ids of all layers are shown."""

    #: Empty for as they are.
    uids: tuple[IdRange, ...] = ()
    gids: tuple[IdRange, ...] = ()
    #: Everything is shown as owned by this user, or group. What is on disk keeps its owner over copy-up.
    squash_uid: int | None = None
    squash_gid: int | None = None


#: Ids as they are.
SAME_IDS = IdPolicy()


class Ownership:
    """Translates owners and modes between the layers and the mount."""

    def __init__(self, policy: IdPolicy = SAME_IDS) -> None:
        """Translate as *policy* says."""
        self._policy = policy
        self._plain = policy == SAME_IDS

    def visible(self, info: os.stat_result, layer: Layer) -> tuple[int, int, int]:
        """Return the owner, group and mode (with the type) that the mount shows for an object *info* of
        *layer*.
        """
        uid, gid, mode = self.for_copy(info, layer)
        if self._plain:
            return uid, gid, mode
        policy = self._policy
        uid = _shown(uid, policy.uids) if policy.squash_uid is None else policy.squash_uid
        gid = _shown(gid, policy.gids) if policy.squash_gid is None else policy.squash_gid
        return uid, gid, mode

    def for_copy(self, info: os.stat_result, layer: Layer) -> tuple[int, int, int]:
        """Return the owner, group and mode that a copy of the object *info* of *layer* has on disk."""
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
        """Return the ids on disk that are shown as *uid* and *gid*; None, for one that is not to change, stays None.

        Raises:
            OSError: EOVERFLOW for one that no id on disk is shown as.
        """
        if self._plain:
            return uid, gid
        return (
            None if uid is None else _disk(uid, self._policy.uids),
            None if gid is None else _disk(gid, self._policy.gids),
        )

    def for_new(self, uid: int, gid: int, mode: int, parent: tuple[int, int, int]) -> tuple[int, int, int]:
        """Return owner, group and mode on disk of a new object of the caller *uid*, *gid* in the directory *parent*
        (owner, group and mode on disk).

        In a set-group-id directory the group is the directory's, and a new directory is set-group-id too
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
    """Tell whether this process's user namespace maps every id, so that 65534 is nobody's and not a stand-in
    (user_namespaces(7)).
    """
    # Not "ascii", which is a module to import: a confined server may be unable to read it.
    with open("/proc/self/uid_map", encoding="utf-8") as file:
        return file.read().split() == ["0", "0", "4294967295"]
