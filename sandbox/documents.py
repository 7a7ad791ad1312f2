"""Parsed documents that are kept, so that a start of a file that was started before imports no TOML parser.

    STATE/documents/KEY      a line with a digest, and what `sandbox.spec.document.pack` made

Kept is what the text says by itself, values and places: what it means (other files, profiles, the environment, this machine) is found anew
each time, by the same code, and with the same mistakes at the same places. No string of it is kept, only where it stands: the file's
content may be a secret, and is asked for whenever the rest is used. KEY names the bytes of the file, the parser (its interpreter's
version) and our part of it, by the inodes of its modules and when they changed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from contextlib import suppress

from sandbox import spec
from sandbox.digests import sha256
from sandbox.errors import StateError
from sandbox.keeping import Shelf, default_path, distrust

_NAME = "documents"
_KEPT = 64
"""Documents that are kept; the ones that were written first make room."""
_LARGEST = 1 << 20
"""Bytes of one that is. Files are of a few kilobytes, and those of a megabyte take long for other reasons."""
_PARSER = ("document.py", "locate.py", "notation.py", "patterns.py", "units.py")
"""The modules of `sandbox.spec` that decide what is kept."""


class Documents:
    """What is kept in one state directory, for the time of one start."""

    def __init__(self, environ: Mapping[str, str], uid: int) -> None:
        """Look for documents in the state directory of *uid*."""
        self._environ = environ
        self._uid = uid
        self._code = ""
        self._new: dict[str, bytes] = {}

    def recall(self, data: bytes) -> bytes | None:
        """Return what was kept of the file with the content *data*.

        Nothing where there is no state directory yet, or none that can be trusted: first come the mistakes of the file.
        """
        try:
            return self._recall(data)
        except (StateError, OSError, ValueError):
            return None

    def _recall(self, data: bytes) -> bytes | None:
        path = os.path.realpath(default_path(self._environ, self._uid))
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            trusted = distrust(os.fstat(fd)) is None
            shelf = Shelf.open(fd, _NAME, make=False) if trusted else None
        finally:
            os.close(fd)
        if shelf is None:
            return None
        try:
            return shelf.get(self._key(data), at_most=_LARGEST)
        finally:
            shelf.close()

    def remember(self, data: bytes, packed: bytes) -> None:
        """Take what :meth:`keep` is to keep."""
        if len(packed) <= _LARGEST:
            self._new[self._key(data)] = packed

    def keep(self, state_fd: int) -> None:
        """Keep what was parsed in this start. What cannot be kept is no failure."""
        if not self._new or (shelf := Shelf.open(state_fd, _NAME, make=True)) is None:
            return
        with suppress(OSError):
            for key, packed in self._new.items():
                shelf.put(key, packed, entries=_KEPT)
        shelf.close()

    def _key(self, data: bytes) -> str:
        if not self._code:
            self._code = repr((sys.version, *map(_identity, _PARSER)))
        return sha256(self._code.encode() + sha256(data).digest()).hexdigest()


def _identity(module: str) -> object:
    """Return what changes with the *module* of `sandbox.spec`; what is equal to nothing where there is no such file."""
    try:
        info = os.stat(os.path.join(os.path.dirname(spec.__file__), module))
    except OSError:
        return os.urandom(16)
    return info.st_dev, info.st_ino, info.st_size, info.st_ctime_ns
