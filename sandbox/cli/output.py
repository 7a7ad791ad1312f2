"""Print results for a terminal or a program: colour, tables, JSON, warnings.

Only terminals get colour and alignment; NO_COLOR (no-color.org) and TERM=dumb disable colour.
"""

from __future__ import annotations

import math
import os
import sys

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import TextIO

    from sandbox.errors import RenderableDiagnostic

_CODES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}


def use_colour(stream: TextIO) -> bool:
    """Tell whether to use colour on *stream*: it is a terminal, and the environment does not disable colour."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def styled(text: str, style: str, *, colour: bool) -> str:
    """Return *text* in a *style* ("bold", "dim", or a colour) if *colour* is set."""
    return f"\x1b[{_CODES[style]}m{text}\x1b[0m" if colour and text else text


def for_terminal(text: str) -> str:
    """Return *text*; if standard output is a terminal, with unprintable and control characters escaped."""
    if text.isprintable() or not sys.stdout.isatty():
        return text
    from sandbox.errors import printable

    return "".join(char if char in "\n\t" else printable(char) for char in text)


def print_json(value: object) -> None:
    """Print *value* as indented ASCII JSON: other encodings could not print the bytes of a path that are not UTF-8.

    JSON lacks dates, nan and inf; these become strings as in TOML.
    """
    import json

    print(json.dumps(_without_special_floats(value), indent=2, default=_date, allow_nan=False))


def _date(value: object) -> str:
    """Return a date, time or both of tomllib as TOML writes it; raise TypeError for anything else."""
    isoformat = getattr(value, "isoformat", None)
    if isoformat is None:
        raise TypeError(f"{type(value).__name__} is nothing that JSON has")
    return str(isoformat())


def _without_special_floats(value: object) -> object:
    if isinstance(value, dict):
        return {key: _without_special_floats(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_special_floats(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def print_table(
    rows: Iterable[Sequence[str]], *, header: Sequence[str] = (), stream: TextIO | None = None
) -> None:
    """Print *rows* as aligned columns with *header* if *stream* is a terminal, otherwise separated by tabs without *header*."""
    stream = sys.stdout if stream is None else stream
    rows = [tuple(row) for row in rows]
    if not stream.isatty():
        for row in rows:
            print("\t".join(row), file=stream)
        return
    if header:
        rows = [tuple(header), *rows]
    widths = [
        max((len(row[column]) for row in rows if column < len(row)), default=0)
        for column in range(max(map(len, rows), default=0))
    ]
    for number, row in enumerate(rows):
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        line = "  ".join(cells).rstrip()
        print(
            styled(line, "bold", colour=use_colour(stream)) if header and number == 0 else line, file=stream
        )


def warn(text: str) -> None:
    """Print a warning to standard error. A failure to write it, as on a full disk, does not change the exit status."""
    from sandbox.errors import printable

    mark = styled("warning:", "yellow", colour=use_colour(sys.stderr))
    try:
        print(f"sandbox: {mark} {printable(text)}", file=sys.stderr, flush=True)
    except OSError:
        pass


def print_warnings(diagnostics: Iterable[RenderableDiagnostic], *, as_json: bool = False) -> None:
    """Print warnings with their places in a file: to standard error as compilers do, or to standard output as JSON."""
    if as_json:
        print_json({"warnings": [diagnostic.as_dict() for diagnostic in diagnostics]})
        return
    for diagnostic in diagnostics:
        print(diagnostic.render(color=use_colour(sys.stderr)), file=sys.stderr)
