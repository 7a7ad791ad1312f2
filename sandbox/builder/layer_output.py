"""Write members to a layer in the image store. Of several members with one name, the one of the latest source counts."""

from __future__ import annotations

import os
from tempfile import TemporaryFile

from sandbox.errors import ImageError, StateError
from sandbox.images.blobs import BlobStore
from sandbox.images.destination import RefusedError, relative
from sandbox.images.names import printable
from sandbox.images.oci.layer_writer import write_blob
from sandbox.images.oci.sorted_members import SortedMembers
from sandbox.images.places import partial_in
from sandbox.images.tar import Kind
from sandbox.plan.image_values import ImageLayer

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from sandbox.images.oci.layer_blob import WrittenLayer
    from sandbox.images.tar import Archive, Member

    Opener = Callable[[], AbstractContextManager[Archive]]


def write_members(
    images: str, sources: Sequence[Opener], *, compression: str, latest: int
) -> ImageLayer | None:
    """Write the members of *sources*, functions that open archives, to a layer in the image directory *images*; return it.

    Return None if there are none. Later sources replace members of earlier ones. Modification times are at most *latest*, in
    seconds after the epoch.

    Raises:
        ImageError: a source cannot be read, or a member cannot be in a layer.
        StateError: the image directory cannot be written.
    """
    partial = partial_in(images)
    try:
        os.makedirs(partial, mode=0o700, exist_ok=True)
        with TemporaryFile(dir=partial) as spool:
            members = SortedMembers(spool, latest=latest)
            written: dict[bytes, bool] = {}
            for opener in reversed(sources):
                with opener() as archive:
                    members.add(_Unwritten(archive, written))
            if not len(members):
                return None
            with BlobStore(images).writing() as output:
                layer = write_blob(members.pieces(), output, compression)
                output.publish(layer.descriptor.digest)
    except OSError as error:
        raise not_written(error) from None
    return image_layer(layer)


def image_layer(layer: WrittenLayer) -> ImageLayer:
    """Return *layer* as a layer of a plan."""
    return ImageLayer(
        diff_id=str(layer.diff_id),
        digest=str(layer.descriptor.digest),
        size=layer.descriptor.size,
        media_type=layer.descriptor.media_type,
    )


def path_of(archive: str, name: bytes) -> bytes:
    """Return the path that *name*, of a member of *archive*, stands for, relative to the root.

    Raises:
        ImageError: no layer can have that path.
    """
    try:
        return relative(name)
    except RefusedError as error:
        raise ImageError(f"{archive}: {printable(name)}: {error}") from None


def not_written(error: OSError) -> StateError:
    """Return the error that a layer cannot be written because of *error*."""
    return StateError(
        f"a layer cannot be written to the image directory: {(error.strerror or str(error)).lower()}",
        hint="free some space, or set SANDBOX_CACHE_DIR to another directory",
    )


class _Unwritten:
    """The members of an archive whose names no later source has. It borrows the archive (implements `Archive`)."""

    def __init__(self, archive: Archive, written: dict[bytes, bool]) -> None:
        """Leave out the names in *written*, and add the others to it: True for a directory."""
        self.name = archive.name
        self._archive = archive
        self._written = written

    @property
    def current(self) -> bytes:
        return self._archive.current

    def data(self) -> Iterator[tuple[int, memoryview]]:
        return self._archive.data()

    def __iter__(self) -> Iterator[Member]:
        own: dict[bytes, bool] = {}
        replaced: set[bytes] = set()
        for member in self._archive:
            path = path_of(self.name, member.name)
            is_directory = member.kind is Kind.DIRECTORY
            before = self._written.get(path)
            if before is not None and before is not is_directory:
                raise self._conflict(path)
            if before is not None:
                replaced.add(path)
                continue
            if member.kind is Kind.HARD_LINK and path_of(self.name, member.link) in replaced:
                raise ImageError(
                    f"{self.name}: {printable(path)} is another name of {printable(member.link)}, which a later source replaces",
                    hint="copy the later source in a step of its own",
                )
            own[path] = is_directory
            yield member
        self._written.update(own)
        for path in own:
            parent = path.rpartition(b"/")[0]
            while parent:
                if self._written.get(parent) is False:
                    raise self._conflict(parent)
                parent = parent.rpartition(b"/")[0]

    def _conflict(self, path: bytes) -> ImageError:
        return ImageError(
            f"{printable(path)} is a directory in one source, and something else in another",
            hint="copy the sources in steps of their own",
        )
