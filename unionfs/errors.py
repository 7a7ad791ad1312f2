"""The one exception of this package that is not an :class:`OSError`.

While the file system serves, every failure is an ``OSError``, whose errno reaches the caller. ``UnionError`` reports errors
that are found before that: options, layers and directories from which no file system can be made.
"""

from __future__ import annotations

import os


class UnionError(Exception):
    """The requested stack or options cannot be served.

    The message is one line for a person: the problem, its place and the remedy.
    """


def explain(error: UnionError | OSError) -> str:
    """Return *error* as one line. For an OSError with a file name, the line consists of the file and the reason."""
    if isinstance(error, UnionError) or not isinstance(error.filename, bytes | str):
        return str(error)
    return f"{os.fsdecode(error.filename)}: {error.strerror}"
