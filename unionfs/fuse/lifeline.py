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
