"""Owners and modes: what a layer has on disk, and what the mount shows of it.

In a user namespace, ids that are not mapped stat as 65534. In a layer that was not made for this namespace
(the host's root, say) they are shown as 0, so that tools which check who owns /etc work, and their set-id
bits are not shown: the program is not the host's root (Corrections 16). Nothing that the sandbox itself wrote
is ever shown so: the upper layer is not squashed.
"""

from __future__ import annotations

import os
import stat

from unionfs.layer import OVERFLOW_ID, Layer


class Ownership:
    """Translates attributes of layers into those of the mount."""

    def visible(self, info: os.stat_result, layer: Layer) -> tuple[int, int, int]:
        """Return the owner, group and mode (with the type) that the mount shows for an object *info* of
        *layer*.
        """
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

    def for_new(self, uid: int, gid: int, mode: int, parent: tuple[int, int, int]) -> tuple[int, int, int]:
        """Return owner, group and mode of a new object of the caller *uid*, *gid* in the directory *parent*
        (owner, group, mode).

        In a set-group-id directory the group is the directory's, and a new directory is set-group-id too
        (inode(7), "The file mode").
        """
        _, parent_gid, parent_mode = parent
        if parent_mode & stat.S_ISGID:
            gid = parent_gid
            if stat.S_ISDIR(mode):
                mode |= stat.S_ISGID
        return uid, gid, mode


def maps_every_id() -> bool:
    """Tell whether this process's user namespace maps every id, so that 65534 is nobody's and not a stand-in
    (user_namespaces(7)).
    """
    with open("/proc/self/uid_map", encoding="ascii") as file:
        return file.read().split() == ["0", "0", "4294967295"]
