"""The one exception of this package that is not an :class:`OSError`.

While the file system serves, everything that can fail is an ``OSError`` whose errno reaches the caller.
``UnionError`` is for what is found before that: options, layers and directories from which no file system can
be made.
"""

from __future__ import annotations

import os


class UnionError(Exception):
    """The stack or the options that were asked for cannot be served.

    The message is one line for a person: what, where and the remedy.
    """


def explain(error: UnionError | OSError) -> str:
    """Return *error* as one line; of an OSError that names a file, the file and the reason."""
    if isinstance(error, UnionError) or not isinstance(error.filename, bytes | str):
        return str(error)
    return f"{os.fsdecode(error.filename)}: {error.strerror}"
