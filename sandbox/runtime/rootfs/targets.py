"""Where a path of the sandbox leads through the symbolic links of its layers, found before there is a mount to ask.

What a volume is mounted on may be missing in the layers; then it comes from the generated layer below them, at the place that
the path leads to. This finds that place as far as it can be told from the layers' directories. It decides nothing: a place that
is wrong is an empty directory more, and the target is opened in the mounted root, which no link leaves.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence

from sandbox.kernel import mounts

_MAX_LINKS = 40  # as the kernel; path_resolution(7)


def resolve(path: str, trees: Sequence[int]) -> str:
    """Return where the absolute *path* leads in the union of the directories *trees*, O_PATH, the topmost first."""
    pending = path.strip("/").split("/")[::-1]
    at: list[str] = []
    links = 0
    while pending:
        name = pending.pop()
        if name in ("", "."):
            continue
        if name == "..":
            del at[-1:]
            continue
        link = _link("/".join([*at, name]), trees)
        if link is None:
            at.append(name)
            continue
        links += 1
        if links > _MAX_LINKS:
            return path
        if link.startswith("/"):
            at = []
        pending += link.split("/")[::-1]
    return "/" + "/".join(at)


def _link(path: str, trees: Sequence[int]) -> str | None:
    """Return the symbolic link at the relative *path*, on which no link leads, in the topmost tree that has anything there."""
    parent, _, name = path.rpartition("/")
    for tree in trees:
        try:
            above = mounts.open_in_root(tree, parent or ".", directory=True, links=False)
        except OSError:
            continue
        try:
            is_link = stat.S_ISLNK(os.stat(name, dir_fd=above, follow_symlinks=False).st_mode)
            return os.readlink(name, dir_fd=above) if is_link else None
        except OSError:
            continue
        finally:
            os.close(above)
    return None
