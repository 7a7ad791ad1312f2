"""`sandbox logs`: print what a sandbox in the background has printed."""

from __future__ import annotations

import argparse
import sys

from sandbox.errors import printable

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.state.log_files import LogLine

DESCRIPTION = """\
Print the log of a sandbox that `sandbox up --detach` has started: what its program has printed to standard output is printed
to standard output, and the rest to standard error. Lines of sandbox itself begin with "sandbox: ". On a terminal, control
characters are escaped. It works while the sandbox runs and after it has ended. A log has at most three files of 10 MB; the oldest lines are removed.

NAME is the name of a sandbox, or the beginning of the id of a run; FILE selects the newest run of that file."""
EPILOG = """examples:
  sandbox logs --follow web
  sandbox logs --tail 20 --timestamps web

exit status: 0, 125 for a failure"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("sandbox", metavar="FILE|NAME", help="the sandbox")
    parser.add_argument(
        "--follow", "-f", action="store_true", help="continue to print until the sandbox ends"
    )
    parser.add_argument("--tail", metavar="LINES", type=_lines, help="begin with the last LINES lines")
    parser.add_argument(
        "--since", metavar="TIME", help="only lines from TIME on: 10m ago, or 2026-12-01T20:31:18Z"
    )
    parser.add_argument("--until", metavar="TIME", help="only lines before TIME")
    parser.add_argument("--timestamps", action="store_true", help="print the time before each line")
    parser.add_argument("--stdout", action="store_true", help="only standard output")
    parser.add_argument("--stderr", action="store_true", help="only standard error")


def run(arguments: argparse.Namespace) -> int:
    """Print the log; return the exit status."""
    from sandbox.cli.state_path import existing_locations
    from sandbox.errors import StateError
    from sandbox.lifecycle.log_reading import read_log
    from sandbox.lifecycle.running import newest

    where = existing_locations()
    if where is None:
        raise StateError(f"there is no sandbox {arguments.sandbox}")
    chosen = newest(where.state, arguments.sandbox)
    since, until = (_moment(text) for text in (arguments.since, arguments.until))
    streams = {name for name in ("stdout", "stderr") if getattr(arguments, name)}
    printer = _Printer(timestamps=arguments.timestamps)

    def wanted(line: LogLine) -> bool:
        return (
            (not streams or line.stream in streams)
            and (since is None or line.time >= since)
            and (until is None or line.time < until)
        )

    for line in read_log(chosen, wanted, tail=arguments.tail, follow=arguments.follow):
        printer.print(line)
    return 0


class _Printer:
    """Prints the lines of a log, each part of a line behind the last one of its stream."""

    def __init__(self, *, timestamps: bool) -> None:
        self._timestamps = timestamps
        #: The streams whose last line was a part.
        self._open: set[str] = set()

    def print(self, line: LogLine) -> None:
        from sandbox.state.log_files import format_time

        target = sys.stdout if line.stream == "stdout" else sys.stderr
        before = b""
        if line.stream not in self._open:
            before = format_time(line.time).encode() + b" " if self._timestamps else b""
            if line.stream == "sandbox" and not line.text.startswith(b"sandbox: "):
                before += b"sandbox: "
        text = line.text
        if target.isatty():  # a program could send commands to the terminal
            text = printable(text.decode("utf-8", "backslashreplace")).encode("utf-8", "backslashreplace")
        target.buffer.write(before + text + (b"\n" if line.whole else b""))
        target.buffer.flush()
        (self._open.discard if line.whole else self._open.add)(line.stream)


def _lines(text: str) -> int:
    value = int(text)
    if value < 0:
        raise ValueError(text)
    return value


_lines.__name__ = "number of lines"  # argparse names the type in its message


def _moment(text: str | None) -> int | None:
    """Return the nanoseconds since 1970 of *text*: a duration before now, such as "10m", or a time."""
    import time

    from sandbox.errors import SandboxError
    from sandbox.spec.units import parse_duration
    from sandbox.state.log_files import parse_time

    if text is None:
        return None
    moment = parse_time(text)
    if moment is not None:
        return moment
    try:
        return time.time_ns() - int(parse_duration(text.removesuffix(" ago")) * 10**9)
    except ValueError:
        raise SandboxError(
            f"{text} is no time", hint="write a duration before now, such as 10m, or 2026-12-01T20:31:18Z"
        ) from None
