"""Resolve a path of the sandbox through the symbolic links of its layers, before the root is mounted.

The mount point of a volume may be missing in the layers. Then the generated layer below them provides it at the resolved path.
The result is a best guess from the layers' directories, and no check relies on it. A wrong guess creates a useless empty
directory. The mount itself opens its target in the mounted root, with links confined to it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence

from sandbox.kernel import open_paths
from sandbox.kernel.walk import TooManyLinksError, follow_links
from unionfs._stdlib.typing import Protocol


class Links(Protocol):
    """The symbolic links of a layer that is no directory."""

    def link(self, path: str, /) -> str | None:
        """Return the target of the symbolic link at *path*, "" for another object, and None if there is nothing."""


def resolve(path: str, trees: Sequence[int | Links]) -> str:
    """Return where the absolute *path* leads in the union of the directories *trees*, O_PATH, the topmost first."""
    try:
        return "/" + follow_links(path, lambda at: _link(at, trees))
    except TooManyLinksError:
        return path


def _link(path: str, trees: Sequence[int | Links]) -> str | None:
    """Return the target of the symbolic link at *path*, from the topmost tree that has a file there; None if it is no link.

    *path* is relative, and its parent has no symbolic links.
    """
    parent, _, name = path.rpartition("/")
    for tree in trees:
        if not isinstance(tree, int):
            found = tree.link(path)
            if found is None:
                continue
            return found or None
        try:
            above = open_paths.open_in_root(tree, parent or ".", directory=True, links=False)
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
