"""Recognize whiteouts: members of an archive whose names delete objects of the layers below (OCI image-spec, layer.md).

`.wh.NAME` hides NAME of the layers below, and `.wh..wh..opq` hides all that these have in its directory. Both are empty files.
They hide nothing of their own layer, wherever they stand in the archive.

A name that begins with `.wh.` is always a whiteout, so no layer can have an object with such a name. It follows that the names
`.wh..wh.*`, in which AUFS kept records of its own, hide nothing, apart from the opaque one. They are accepted.
"""

from __future__ import annotations

from sandbox.images.names import printable

PREFIX = b".wh."
OPAQUE = b".wh..wh..opq"


class InvalidWhiteoutError(Exception):
    """A whiteout has a name that hides nothing; the text gives the reason."""


def is_whiteout(leaf: bytes) -> bool:
    """Tell whether the last component *leaf* of a path is that of a whiteout, opaque or not."""
    return leaf.startswith(PREFIX)


def has_whiteout(path: bytes) -> bool:
    """Tell whether any component of *path*, which is relative and without superfluous slashes, is that of a whiteout."""
    return path.startswith(PREFIX) or b"/" + PREFIX in path


def hidden_name(leaf: bytes) -> bytes:
    """Return the name that *leaf*, a whiteout but not the opaque one, hides in its directory.

    Raises:
        InvalidWhiteoutError: no object can have that name: it is empty, `.` or `..`.
    """
    name = leaf[len(PREFIX) :]
    if name in {b"", b".", b".."}:
        raise InvalidWhiteoutError(f"a whiteout of {printable(name)!r}, which is no name of a file")
    return name
