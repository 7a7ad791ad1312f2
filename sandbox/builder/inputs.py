"""Find what a copy takes from the build context, and compute the digest of it for the cache.

The digest covers names, kinds, permission bits and contents, and which names belong to one file. It covers no times, owners and
places: they change without a change of the files.
"""

from __future__ import annotations

import os
import stat

from sandbox.builder.context import changed
from sandbox.images.oci.digest import new_hash
from unionfs._stdlib.dataclasses import dataclass
from unionfs._stdlib.typing import Any

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from sandbox.builder.context import BuildContext, ContextFile
    from sandbox.images.build.plan import CopyFiles

_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class InputTree:
    """One source of a copy: its name, and its files, the top first. `digests` has the digest of each regular file by its path."""

    name: str
    files: tuple[ContextFile, ...]
    digests: dict[str, str]

    @property
    def is_directory(self) -> bool:
        """Whether the source is a directory."""
        return self.files[0].is_directory

    def below(self, file: ContextFile) -> str:
        """Return the path of *file* relative to the top of the source, "" for the top itself."""
        return file.path[len(self.files[0].path) :].lstrip("/")


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """All that one copy takes from the context: the sources, the digest for the cache key, and the newest time in seconds."""

    trees: tuple[InputTree, ...]
    digest: str
    newest: int


def scan(context: BuildContext, action: CopyFiles) -> Inputs:
    """Read all that *action* copies from *context*.

    Raises:
        ImageError: a source does not exist, or cannot be read.
    """
    trees = [
        _read(context, path.rpartition("/")[2] or os.path.basename(context.path), context.tree(path))
        for source in action.sources
        for path in context.find(source)
    ]
    newest = max((file.mtime_ns for tree in trees for file in tree.files), default=0)
    return Inputs(trees=tuple(trees), digest=_digest(trees), newest=newest // 10**9)


def _read(context: BuildContext, name: str, files: Sequence[ContextFile]) -> InputTree:
    digests: dict[str, str] = {}
    known: dict[tuple[int, int], str] = {}
    for file in files:
        if not stat.S_ISREG(file.mode):
            continue
        if file.identity is not None and file.identity in known:
            digests[file.path] = digests[known[file.identity]]
            continue
        found, size = new_hash("sha256"), 0
        with context.open(file) as fd:
            while size <= file.size and (data := os.read(fd, _CHUNK)):
                size += len(data)
                found.update(data)
        if size != file.size:
            raise changed(file.path)
        digests[file.path] = found.hexdigest()
        if file.identity is not None:
            known[file.identity] = file.path
    return InputTree(name=name, files=tuple(files), digests=digests)


def _digest(trees: Sequence[InputTree]) -> str:
    found = new_hash("sha256")
    for tree in trees:
        first: dict[tuple[int, int], str] = {}
        # Only the name of a file counts: the content of a directory goes into the target.
        _add(found, "source", "" if tree.is_directory else tree.name)
        for file in tree.files:
            below = tree.below(file)
            same = "" if file.identity is None else first.setdefault(file.identity, below)
            # The attributes of the top of a directory are not copied.
            mode = 0 if file.is_directory and not below else file.mode
            _add(found, below, str(mode), tree.digests.get(file.path, ""), file.link, same)
    return str(found.hexdigest())


def _add(found: Any, *parts: str) -> None:
    for part in parts:
        data = os.fsencode(part)
        found.update(b"%d:" % len(data))
        found.update(data)
