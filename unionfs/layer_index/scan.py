"""What one directory of several layers holds, read from the layers themselves: to build an index of it, and where that
cannot be believed.

The stack stays a layer to those below and above it: its deletions and opaque directories are marks of its own. The rules
are those of :func:`unionfs.layer.resolve.resolve`, which goes on below the stack with what they leave.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence

from unionfs._stdlib.typing import NamedTuple
from unionfs.formats.xattrs import METACOPY_XATTRS, REDIRECT_XATTRS, readable
from unionfs.layer.directory import LayerDir
from unionfs.layer.objects import NO_XATTR, PathRef, follows
from unionfs.layer_index.format import LONGEST_TARGET
from unionfs.types import Mark

#: The directories that make one, top first, each with its layer's place in the stack.
Parts = tuple[tuple[int, LayerDir], ...]


class CannotIndexError(Exception):
    """A layer holds what an index says nothing of."""

    def __init__(self, layer: int, reason: str) -> None:
        """Say that *layer* of the stack is not to be indexed."""
        super().__init__(reason)
        self.layer = layer


class Found(NamedTuple):
    """One name: its mark, and what it is; a deletion has no *parts*.

    *parts* are the directories that contribute, for anything else the one directory that has it.
    """

    name: bytes
    mark: Mark
    parts: Parts = ()

    @property
    def is_dir(self) -> bool:
        """Tell whether it is a directory."""
        return self.mark in (Mark.DIRECTORY, Mark.OPAQUE_DIRECTORY)

    @property
    def layer(self) -> int:
        """The layer that it comes from, of a directory the topmost."""
        return self.parts[0][0]

    def ref(self) -> LayerDir | PathRef:
        """Return what reaches it."""
        directory = self.parts[0][1]
        return directory if self.is_dir else PathRef(directory, self.name)


def roots(layers: Sequence[LayerDir]) -> tuple[Parts, bool]:
    """Return which of the root directories *layers*, top first, make the root, and whether it hides what is below all."""
    parts: list[tuple[int, LayerDir]] = []
    for layer, root in enumerate(layers):
        parts.append((layer, root))
        if root.hides_below():
            return tuple(parts), True
    return tuple(parts), False


def scan(parts: Parts) -> Iterator[Found]:
    """Give every name that the directories *parts* have, upper ones first, none twice.

    Raises:
        CannotIndexError: a directory may not be read.
        OSError: the disk fails.
    """
    having: dict[bytes, list[tuple[int, LayerDir]]] = {}
    for part in parts:
        try:
            names = part[1].names()
        except PermissionError:
            raise CannotIndexError(part[0], f"{part[1].path()!r} may not be read") from None
        for name in names:
            having.setdefault(name, []).append(part)
    for name, those in having.items():
        yield _merged(name, those)


def _merged(name: bytes, those: Sequence[tuple[int, LayerDir]]) -> Found:
    found: list[tuple[int, LayerDir]] = []
    for layer, directory in those:
        mark = directory.mark(name)
        if mark in (Mark.WHITEOUT, Mark.OTHER):
            if found:
                return Found(name, Mark.OPAQUE_DIRECTORY, tuple(found))
            return Found(name, mark, () if mark is Mark.WHITEOUT else ((layer, directory),))
        found.append((layer, directory.child(name)))
        if mark is Mark.OPAQUE_DIRECTORY or directory.opaque(name):
            return Found(name, Mark.OPAQUE_DIRECTORY, tuple(found))
    return Found(name, Mark.DIRECTORY, tuple(found))


def examine(found: Found) -> tuple[os.stat_result, bool, bytes | None]:
    """Return the attributes of what was *found*, whether it has no extended ones, and the target of a symbolic link.

    Raises:
        CannotIndexError: an index would not tell the truth about it.
        OSError: the disk fails.
    """
    ref, (layer, directory) = found.ref(), found.parts[0]
    policy = directory.layer.policy

    def refuse(reason: str) -> CannotIndexError:
        where = directory.path() if found.is_dir else directory.path() + b"/" + found.name
        return CannotIndexError(layer, f"{where!r} {reason}")

    for _, part in found.parts if found.is_dir else ():
        part.reachable()
        if part.foreign:
            raise refuse("is a mount point, or hidden")
    info = ref.stat()
    if info.st_dev != directory.layer.device:
        raise refuse("is on another device")
    names = xattr_names(ref)
    for directory_of_layer in (part for _, part in found.parts) if found.is_dir else ():
        if policy_marks(directory_of_layer, names if directory_of_layer is ref else None):
            raise refuse("was moved there, by a mark")
    metacopy = readable(METACOPY_XATTRS, user_marks=policy.user_marks)
    if policy.metacopy and stat.S_ISREG(info.st_mode) and not names.isdisjoint(metacopy):
        raise refuse("is a copy of metadata alone")
    target = None
    if stat.S_ISLNK(info.st_mode) and isinstance(ref, PathRef):
        target = ref.readlink()
        target = target if 0 < len(target) <= LONGEST_TARGET else None
    return info, not names, target


def policy_marks(directory: LayerDir, names: frozenset[str] | None = None) -> bool:
    """Tell whether *directory* has a mark that leads elsewhere in the layers below; *names* are its attributes, if known."""
    policy = directory.layer.policy
    if not policy.redirect:
        return False
    marks = readable(REDIRECT_XATTRS, user_marks=policy.user_marks)
    return not (xattr_names(directory) if names is None else names).isdisjoint(marks)


def xattr_names(ref: LayerDir | PathRef) -> frozenset[str]:
    """Return the names of all extended attributes that can be seen here."""
    try:
        return frozenset(os.listxattr(ref.proc_path(), follow_symlinks=follows(ref)))
    except OSError as error:
        if error.errno not in NO_XATTR:
            raise
        return frozenset()
