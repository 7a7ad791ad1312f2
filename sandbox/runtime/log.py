"""Write what a sandbox in the background prints to its log (sandbox/state/log_files.py)."""

from __future__ import annotations

import os
import select
import time

from sandbox.state.log_files import FILES, LARGEST, NAME, encode

_READ = 1 << 16
_MOST_READS = 16


class LogWriter:
    """The files of one log. The log of the supervisor owns it."""

    def __init__(self, directory: str, *, largest: int = LARGEST, files: int = FILES) -> None:
        """Begin a log in *directory*. The file is rotated when it has *largest* bytes, and *files* of them are kept.

        Raises:
            OSError: the file cannot be made.
        """
        self._directory = directory
        self._largest = largest
        self._files = files
        self._fd = self._open()
        self._size = 0
        #: Lines that were lost since the disk was full.
        self._lost = 0

    def _open(self) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(os.path.join(self._directory, NAME), flags, 0o600)

    def write(self, stream: str, data: bytes) -> None:
        """Append *data*, which *stream* has printed now. On a full disk it is lost, and the log says so later."""
        lines = encode(stream, data, time.time_ns())
        if self._lost:
            note = f"{self._lost} lines are lost: the disk was full\n".encode()
            lines = encode("sandbox", note, time.time_ns()) + lines
        try:
            if self._size and self._size + len(lines) > self._largest:
                self._rotate()
            written = os.write(self._fd, lines)
        except OSError:
            written = 0
        if written < len(lines):
            if written:  # no part of a line stays
                os.ftruncate(self._fd, self._size)
            self._lost += data.count(b"\n") or 1
            return
        self._lost = 0
        self._size += written

    def _rotate(self) -> None:
        path = os.path.join(self._directory, NAME)
        for number in range(self._files - 1, 0, -1):
            older = path if number == 1 else f"{path}.{number - 1}"
            if os.path.lexists(older):
                os.rename(older, f"{path}.{number}")
        made = self._open()
        os.close(self._fd)
        self._fd, self._size = made, 0

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)


class OutputLog:
    """The pipes of the program's output and of the supervisor's, and the log. The supervisor creates and closes it."""

    def __init__(self, own_fd: int) -> None:
        """Make the pipes of the program. *own_fd* is the read end of the pipe to which the supervisor prints; it belongs to this object.

        The command that starts the sandbox reads from it, too, until :meth:`take_over`.

        Raises:
            OSError: no descriptor is free.
        """
        self._own_fd = own_fd
        self._readers: dict[int, str] = {}
        #: The write ends for the program: standard output, and standard error.
        self.outputs: tuple[int, ...] = ()
        ends = []
        for stream in ("stdout", "stderr"):
            reader, writer = os.pipe2(os.O_CLOEXEC)
            os.fchmod(writer, 0o666)  # the program may have another id, and open /dev/stdout
            self._readers[reader] = stream
            ends.append(writer)
        self.outputs = tuple(ends)
        for fd in (own_fd, *self._readers):
            os.set_blocking(fd, False)
        self._writer: LogWriter | None = None

    def begin(self, directory: str) -> None:
        """Write to files in *directory*.

        Raises:
            OSError: they cannot be made.
        """
        self._writer = LogWriter(directory)

    def take_over(self) -> None:
        """Log what the supervisor prints from now on."""
        self._readers[self._own_fd] = "sandbox"
        self._own_fd = -1

    def close_outputs(self) -> None:
        """Close the write ends of the program here, so that they end with it."""
        for fd in self.outputs:
            os.close(fd)
        self.outputs = ()

    def interest(self) -> dict[int, int]:
        """Return the descriptors to watch, each with its events (poll(2))."""
        return dict.fromkeys(self._readers, select.POLLIN)

    def handle(self, fd: int) -> None:
        """Log what can be read from *fd*. A program that prints faster waits, as its pipe is full."""
        for _ in range(_MOST_READS):
            try:
                data = os.read(fd, _READ)
            except BlockingIOError:
                return
            if not data:
                del self._readers[fd]
                os.close(fd)
                return
            if self._writer is not None:
                self._writer.write(self._readers[fd], data)

    def finish(self) -> None:
        """Log what is left, and close everything. Closing twice does nothing."""
        self.close_outputs()
        for fd in list(self._readers):
            while fd in self._readers:
                before = select.select([fd], [], [], 0)[0]
                if not before:
                    break
                self.handle(fd)
        for fd in self._readers:
            os.close(fd)
        self._readers = {}
        if self._own_fd >= 0:
            os.close(self._own_fd)
            self._own_fd = -1
        if self._writer is not None:
            self._writer.close()
            self._writer = None
