"""Format and report the statistics of a server."""

from __future__ import annotations

import os
from collections.abc import Mapping

from unionfs._stdlib.logging import LazyLogger
from unionfs.vfs.filesystem import UnionFs

log = LazyLogger(__name__)


def counters(fs: UnionFs, requests: Mapping[str, int]) -> str:
    """Return one line with the numbers of inodes, handles, directory descriptors, copies and *requests* by kind."""
    fields = [
        f"inodes={len(fs.inode_table)}",
        f"handles={len(fs.handles)}",
        f"directory-fds={len(fs.inode_table.layers[0].fds)}",
    ]
    if fs.writable is not None:
        fields += [f"copies={fs.writable.copy_up.copies}", f"copied-bytes={fs.writable.copy_up.bytes_copied}"]
    fields += [f"{kind}={count}" for kind, count in sorted(requests.items())]
    return " ".join([*fields, f"pid={os.getpid()}"])


def report(line: str, fs: UnionFs) -> None:
    """Write *line* to standard error and to the work directory. A server in the background has no other place for it."""
    log.warning("statistics: %s", line)
    if fs.writable is not None:
        try:
            fs.writable.upper.workdir.save(b"statistics", line.encode() + b"\n")
        except OSError as error:
            log.warning("cannot write statistics: %s", error)
