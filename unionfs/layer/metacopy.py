"""Metadata-only copies: files of a layer whose contents are in a file of a layer below.

The mark is the kernel's ``overlay.metacopy`` with an empty value. A redirect gives the path of the contents in the layers
below, if they do not have the same name there (Documentation/filesystems/overlayfs.rst, "Metadata only copy up"). unionfs
always writes an absolute redirect, so that renaming and linking the file need not change it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence

from unionfs.formats.xattrs import METACOPY_XATTRS, REDIRECT_XATTRS, readable
from unionfs.layer.directory import LayerDir
from unionfs.layer.objects import DescriptorRef, PathRef, first_xattr, follows
from unionfs.layer.resolve import locate, resolve


def is_metacopy(ref: PathRef | DescriptorRef, info: os.stat_result) -> bool:
    """Return whether *ref*, with attributes *info*, is marked as having its contents in a layer below."""
    return (
        not ref.known_not_metacopy and stat.S_ISREG(info.st_mode) and _mark(ref, METACOPY_XATTRS) is not None
    )


def relocated_file(ref: PathRef, info: os.stat_result, rest: Sequence[LayerDir]) -> PathRef | None:
    """Return the file for which *ref*, with attributes *info*, stands if it is in a relocation, and None for any other object.

    Regular files of a relocation are metadata-only copies. Each stands for the file that has its contents: it has that file's
    attributes and inode number (unionfs/changes/relocation.py). *rest* is that of :func:`find_contents`.
    """
    return find_contents(ref, rest) if ref.layer.relocation and is_metacopy(ref, info) else None


def redirect_of(ref: PathRef | DescriptorRef) -> bytes | None:
    """Return the redirect of the marked file *ref* to its contents in the layers below, or None if it has none."""
    return _mark(ref, REDIRECT_XATTRS)


def _mark(ref: PathRef | DescriptorRef, names: tuple[str, ...]) -> bytes | None:
    names = readable(names, user_marks=ref.layer.policy.user_marks)
    return first_xattr(ref.proc_path(), names, follow=follows(ref), unreadable=b"")


def find_contents(ref: PathRef, rest: Sequence[LayerDir]) -> PathRef | None:
    """Return the file that has the contents of the marked file *ref*, or None if it does not exist.

    *rest*: the parts of its directory in the layers below.
    """
    at: PathRef = ref
    while True:
        redirect = redirect_of(at)
        if redirect == b"":  # it exists, but this process may not read it
            return None
        views, name = locate(at.directory, rest, redirect or at.name)
        found = resolve(views, name)
        if found is None or found.is_dir:
            return None
        position = found.sources[0]
        at = views[position].entry(name)
        info = at.stat()
        if not stat.S_ISREG(info.st_mode):
            return None
        if not (at.layer.policy.metacopy and is_metacopy(at, info)):
            return at
        rest = views[position + 1 :]
