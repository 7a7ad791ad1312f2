"""Index an archive that is read once: with its digests, in threads, and with a memory limit.

What the caller decides is where the archive comes from, and what it is compared with (`LayerStream`).
"""

from __future__ import annotations

import re
from itertools import pairwise

from sandbox.images.archive_index import UNPACK, index_archive
from sandbox.images.bounded import bounded
from unionfs.layer_index.archive_frames import LARGEST_FRAME, Frame

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sandbox.errors import ImageError
    from sandbox.images.layer_stream import LayerDigests, LayerStream
    from sandbox.images.lower_layers import LowerLayers
    from sandbox.images.report import UnpackReport
    from sandbox.images.tar import Archive, TarStream
    from sandbox.plan import IdPlan
    from unionfs._stdlib.typing import BinaryIO

MAGIC = 4
"""The bytes at the beginning of an archive that tell its compression."""
#: The beginning of gzip and zstd, which the server can read frame by frame.
_SEEKABLE = re.compile(rb"(?s)\x1f\x8b|\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18")


class Indexing:
    """One archive that is indexed. The caller owns *layer*, and calls :meth:`run` once, in a process that runs nothing else."""

    def __init__(
        self,
        layer: LayerStream,
        begin: bytes,
        wrapped: Callable[[TarStream], Archive],
        *,
        not_seekable: Callable[[int], ImageError],
    ) -> None:
        """Open the archive, which imports the module for its compression.

        Args:
            layer: the archive, of which nothing has been read.
            begin: its first MAGIC bytes.
            wrapped: returns the archive whose members are indexed.
            not_seekable: returns the error for an archive whose files cannot be read where they are, by the number of the
                pieces that it is compressed in; 0 if they have another form.

        Raises:
            ImageError: the archive cannot be read, or not be sought.
        """
        self._layer = layer
        self._not_seekable = not_seekable
        self._frames: list[Frame] = []
        self._stream = layer.open_archive(lambda *at: self._frames.append(Frame(*at)))
        if self._stream.compressed and not _SEEKABLE.match(begin):
            raise not_seekable(0)
        self._archive = wrapped(self._stream)
        #: The digests of the archive once it was read; None if too much data follows its end.
        self.digests: LayerDigests | None = None

    def run(
        self, output: BinaryIO, ids: IdPlan, size: int, lower: Callable[[], LowerLayers] | None = None
    ) -> UnpackReport:
        """Write the index of the archive, which has *size* bytes, to the empty file *output*.

        *ids* are those of the sandbox, and *lower* returns the layers below, as for `index_archive`.

        Raises:
            ImageError: the archive is damaged or not the expected one, cannot be shown or sought, or needs too much memory.
            OSError: the archive cannot be read, or *output* not be written.
        """
        report = bounded(
            lambda: index_archive(
                self._archive,
                lambda: self._stream.position,
                output,
                ids,
                size,
                self._ended,
                None if lower is None else lower(),
            ),
            self._archive,
            "indexing",
            UNPACK,
        )
        output.flush()
        return report

    def _ended(self) -> tuple[Frame, ...]:
        """Return the frames of the archive, which was read, after its digests were compared."""
        self.digests = self._layer.finish()
        if not self._stream.compressed:
            return ()
        frames = seekable_frames(self._frames)
        if self.digests is None or frames is None:
            raise self._not_seekable(max(0, len(self._frames) - 1))
        return frames


def seekable_frames(found: Sequence[Frame]) -> tuple[Frame, ...] | None:
    """Return the frames of an archive that have contents, and its end. *found* are all frames, in order, and the end.

    The result is None if one is too large to be decompressed for each read.
    """
    frames: list[Frame] = []
    for frame in found:
        if frames and frames[-1].shown == frame.shown:
            frames.pop()  # one without contents: it is skipped, or read with the one before
        frames.append(frame)
    if any(following.shown - one.shown > LARGEST_FRAME for one, following in pairwise(frames)):
        return None
    return tuple(frames)
