"""Reads one directory of several layers from the layers themselves: to build an index, and where an index is not trusted.

For the layers above and below it, the stack is still one layer: its whiteouts and opaque directories are marks of the stack.
The rules are those of :func:`unionfs.layer.resolve.resolve`, which applies these marks to the layers below the stack.
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

#: The directories that form one merged directory, top first, each with the position of its layer in the stack.
Parts = tuple[tuple[int, LayerDir], ...]


class CannotIndexError(Exception):
    """A layer contains something that an index cannot describe."""

    def __init__(self, layer: int, reason: str) -> None:
        """Report that *layer* of the stack cannot be indexed."""
        super().__init__(reason)
        self.layer = layer


class Found(NamedTuple):
    """One name, its mark, and the directories that provide it.

    *parts* are the contributing directories. For a non-directory, the only part is the directory that contains it; a whiteout
    has none.
    """

    name: bytes
    mark: Mark
    parts: Parts = ()

    @property
    def is_dir(self) -> bool:
        """Return whether it is a directory."""
        return self.mark in (Mark.DIRECTORY, Mark.OPAQUE_DIRECTORY)

    @property
    def layer(self) -> int:
        """Return the layer that provides it; for a directory, the topmost."""
        return self.parts[0][0]

    def ref(self) -> LayerDir | PathRef:
        """Return a reference to the object."""
        directory = self.parts[0][1]
        return directory if self.is_dir else PathRef(directory, self.name)


def roots(layers: Sequence[LayerDir]) -> tuple[Parts, bool]:
    """Return those of the root directories *layers*, top first, that form the root, and whether it hides the layers below the
    stack.
    """
    parts: list[tuple[int, LayerDir]] = []
    for layer, root in enumerate(layers):
        parts.append((layer, root))
        if root.hides_below():
            return tuple(parts), True
    return tuple(parts), False


def scan(parts: Parts) -> Iterator[Found]:
    """Yield every name in the directories *parts*, upper directories first, each name once.

    Raises:
        CannotIndexError: a directory may not be read.
        OSError: reading from the disk failed.
    """
    having: dict[bytes, list[tuple[int, LayerDir]]] = {}
    for part in parts:
        try:
            names = part[1].names()
        except PermissionError:
            raise CannotIndexError(part[0], f"{part[1].path()!r} cannot be read") from None
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
    """Return the attributes of *found*, whether it has no extended attributes, and the target if it is a symbolic link.

    Raises:
        CannotIndexError: an index cannot describe the object.
        OSError: reading from the disk failed.
    """
    ref, (layer, directory) = found.ref(), found.parts[0]
    policy = directory.layer.policy

    def refuse(reason: str) -> CannotIndexError:
        where = directory.path() if found.is_dir else directory.path() + b"/" + found.name
        return CannotIndexError(layer, f"{where!r} {reason}")

    for _, part in found.parts if found.is_dir else ():
        part.reachable()
        if part.shown_empty:
            raise refuse("is a mount point or hidden")
    info = ref.stat()
    if info.st_dev != directory.layer.device:
        raise refuse("is on another device")
    names = xattr_names(ref)
    for directory_of_layer in (part for _, part in found.parts) if found.is_dir else ():
        if policy_marks(directory_of_layer, names if directory_of_layer is ref else None):
            raise refuse("has a redirect")
    metacopy = readable(METACOPY_XATTRS, user_marks=policy.user_marks)
    if policy.metacopy and stat.S_ISREG(info.st_mode) and not names.isdisjoint(metacopy):
        raise refuse("is a metadata copy")
    target = None
    if stat.S_ISLNK(info.st_mode) and isinstance(ref, PathRef):
        target = ref.readlink()
        target = target if 0 < len(target) <= LONGEST_TARGET else None
    return info, not names, target


def policy_marks(directory: LayerDir, names: frozenset[str] | None = None) -> bool:
    """Return whether *directory* has a redirect to another path in the layers below; *names* are its attributes, if known."""
    policy = directory.layer.policy
    if not policy.redirect:
        return False
    marks = readable(REDIRECT_XATTRS, user_marks=policy.user_marks)
    return not (xattr_names(directory) if names is None else names).isdisjoint(marks)


def xattr_names(ref: LayerDir | PathRef) -> frozenset[str]:
    """Return the names of all extended attributes that this process can see."""
    try:
        return frozenset(os.listxattr(ref.proc_path(), follow_symlinks=follows(ref)))
    except OSError as error:
        if error.errno not in NO_XATTR:
            raise
        return frozenset()
