"""Give files of the build context, new directories and documents as members of an archive.

Each class implements `sandbox.images.tar.Archive`: it is iterated once, and `data` gives the content of the current member.
"""

from __future__ import annotations

import os
import stat

from sandbox.builder.context import changed
from sandbox.images.oci.digest import new_hash
from sandbox.images.tar import Kind, Member
from unionfs._stdlib.dataclasses import dataclass

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from sandbox.builder.context import BuildContext, ContextFile
    from sandbox.builder.inputs import InputTree

_CHUNK = 1 << 20
NEW_DIRECTORY = 0o755
_NEW_FILE = 0o644


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyTarget:
    """Where the files of one source go, and what owner and mode they get there."""

    #: The path that the source itself has in the image.
    top: str
    #: The paths of those directories of the source that do not go below `top`; see `Placement.moved`.
    moved: Mapping[str, str]
    #: The owner and the mode of each file; None: those that it has.
    owner: tuple[int, int] | None
    mode: int | None

    def name(self, below: str) -> bytes:
        """Return the name, as of a member, of the file at *below*, a path relative to the source; "" is the source itself."""
        if not below:
            path = self.top
        elif below in self.moved:
            path = self.moved[below]
        else:
            parent, _, name = below.rpartition("/")
            path = f"{self.moved[parent]}/{name}" if parent in self.moved else f"{self.top}/{below}"
        return os.fsencode(path).strip(b"/")

    def owned(self, member: Member) -> Member:
        """Return *member* with the owner and mode that it gets. Symbolic links have no mode."""
        if self.owner is not None:
            member = member._replace(uid=self.owner[0], gid=self.owner[1])
        if self.mode is not None and member.kind is not Kind.SYMLINK:
            member = member._replace(mode=self.mode)
        return member


class NewFiles:
    """Directories, and files with a given content."""

    def __init__(
        self,
        directories: Sequence[str],
        documents: Mapping[str, bytes],
        *,
        owner: tuple[int, int],
        mode: int | None,
        seconds: int,
    ) -> None:
        """Give *directories* and *documents*, which belong to *owner* and are *seconds* old after the epoch.

        The mode of a directory is 0755, and that of a document *mode*, 0644 if that is None.
        """
        self.name = "the new files"
        self._directories = directories
        self._documents = documents
        self._owner = owner
        self._mode = _NEW_FILE if mode is None else mode
        self._mtime_ns = seconds * 10**9
        self._content = b""
        self.current = b""

    def __iter__(self) -> Iterator[Member]:
        for path in self._directories:
            yield self._member(path, Kind.DIRECTORY, NEW_DIRECTORY, 0)
        for path, content in self._documents.items():
            self._content = content
            yield self._member(path, Kind.FILE, self._mode, len(content))

    def data(self) -> Iterator[tuple[int, memoryview]]:
        if self._content:
            yield 0, memoryview(self._content)

    def _member(self, path: str, kind: Kind, mode: int, size: int) -> Member:
        self.current = os.fsencode(path).strip(b"/")
        uid, gid = self._owner
        return Member(
            name=self.current, kind=kind, mode=mode, uid=uid, gid=gid, mtime_ns=self._mtime_ns, size=size
        )


class ContextMembers:
    """The files of one source of the build context. It borrows the context."""

    def __init__(self, context: BuildContext, tree: InputTree, target: CopyTarget) -> None:
        """Give the files of *tree* at *target*. The top of a directory is not among them: its files go into the target."""
        self.name = "the build context"
        self._context = context
        self._tree = tree
        self._target = target
        self._file: ContextFile | None = None
        self.current = b""

    def __iter__(self) -> Iterator[Member]:
        first: dict[tuple[int, int], bytes] = {}
        for file in self._tree.files:
            below = self._tree.below(file)
            if not below and file.is_directory:
                continue
            name = self._target.name(below)
            self.current, self._file = name, file
            kind, link = _kind(file), os.fsencode(file.link)
            if file.identity is not None and file.identity in first:
                kind, link = Kind.HARD_LINK, first[file.identity]
            elif file.identity is not None:
                first[file.identity] = name
            yield self._target.owned(
                Member(
                    name=name,
                    kind=kind,
                    mode=0o777 if kind is Kind.SYMLINK else stat.S_IMODE(file.mode),
                    uid=0,
                    gid=0,
                    mtime_ns=file.mtime_ns,
                    size=file.size if kind is Kind.FILE else 0,
                    link=link,
                )
            )

    def data(self) -> Iterator[tuple[int, memoryview]]:
        """Yield the content of the current member.

        Raises:
            ImageError: it is not the content that was read for the cache key.
        """
        file = self._file
        if file is None or not stat.S_ISREG(file.mode):
            return
        found, offset = new_hash("sha256"), 0
        with self._context.open(file) as fd:
            while piece := os.read(fd, min(_CHUNK, file.size - offset)):
                found.update(piece)
                yield offset, memoryview(piece)
                offset += len(piece)
        if found.hexdigest() != self._tree.digests[file.path]:
            raise changed(file.path)


def _kind(file: ContextFile) -> Kind:
    if file.is_directory:
        return Kind.DIRECTORY
    return Kind.SYMLINK if stat.S_ISLNK(file.mode) else Kind.FILE
