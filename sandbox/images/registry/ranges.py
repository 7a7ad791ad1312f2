"""Parse and write the ranges of bytes in headers: Content-Range of downloads, and Range of uploads. Pure."""

from __future__ import annotations

import re

from unionfs._stdlib.dataclasses import dataclass

# At most 19 digits: a size of a file fits 63 bits.
_CONTENT_RANGE = re.compile(r"bytes[ \t]+([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)", re.IGNORECASE)
_UPLOADED = re.compile(r"(?:bytes=)?0-([0-9]{1,19})")


@dataclass(frozen=True, slots=True)
class ContentRange:
    """A range of a whole, in bytes; *end* is the offset behind its last byte."""

    start: int
    end: int
    #: The size of the whole; None if the server does not give it.
    size: int | None


def parse_content_range(header: str | None) -> ContentRange | None:
    """Parse the Content-Range *header* of a response 206 (RFC 9110, section 14.4); None if it is missing or malformed."""
    match = None if header is None else _CONTENT_RANGE.fullmatch(header.strip())
    if match is None:
        return None
    start, last = int(match[1]), int(match[2])
    size = None if match[3] == "*" else int(match[3])
    if last < start or (size is not None and last >= size):
        return None
    return ContentRange(start, last + 1, size)


def range_header(start: int, end: int | None = None) -> str:
    """Return the value of a Range header for the bytes from *start* up to and without *end*, by default all that follow."""
    return f"bytes={start}-{'' if end is None else end - 1}"


def parse_uploaded(header: str | None) -> int | None:
    """Return how many bytes of an upload the registry has, by the Range *header* of its response; None if it is malformed.

    Distribution specification, "Pushing a blob in chunks": the header is `0-LAST`, without a unit. Docker's registry answers
    `0-0` for an empty upload as well as for one byte; the result is 1 then.
    """
    match = None if header is None else _UPLOADED.fullmatch(header.strip())
    return None if match is None else int(match[1]) + 1
