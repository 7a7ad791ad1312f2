"""What a serving loop watches beside the mount: the process that started the server."""

from __future__ import annotations

from unionfs._stdlib.typing import Protocol


class Lifeline(Protocol):
    """A descriptor over which that process sends requests, and whose other end it closes to end the server."""

    def fileno(self) -> int:
        """Return the descriptor, for poll(2)."""

    def handle(self) -> bool:
        """Handle what can be read. Return False if the other end is closed.

        The loop calls it between two requests of the kernel.
        """


class Silent:
    """A lifeline over which nothing is sent: if it can be read, its other end is closed."""

    def __init__(self, fd: int) -> None:
        """Watch the socket *fd*, which belongs to the caller."""
        self._fd = fd

    def fileno(self) -> int:
        """Return the descriptor, for poll(2)."""
        return self._fd

    def handle(self) -> bool:
        """Return False."""
        return False
