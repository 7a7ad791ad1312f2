"""Wrap an archive that is to become the root of a sandbox, and raise an error if it contains a container image."""

from __future__ import annotations

from sandbox.errors import ImageError
from sandbox.host.image_formats import FORMATS, MARKER_LIMIT, MARKERS, format_of, refusal
from sandbox.images.tar import Kind

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandbox.images.tar import Member, TarStream


_NAMES = {marker.encode(): marker for marker in MARKERS}


class RootArchive:
    """Yields the members of *archive* unchanged, and examines the files that mark a container image as they are read.

    The caller closes *archive*.
    """

    def __init__(self, archive: TarStream) -> None:
        self.name = archive.name
        self._archive = archive
        self._marker = ""  # the current member, if it may mark an image
        self._content = b""
        # Built here, because the unpacking process may be unable to read this Python's files and so to import modules.
        self._refusals = {image: refusal(image, self.name, is_directory=False) for image in FORMATS}

    @property
    def current(self) -> bytes:
        """The name of the current member."""
        return self._archive.current

    def __iter__(self) -> Iterator[Member]:
        """Yield every member.

        Raises:
            ImageError: the archive contains a container image, or is damaged.
            OSError: the archive cannot be read.
        """
        for member in self._archive:
            self._marker = _marker(member)
            self._content = b""
            yield member
            if self._marker:
                for _ in self._read_marker():  # what the caller has not read
                    pass
            image = format_of(self._marker, self._content)
            if image is not None:
                message, hint = self._refusals[image]
                raise ImageError(message, hint=hint)

    def data(self) -> Iterator[tuple[int, memoryview]]:
        """Yield the content of the current member, like `TarStream.data`."""
        return self._read_marker() if self._marker else self._archive.data()

    def _read_marker(self) -> Iterator[tuple[int, memoryview]]:
        for offset, piece in self._archive.data():
            self._content += bytes(piece[: MARKER_LIMIT - len(self._content)])
            yield offset, piece


def _marker(member: Member) -> str:
    """Return the name of *member* if it is a top-level file that may mark a container image, otherwise ""."""
    directory, _, leaf = member.name.rpartition(b"/")
    if leaf not in _NAMES or member.kind is not Kind.FILE:
        return ""
    return _NAMES[leaf] if all(part in (b"", b".") for part in directory.split(b"/")) else ""
