"""Start and end the process that fetches missing chunks (fetcher.py)."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys

from sandbox.errors import SetupError
from unionfs._stdlib.typing import NamedTuple

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_STEP = "the process that fetches layers"
_MODULE = "sandbox.images.chunked.fetcher"
_CONTROL = 3  # fetcher.CONTROL
_MOST_MESSAGE = 4096


class FetchedLayer(NamedTuple):
    """A layer whose chunks are fetched. The caller owns the descriptors."""

    #: The image of the registry, `docker://HOST/NAME`, with a tag or a digest.
    source: str
    #: The digest of the blob, and its form: "zstd" or "estargz".
    digest: str
    form: str
    #: The data, for reading and writing, and the table of the chunks.
    data_fd: int
    chunks_fd: int


class FetcherProcess:
    """The process. Owns the socket to it; the caller calls :meth:`stop`."""

    def __init__(self, layers: Sequence[FetchedLayer]) -> None:
        """Start it for *layers*, by their numbers.

        Raises:
            SetupError: it cannot be started.
        """
        self._ended = False
        self._control, control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        #: The server's end of the socket for requests; :meth:`close_server` closes it.
        self.server, requests = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with control, requests:
            try:
                self.pid = _spawn(control.fileno())
            except OSError as error:
                self._control.close()
                self.server.close()
                nameless = OSError(error.errno, error.strerror)  # the operation contains the file name
                raise SetupError.from_os_error(_STEP, "fork", nameless) from None
            try:
                for layer in layers:
                    about = {"source": layer.source, "digest": layer.digest, "form": layer.form}
                    self._send({"do": "add", **about}, layer.data_fd, layer.chunks_fd)
                self._send({"do": "serve"}, requests.fileno())
            except OSError as error:
                self.stop()
                raise SetupError.from_os_error(_STEP, "send", error) from None

    def _send(self, message: object, *fds: int) -> None:
        socket.send_fds(self._control, [json.dumps(message).encode()], fds, socket.MSG_NOSIGNAL)

    def fileno(self) -> int:
        """Return the descriptor of the socket, for poll(2)."""
        return self._control.fileno()

    def receive(self) -> str:
        """Return the next message, which is the reason of a failure; "" if the process has ended."""
        try:
            return self._control.recv(_MOST_MESSAGE).decode(errors="replace")
        except OSError:
            return ""

    def close_server(self) -> None:
        """Close the server's end of the socket, because the server has it, or there is no server."""
        self.server.close()

    def stop(self) -> None:
        """End the process, whatever it does. Programs that wait for it get EIO."""
        if self._ended:
            return
        self._ended = True
        self.server.close()
        self._control.close()
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


def _spawn(control_fd: int) -> int:
    """Start the process with *control_fd* as its socket to the launcher; return its pid."""
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    try:
        return os.posix_spawn(
            sys.executable,
            # -P: the current directory must not be searched for modules.
            [sys.executable, "-P", "-m", _MODULE],
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, null, 0),
                (os.POSIX_SPAWN_DUP2, null, 1),
                (os.POSIX_SPAWN_DUP2, control_fd, _CONTROL),
            ],
            setsid=True,  # SIGINT by ctrl-C is for the program
        )
    finally:
        os.close(null)
