"""Lists a directory of a layer, with what the marks in it depend on."""

from __future__ import annotations

import os
from collections.abc import Iterator

from unionfs.formats.whiteout import MarkPolicy, Raw
from unionfs.formats.xattrs import WHITEOUT_XATTRS
from unionfs.layer.objects import at_path, first_xattr, is_null_device


def raw_entries(fd: int, policy: MarkPolicy, *, xwhiteouts: bool) -> Iterator[tuple[bytes, Raw]]:
    """Yield the names in the directory *fd*, and the kind of each.

    *xwhiteouts*: empty files with a certain attribute are whiteouts in this directory (overlayfs.rst, "Nesting overlayfs mounts").

    Raises:
        OSError: the directory cannot be read.
    """
    devices = policy.overlay
    with os.scandir(fd) as entries:
        for entry in entries:
            name = os.fsencode(entry.name)
            if entry.is_dir(follow_symlinks=False):
                yield name, Raw.DIRECTORY
            elif not devices or entry.is_symlink():
                yield name, Raw.OTHER
            elif entry.is_file(follow_symlinks=False):
                if xwhiteouts and first_xattr(at_path(fd, name), WHITEOUT_XATTRS, follow=False) is not None:
                    yield name, Raw.NULL_DEVICE
                else:
                    yield name, Raw.OTHER
            else:
                yield (
                    name,
                    Raw.NULL_DEVICE if is_null_device(entry.stat(follow_symlinks=False)) else Raw.OTHER,
                )
