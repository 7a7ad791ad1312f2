"""Collect the layers of one root that are fetched in part, and start the process that fetches their chunks."""

from __future__ import annotations

import os

from sandbox.images.chunked.fetcher_process import FetchedLayer, FetcherProcess
from sandbox.images.chunked.partial_layers import PartialLayers
from sandbox.images.mounted_layers import Recorded
from sandbox.images.oci.digest import Digest
from unionfs.layer_index.archive_chunks import ChunkTable

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import ExitStack


class Fetching:
    """The layers of one root that are fetched in part. Owns descriptors of their data until :meth:`close`."""

    def __init__(self, images: str, warn: Callable[[str], None]) -> None:
        """Use the image directory *images*; *warn* gets the reasons why chunks cannot be fetched."""
        self._images = images
        self._warn = warn
        self._layers: list[FetchedLayer] = []
        self._process: FetcherProcess | None = None
        self._warned: set[str] = set()

    def add(self, source: str, place: str, chunks_fd: int) -> int:
        """Add the layer whose index is in the directory *place*; return its number in requests.

        *source* is the image of a registry that it belongs to, and *chunks_fd* a descriptor of its table, which stays the caller's.

        Raises:
            ImageError: its data cannot be opened.
            OSError: *place* cannot be read.
            ValueError: what it has is damaged.
        """
        recorded, layers = Recorded.read(place), PartialLayers(self._images)
        table = Digest.parse(recorded.table)
        size = ChunkTable(os.pread(chunks_fd, os.fstat(chunks_fd).st_size, 0)).size
        form = layers.place(table).form
        data_fd = layers.open_data(table, size)
        self._layers.append(FetchedLayer(source, recorded.blob, form, data_fd, chunks_fd))
        return len(self._layers) - 1

    def start(self, undo: ExitStack) -> int | None:
        """Start the process, which *undo* ends; return a socket to it for the server, or None if there is nothing to fetch.

        Raises:
            SetupError: it cannot be started.
        """
        if not self._layers:
            return None
        self._process = FetcherProcess(self._layers)
        undo.callback(self._process.stop)
        self.close()  # the process has its own
        return self._process.server.fileno()

    def fileno(self) -> int:
        """Return the descriptor on which the process reports failures, for poll(2); -1 if it has ended, or was not started."""
        return -1 if self._process is None else self._process.fileno()

    def receive(self) -> None:
        """Warn of a failure, once for each reason, or of the end of the process."""
        assert self._process is not None
        text = self._process.receive()
        if not text:
            text = "the process that fetches layers has ended"
            self._process.stop()
            self._process = None
        if text not in self._warned:
            self._warned.add(text)
            self._warn(f"{text}; reading what was not fetched fails with EIO")

    def close_server(self) -> None:
        """Close the server's end of its socket to the process, which then finds out when the server is gone."""
        if self._process is not None:
            self._process.close_server()

    def close(self) -> None:
        """Close the descriptors of the data."""
        for layer in self._layers:
            os.close(layer.data_fd)
        self._layers.clear()
