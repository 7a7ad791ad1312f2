"""Look up paths in the union of unpacked layers, without mounting it.

The layers are trees with whiteouts (`.wh.NAME`, image-spec, layer.md). The caller owns their descriptors, and has the ids that may
read them: see `run_with_ids`.
"""

from __future__ import annotations

import os
import stat

from sandbox.errors import ImageError
from sandbox.images.direct_bind import LayerRoot, look, open_below
from sandbox.images.names import printable
from sandbox.kernel.walk import TooManyLinksError, follow_links

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_WHITEOUT = ".wh."
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_LIST = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Union:
    """The union of some trees. It owns nothing."""

    def __init__(self, trees: Sequence[int]) -> None:
        """Look into the directories *trees*, the topmost first."""
        self._trees = [LayerRoot(fd=fd, name="", marks="aufs") for fd in trees]

    def kind(self, path: str) -> str:
        """Return the kind of the object at *path*: "directory", "link", "other", or "" if there is none.

        *path* is absolute, and no component before the last is a symbolic link.

        Raises:
            OSError: a layer cannot be read.
        """
        return self._find(path)[0]

    def resolve(self, path: str) -> str:
        """Return the absolute *path* without links: each is followed within the root, also the last one. It need not exist.

        Raises:
            ImageError: more than 40 links are on the way.
            OSError: a layer cannot be read.
        """
        try:
            return "/" + follow_links(path, lambda at: self._link(f"/{at}"))
        except TooManyLinksError:
            raise ImageError(f"{printable(os.fsencode(path))}: too many symbolic links") from None

    def listing(self, path: str) -> dict[str, bool]:
        """Return the names in the directory *path*, which has no links, and whether each is a directory; {} for other objects.

        Raises:
            OSError: a layer cannot be read.
        """
        names: dict[str, bool] = {}
        hidden: set[str] = set()
        for tree in self._trees:
            seen = look(tree, path)
            if seen.kind == "directory":
                fd = open_below(tree.fd, path, _LIST)
                try:
                    with os.scandir(fd) as found:
                        entries = {entry.name: entry.is_dir(follow_symlinks=False) for entry in found}
                finally:
                    os.close(fd)
                for name, is_directory in entries.items():
                    if not name.startswith(_WHITEOUT) and name not in hidden:
                        names.setdefault(name, is_directory)
                hidden |= {name.removeprefix(_WHITEOUT) for name in entries if name.startswith(_WHITEOUT)}
            if seen.covers:
                break
        return names

    def read(self, path: str, limit: int) -> bytes | None:
        """Return the content of the regular file *path*, with links followed; None if there is none, or it has more than *limit* bytes.

        Raises:
            ImageError: more than 40 links are on the way.
            OSError: a layer cannot be read.
        """
        real = self.resolve(path)
        kind, tree = self._find(real)
        if kind != "other" or tree is None:
            return None
        parent, _, name = real.rpartition("/")
        parent_fd = open_below(tree.fd, parent)
        try:
            # A FIFO would block, and a device would return data of the host.
            if not stat.S_ISREG(os.stat(name, dir_fd=parent_fd, follow_symlinks=False).st_mode):
                return None
            with open(os.open(name, _READ, dir_fd=parent_fd), "rb") as file:
                content = file.read(limit + 1)
        finally:
            os.close(parent_fd)
        return content if len(content) <= limit else None

    def _find(self, path: str) -> tuple[str, LayerRoot | None]:
        """Return what is at *path*, and the topmost tree that has it."""
        for tree in self._trees:
            seen = look(tree, path)
            if seen.kind == "nothing":
                continue
            if seen.kind == "directory" or (seen.kind in ("link", "other") and seen.at == path):
                return seen.kind, tree
            return "", None
        return ("directory", None) if path == "/" else ("", None)

    def _link(self, path: str) -> str | None:
        kind, tree = self._find(path)
        if kind != "link" or tree is None:
            return None
        parent, _, name = path.rpartition("/")
        fd = open_below(tree.fd, parent)
        try:
            return os.readlink(name, dir_fd=fd)
        finally:
            os.close(fd)
