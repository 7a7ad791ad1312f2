"""Give the files of a stage or of an image as members of an archive.

`unionfs changes --archive=trees` writes them: it merges the layers, and knows the ids that the files have inside. Its writable
layer is an empty one, made for the purpose.
"""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager

from sandbox.changes.reader import start
from sandbox.changes.writable_layers import WritableLayer
from sandbox.images.tar import Kind, open_archive

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandbox.builder.copied_members import CopyTarget
    from sandbox.images.tar import Archive, Member, TarStream


@contextmanager
def stage_members(layer: WritableLayer, path: str, target: CopyTarget) -> Iterator[Archive]:
    """Give the object at *path* of the union of *layer*, and all below it, at *target*. No part of *path* is a symbolic link.

    The top of a directory is not among the members: its files go into the target.

    Raises:
        ImageError: the archive is damaged.
        SandboxError: the files cannot be read.
    """
    with ExitStack() as undo:
        process = start(layer, ["--archive=trees"], [path], undo)
        with process.explaining(), open(process.output_fd, "rb", closefd=False) as stream:
            yield _Renamed(open_archive(stream, "the files of the stage"), path, target)


class _Renamed:
    """The members of an archive under other names. It borrows the archive (implements `Archive`)."""

    def __init__(self, archive: TarStream, path: str, target: CopyTarget) -> None:
        self.name = archive.name
        self._archive = archive
        self._path = os.fsencode(path).strip(b"/")
        self._target = target

    @property
    def current(self) -> bytes:
        return self._archive.current

    def data(self) -> Iterator[tuple[int, memoryview]]:
        return self._archive.data()

    def __iter__(self) -> Iterator[Member]:
        for member in self._archive:
            below = self._below(member.name)
            if not below and member.kind is Kind.DIRECTORY:
                continue
            renamed = member._replace(name=self._target.name(below))
            if member.kind is Kind.HARD_LINK:
                renamed = renamed._replace(link=self._target.name(self._below(member.link)))
            yield self._target.owned(renamed)

    def _below(self, name: bytes) -> str:
        """Return where *name* is, relative to the path that was read."""
        name = name.strip(b"/")
        name = b"" if name == b"." else name.removeprefix(b"./")
        return os.fsdecode(name[len(self._path) :].lstrip(b"/"))
