"""Give the members of an archive of the build context, which ADD unpacks into its target."""

from __future__ import annotations

import os
import stat
from contextlib import ExitStack

from sandbox.builder.context import changed
from sandbox.builder.layer_output import path_of
from sandbox.errors import ImageError
from sandbox.images.names import printable
from sandbox.images.oci.digest import new_hash
from sandbox.images.tar import Kind, open_archive
from unionfs._stdlib.typing import Self

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandbox.builder.context import BuildContext
    from sandbox.builder.copied_members import CopyTarget
    from sandbox.builder.inputs import InputTree
    from sandbox.images.tar import Member, TarStream

_WHITEOUT = b".wh."
_CHUNK = 1 << 20


def archive_directories(context: BuildContext, tree: InputTree) -> tuple[str, ...] | None:
    """Return the directories of the archive that the file *tree* is, parents first; None if it is no archive.

    Raises:
        ImageError: it is an archive, and damaged.
    """
    file = tree.files[0]
    if not stat.S_ISREG(file.mode):
        return None
    with context.open(file) as fd, open(fd, "rb", closefd=False) as opened:
        name = _name(tree)
        try:
            archive = open_archive(opened, name)
            members = iter(archive)
            first = next(members, None)
        except ImageError:
            return None
        if first is None:
            return None
        found = {path_of(name, first.name)} if first.kind is Kind.DIRECTORY else set()
        found |= {path_of(name, member.name) for member in members if member.kind is Kind.DIRECTORY}
    found.discard(b"")
    return tuple(os.fsdecode(path) for path in sorted(found, key=lambda path: path.split(b"/")))


class AddedMembers:
    """The members of one archive (implements `Archive`). It is a context manager, which opens and closes the file."""

    def __init__(self, context: BuildContext, tree: InputTree, target: CopyTarget) -> None:
        """Give the members of the archive *tree* at *target*."""
        self.name = _name(tree)
        self._context = context
        self._tree = tree
        self._target = target
        self._archive: TarStream
        self._file: _Hashed
        self._undo = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            fd = undo.enter_context(self._context.open(self._tree.files[0]))
            self._file = _Hashed(fd)
            self._archive = undo.enter_context(open_archive(self._file, self.name))
            self._undo = undo.pop_all()
        return self

    def __exit__(self, kind: object, *exc_info: object) -> None:
        """Close the file.

        Raises:
            ImageError: its content is not the one that was read for the cache key.
        """
        with self._undo:
            file = self._tree.files[0]
            if kind is None and self._file.finish() != self._tree.digests[file.path]:
                raise changed(file.path)

    @property
    def current(self) -> bytes:
        return self._archive.current

    def data(self) -> Iterator[tuple[int, memoryview]]:
        return self._archive.data()

    def __iter__(self) -> Iterator[Member]:
        for member in self._archive:
            path = path_of(self.name, member.name)
            if not path:
                continue  # the top: the files go into the target
            if any(part.startswith(_WHITEOUT) for part in path.split(b"/")):
                raise ImageError(
                    f"{self.name}: {printable(path)}: layers use names that begin with .wh. as marks",
                    hint="pack the archive without that file",
                )
            renamed = member._replace(name=self._target.name(os.fsdecode(path)))
            if member.kind is Kind.HARD_LINK:
                link = path_of(self.name, member.link)
                renamed = renamed._replace(link=self._target.name(os.fsdecode(link)))
            yield self._target.owned(renamed)


class _Hashed:
    """A file that is hashed while it is read (implements `Readable`). It borrows the descriptor."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._hash = new_hash("sha256")

    def read(self, size: int, /) -> bytes:
        data = os.read(self._fd, size)
        self._hash.update(data)
        return data

    def finish(self) -> str:
        """Read the rest, and return the digest of all in hexadecimal digits."""
        while self.read(_CHUNK):
            pass
        return str(self._hash.hexdigest())


def _name(tree: InputTree) -> str:
    return f"{printable(os.fsencode(tree.files[0].path))} of the build context"
