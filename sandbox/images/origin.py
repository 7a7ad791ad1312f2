"""Read and write the record of the archive that a layer of the layer store was unpacked from.

    LAYER/archive.json      {"size": BYTES, "sha256": HEX, "known": [KEY, ...]}

Reading a whole archive takes long. So a key made of its stat(2) fields is compared first. The digest of its content is
compared only if that key is not among the known ones. A layer whose record is missing or damaged is not found by content.
"""

from __future__ import annotations

import os

from sandbox.state.trusted_files import decode_json, open_trusted, replace_json
from unionfs._stdlib.dataclasses import dataclass, replace

_NAME = "archive.json"
_LARGEST = 1 << 16
_MAX_KNOWN = 64
"""The most keys in a record; the oldest are dropped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """The archive's size in bytes, the SHA-256 of its content in hexadecimal digits, and the keys that it had."""

    size: int
    sha256: str
    known: tuple[str, ...]

    def with_key(self, key: str) -> Origin:
        """Return the record with *key* as the latest."""
        return replace(self, known=(*self.known, key)[-_MAX_KNOWN:])


def read_origin(place: str) -> Origin | None:
    """Return the record of the layer in the directory *place*; None if it is missing, untrusted or damaged."""
    opened = open_trusted(os.path.join(place, _NAME))
    if opened is None:
        return None
    with open(opened[0], "rb") as file:
        text = file.read(_LARGEST)
    try:
        found = decode_json(text)
        known = found["known"]
        if not isinstance(known, list):
            return None
        return Origin(size=int(found["size"]), sha256=str(found["sha256"]), known=tuple(map(str, known)))
    except (ValueError, TypeError, KeyError):
        return None


def write_origin(place: str, origin: Origin) -> None:
    """Replace the record of the layer in the directory *place* atomically.

    Raises:
        OSError: the record cannot be written; the old one is still there.
    """
    content = {"size": origin.size, "sha256": origin.sha256, "known": list(origin.known)}
    replace_json(os.path.join(place, _NAME), content)
