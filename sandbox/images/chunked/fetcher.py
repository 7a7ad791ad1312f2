"""The process that fetches missing chunks for the file system server, which has no network.

The launcher starts it with the socket CONTROL, and sends one packet of JSON for each layer, with descriptors of its data and of its
table of chunks; then one with the socket of the server. The process answers requests of the server (unionfs/layer_index/
archive_chunks.py) with four threads. It sends the launcher the reason of failures as text. It ends at once with the launcher.

Each chunk is compared with its digest: one that the data has already, and one that was fetched before it is written there. So
nothing wrong is ever in the data for longer than it takes to overwrite it, and two processes may fetch the same chunk.
"""

from __future__ import annotations

import errno
import json
import os
import select
import socket
import time
from contextlib import suppress
from queue import SimpleQueue
from threading import Lock, Thread

from sandbox.errors import ImageError
from sandbox.images.chunked.pieces import WrongChunkError, extractor, is_right
from sandbox.images.registry.client import client_for
from sandbox.images.registry.failures import RegistryError
from sandbox.images.registry.reference import parse_reference
from sandbox.images.registry.settings import Limits
from sandbox.kernel import process
from unionfs._stdlib.typing import NamedTuple
from unionfs.layer_index.archive_chunks import FETCH, FETCHED, ChunkTable
from unionfs.layer_index.format import DamagedError

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from sandbox.images.registry.client import RegistryClient
    from unionfs._stdlib.typing import Any, NoReturn
    from unionfs.layer_index.archive_chunks import Chunk

CONTROL = 3
"""The descriptor of the socket to the launcher."""
MOST_MESSAGE = 2000
"""The most bytes of a message to the launcher."""
LIMITS = Limits(connect=5.0, stall=10.0, attempts=3, pause=0.2, patience=3.0)
"""Programs wait for a request, so it fails sooner than one of a pull."""

_THREADS = 4
_AT_ONCE = 1 << 20
"""The bytes of the blob that one request to the registry brings, unless a single chunk needs more."""
_LARGE = 1 << 23
"""Larger pieces are decompressed one at a time, which bounds the memory."""
_REST = 5.0
"""Seconds after a failure in which the registry is not asked again: a program may read thousands of files."""


class Layer(NamedTuple):
    """One layer: the image that it belongs to, its blob, and what there is of it."""

    #: `docker://HOST/NAME`, with a tag or digest.
    source: str
    digest: str
    data_fd: int
    table: ChunkTable
    #: Takes a chunk out of a piece of the blob.
    extract: Callable[[bytes, Chunk], bytes]


class Registry:
    """The repository of an image. Threads share it. Owns the client, which the first request makes."""

    def __init__(self, source: str) -> None:
        """Make no connection yet."""
        self._source = source
        self._lock = Lock()
        self._client: RegistryClient | None = None
        self._failed_at = -_REST
        self._failure: ImageError | None = None

    def close(self) -> None:
        """Close the connections. No other thread may use it any more."""
        if self._client is not None:
            self._client.close()

    def read(self, digest: str, offset: int, length: int) -> bytes:
        """Return *length* bytes of the blob *digest* from *offset*.

        Raises:
            ImageError: they cannot be fetched, or could not be a moment ago.
        """
        with self._lock:
            if self._failure is not None and time.monotonic() - self._failed_at < _REST:
                raise self._failure
            if self._client is None:
                self._client = client_for(parse_reference(self._source), os.environ, limits=LIMITS)
        try:
            found = self._client.read_range(digest, offset, length)
        except ImageError as error:
            # A refusal concerns one blob; without a response, the whole registry is gone.
            if not isinstance(error, RegistryError) or error.status is None:
                with self._lock:
                    self._failure, self._failed_at = error, time.monotonic()
            raise
        self._failure = None
        return found


class Chunks:
    """Brings chunks into the data of their layers. Threads share it."""

    def __init__(self, layers: Sequence[Layer], report: Callable[[str], None]) -> None:
        """Fetch for *layers*, by their numbers; *report* receives the reasons of failures."""
        self._layers = layers
        self._report = report
        self._registries = {layer.source: Registry(layer.source) for layer in layers}
        self._large = Lock()

    def close(self) -> None:
        """Close all connections. The process itself ends without that, while threads may wait for a registry."""
        for registry in self._registries.values():
            registry.close()

    def bring(self, number: int, first: int, count: int) -> int:
        """Bring *count* chunks of the layer *number*, from *first* on; return 0, or the errno of the failure."""
        if number >= len(self._layers) or not 0 < count <= len(self._layers[number].table) - first:
            return errno.EINVAL
        layer = self._layers[number]
        try:
            wanted = [layer.table[at] for at in range(first, first + count)]
            for run in _runs([chunk for chunk in wanted if not _is_there(layer, chunk)]):
                self._fetch(layer, run)
        except ImageError as error:
            self._report(error.message)
            return errno.EIO
        except (OSError, WrongChunkError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            self._report(f"{layer.source}: layer {layer.digest}: {reason.lower()}")
            return errno.EIO
        except MemoryError:
            self._report(f"{layer.source}: layer {layer.digest}: a chunk needs too much memory")
            return errno.EIO
        except Exception as error:  # noqa: BLE001 - the thread has to go on
            self._report(f"{layer.source}: layer {layer.digest}: fetching a chunk failed: {error!r}")
            return errno.EIO
        return 0

    def _fetch(self, layer: Layer, run: Sequence[Chunk]) -> None:
        start = run[0].stored
        length = run[-1].stored + run[-1].stored_size - start
        if max(length, *(chunk.size for chunk in run)) > _LARGE:
            with self._large:
                self._fetch_run(layer, run, start, length)
        else:
            self._fetch_run(layer, run, start, length)

    def _fetch_run(self, layer: Layer, run: Sequence[Chunk], start: int, length: int) -> None:
        pieces = memoryview(self._registries[layer.source].read(layer.digest, start, length))
        for chunk in run:
            at = chunk.stored - start
            content = layer.extract(bytes(pieces[at : at + chunk.stored_size]), chunk)
            rest, position = memoryview(content), chunk.position
            while rest:
                written = os.pwrite(layer.data_fd, rest, position)
                rest, position = rest[written:], position + written


def _is_there(layer: Layer, chunk: Chunk) -> bool:
    """Return whether the data has *chunk*, which an earlier run or another sandbox has fetched."""
    try:
        if os.lseek(layer.data_fd, chunk.position, os.SEEK_DATA) >= chunk.position + chunk.size:
            return False
    except OSError as error:
        if error.errno == errno.ENXIO:  # only a hole follows
            return False
        raise
    return is_right(chunk, os.pread(layer.data_fd, chunk.size, chunk.position))


def _runs(chunks: Sequence[Chunk]) -> Iterator[list[Chunk]]:
    """Yield *chunks* in groups that one request brings: they follow each other in the blob."""
    run: list[Chunk] = []
    for chunk in chunks:
        follows = bool(run) and run[-1].stored <= chunk.stored <= run[-1].stored + run[-1].stored_size
        if follows and chunk.stored + chunk.stored_size - run[0].stored <= _AT_ONCE:
            run.append(chunk)
            continue
        if run:
            yield run
        run = [chunk]
    if run:
        yield run


def receive_layers(control: socket.socket) -> tuple[list[Layer], socket.socket]:
    """Receive the layers, and the socket of the server.

    Raises:
        EOFError: the launcher is gone.
        DamagedError: a table of chunks is damaged.
    """
    layers: list[Layer] = []
    while True:
        packet, fds, _, _ = socket.recv_fds(control, 1 << 16, 2, socket.MSG_CMSG_CLOEXEC)
        if not packet:
            raise EOFError
        message: Any = json.loads(packet)
        if message["do"] == "serve":
            return layers, socket.socket(fileno=fds[0])
        data_fd, chunks_fd = fds
        with open(chunks_fd, "rb") as file:
            file.seek(0)
            table = ChunkTable(file.read())
        layers.append(Layer(message["source"], message["digest"], data_fd, table, extractor(message["form"])))


def serve(control: socket.socket, server: socket.socket, chunks: Chunks) -> None:
    """Answer the requests of *server* until the launcher, the other end of *control*, is gone."""
    queue: SimpleQueue[bytes] = SimpleQueue()

    def work() -> None:
        while packet := queue.get():
            request, layer, first, count = FETCH.unpack(packet)
            failure = errno.EIO
            try:
                failure = chunks.bring(layer, first, count)
            finally:
                with suppress(OSError):  # the server is gone
                    server.send(FETCHED.pack(request, failure), socket.MSG_NOSIGNAL)

    for _ in range(_THREADS):
        Thread(target=work, daemon=True).start()
    poll = select.poll()
    poll.register(control, 0)
    poll.register(server, select.POLLIN)
    while True:
        ready = dict(poll.poll())
        if control.fileno() in ready:
            for _ in range(_THREADS):
                queue.put(b"")
            return
        packet = server.recv(FETCH.size)
        if len(packet) == FETCH.size:
            queue.put(packet)
        else:
            poll.unregister(server)  # it is gone, and so is the launcher soon


def main() -> NoReturn:
    """Run the process."""
    status = 1
    try:
        process.set_parent_death_signal()
        process.close_descriptors_but({0, 1, 2, CONTROL})
        os.chdir("/")
        with socket.socket(fileno=CONTROL) as control:

            def report(text: str) -> None:
                with suppress(OSError):  # the launcher does not read, or is gone
                    control.send(
                        text.encode(errors="backslashreplace")[:MOST_MESSAGE],
                        socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL,
                    )

            layers, server = receive_layers(control)
            serve(control, server, Chunks(layers, report))
        status = 0
    except (EOFError, OSError, DamagedError):
        pass  # the launcher is gone, or has damaged tables; the server gets EIO
    finally:
        os._exit(status)  # threads may wait for a registry


if __name__ == "__main__":
    main()
