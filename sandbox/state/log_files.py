"""The log of a sandbox in the background: files of lines, which are rotated. Pure, apart from :func:`log_paths`.

    STATE/run/ID/log, log.1, log.2    the newest, and older ones

A line is "TIME STREAM TAG TEXT", as in the Container Runtime Interface of Kubernetes: the time of the line in UTC with nanoseconds;
stdout or stderr of the program, or sandbox for what the supervisor prints; F for a whole line, P for a part whose rest follows in
the next line of the same stream.
"""

from __future__ import annotations

import os
import time

from unionfs._stdlib.dataclasses import dataclass

NAME = "log"
LARGEST = 10_000_000
"""Bytes of a file after which the next one begins."""
FILES = 3
"""The most files that are kept; the oldest is removed."""
LONGEST = 1 << 14
"""Bytes of the longest text of one line; a longer line of the program becomes several parts."""
STREAMS = ("stdout", "stderr", "sandbox")


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line of a log."""

    #: In nanoseconds since 1970.
    time: int
    stream: str
    #: Whether the text is the end of a line.
    whole: bool
    text: bytes


def format_time(nanoseconds: int) -> str:
    """Return *nanoseconds* since 1970 in UTC: "2026-12-01T20:31:18.000000001Z"."""
    seconds, rest = divmod(nanoseconds, 10**9)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{rest:09d}Z"


def parse_time(text: str) -> int | None:
    """Return the nanoseconds since 1970 of *text*, which :func:`format_time` has made; None for any other."""
    import calendar

    whole, dot, fraction = text.removesuffix("Z").partition(".")
    try:
        seconds = calendar.timegm(time.strptime(whole, "%Y-%m-%dT%H:%M:%S"))
        return seconds * 10**9 + (int(fraction[:9].ljust(9, "0")) if dot else 0)
    except ValueError:
        return None


def encode(stream: str, data: bytes, nanoseconds: int) -> bytes:
    """Return *data*, which *stream* printed at one time, as lines of a log."""
    head = f"{format_time(nanoseconds)} {stream} ".encode()
    lines = []
    for line in _lines(data):
        text, whole = (line[:-1], True) if line.endswith(b"\n") else (line, False)
        while len(text) > LONGEST:
            lines.append(head + b"P " + text[:LONGEST])
            text = text[LONGEST:]
        lines.append(head + (b"F " if whole else b"P ") + text)
    return b"\n".join([*lines, b""])


def _lines(data: bytes) -> list[bytes]:
    """Split *data* behind each newline; bytes.splitlines would split at carriage returns, too."""
    found = [line + b"\n" for line in data.split(b"\n")]
    last = found.pop()[:-1]
    return [*found, last] if last else found


def decode(line: bytes) -> LogLine | None:
    """Return the line of a log in *line*, without its newline; None for a damaged one."""
    parts = line.split(b" ", 3)
    if len(parts) != 4 or parts[2] not in (b"F", b"P"):
        return None
    moment, stream = parse_time(parts[0].decode("ascii", "replace")), parts[1].decode("ascii", "replace")
    if moment is None or stream not in STREAMS:
        return None
    return LogLine(moment, stream, parts[2] == b"F", parts[3])


def log_paths(directory: str) -> list[str]:
    """Return the paths of the files of the log in *directory*, oldest first; the last one may be missing."""
    older = [os.path.join(directory, f"{NAME}.{number}") for number in range(FILES - 1, 0, -1)]
    return [*(path for path in older if os.path.lexists(path)), os.path.join(directory, NAME)]
