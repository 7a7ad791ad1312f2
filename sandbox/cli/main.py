"""Runs a verb, renders errors, chooses exit statuses; knows how nothing is done."""

from __future__ import annotations

import errno
import os
import sys

from sandbox.cli.output import print_json, use_colour
from sandbox.errors import EXIT_FAILURE, SandboxError, SpecError, describe_errno

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from typing import NoReturn

_ESCAPES = "sandbox-escapes"
"""The error handler (see codecs) that writes as TOML does what an encoding does not have."""


_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def command() -> NoReturn:
    """Run the command line of this process, and end it without taking the interpreter apart, which would take milliseconds."""
    status = main()
    try:
        sys.stderr.flush()
    except OSError:
        pass  # a warning that could not be written is still in the buffer
    os._exit(status)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    if "_ARGCOMPLETE" in os.environ and "COMP_LINE" in os.environ:  # a shell asks for completions
        from sandbox.cli.parser import whole
        from sandbox.completion.asking import complete

        complete(whole)
    _open_standard_descriptors()
    _let_print_everything()
    try:
        try:
            return _run(sys.argv[1:] if argv is None else argv)
        finally:
            # Here, of help as well: at the end of the interpreter a failure has nobody who reports it.
            sys.stdout.flush()
    except BrokenPipeError:
        _drop_output()  # its reader has gone, as head(1) does
        return 141
    except OSError as error:
        _drop_output()  # as with `sandbox config FILE > /full/disk`
        reason = (error.strerror or str(error)).lower()
        hint = (
            "free some where standard output and the state are kept (see `df`)" if _is_full(error) else None
        )
        _report(SandboxError(f"cannot write: {reason}", hint=hint), as_json=False)
        return EXIT_FAILURE


def _run(argv: Sequence[str]) -> int:
    """Run the command line; raises only what says that output could not be written, and SystemExit after help."""
    arguments = _read(argv)
    debug: bool = arguments.debug
    try:
        status = arguments.run(arguments)
        assert isinstance(status, int)
        return status
    except SandboxError as error:
        if debug:
            _print_traceback()
        _report(error, as_json=getattr(arguments, "json", False))
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        raise
    except OSError as error:
        if debug:
            _print_traceback()
        if _is_full(error):
            raise
        _report(_as_failure(error), as_json=getattr(arguments, "json", False))
        return EXIT_FAILURE
    except MemoryError:
        print("sandbox: there is no memory left\n      hint: free some and try again", file=sys.stderr)
        return EXIT_FAILURE
    except Exception as error:  # noqa: BLE001 - whatever it is, one line and our own exit status
        if debug:
            _print_traceback()
        print(
            f"sandbox: internal error: {error!r}\n      hint: run again with --debug and report it",
            file=sys.stderr,
        )
        return EXIT_FAILURE


def _read(argv: Sequence[str]) -> argparse.Namespace:
    """Return the arguments of *argv*. Exits for --help, --version and mistakes."""
    if argv and argv[0] == "up":
        from sandbox.cli import plain

        if (arguments := plain.read(argv)) is not None:
            return arguments
    from sandbox.cli.parser import parse

    return parse(argv)


def _is_full(error: OSError) -> bool:
    """Tell whether there was no room for what was written to a descriptor; of files, their errors have the name."""
    return error.filename is None and error.errno in _NO_ROOM


def _as_failure(error: OSError) -> SandboxError:
    """Say what the system refused where nobody knew more about it: no file, memory, process or space was left."""
    where = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
    reason = (error.strerror or str(error)).lower()
    hint = describe_errno("", error.errno or 0)
    return SandboxError(f"{where}{reason}", hint=hint or "run again with --debug")


def _report(error: SandboxError, *, as_json: bool) -> None:
    if as_json:
        print_json({"error": error.as_dict()})
        return
    text = error.render(color=use_colour(sys.stderr))
    # Diagnostics of a file begin with its name, as compilers have it; everything else with ours.
    print(text if isinstance(error, SpecError) else f"sandbox: {text}", file=sys.stderr)


def _open_standard_descriptors() -> None:
    """Give /dev/null to what we were started without, or a socket of ours would be the program's output."""
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
            os.set_inheritable(fd, True)
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", closefd=False)


def _drop_output() -> None:
    """Send what is still buffered nowhere, or the end of the interpreter would try to write it once more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _let_print_everything() -> None:
    """Let standard output take everything in any locale, as Python lets standard error.

    A program or a file gets UTF-8, which TOML and JSON are always. What a terminal of another encoding does not have, and
    bytes of file names that are no UTF-8, are escaped as in TOML.
    """
    import codecs
    import io

    if isinstance(sys.stdout, io.TextIOWrapper):
        codecs.register_error(_ESCAPES, _escape)
        sys.stdout.reconfigure(encoding=None if sys.stdout.isatty() else "utf-8", errors=_ESCAPES)


def _escape(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    numbers = map(ord, error.object[error.start : error.end])
    return "".join(f"\\u{one:04X}" if one < 0x10000 else f"\\U{one:08X}" for one in numbers), error.end


def _print_traceback() -> None:
    import traceback

    traceback.print_exc()
