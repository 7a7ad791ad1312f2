"""Make the names of archive members printable."""

from __future__ import annotations


def printable(name: bytes) -> str:
    """Return *name* for a message: on one line, without control characters, at most 200 characters."""
    text = name[:4096].decode("utf-8", "backslashreplace")
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return text if len(text) <= 200 else f"{text[:140]}…{text[-59:]}"
