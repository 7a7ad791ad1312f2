"""Run a verb, render its errors, and choose the exit status."""

from __future__ import annotations

import errno
import os
import sys

from sandbox.cli.output import print_json, use_colour
from sandbox.errors import EXIT_FAILURE, SandboxError, SpecError, describe_errno

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

_ESCAPES = "sandbox-escapes"
"""The name of the codecs error handler that escapes as in TOML the characters that an encoding lacks."""

_NO_SPACE_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def command() -> NoReturn:
    """Run the command line of this process, and end it with _exit(2): finalizing the interpreter would take milliseconds."""
    status = main()
    try:
        sys.stderr.flush()
    except OSError:
        pass  # the buffer still contains a warning that could not be written
    os._exit(status)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    if "_ARGCOMPLETE" in os.environ and "COMP_LINE" in os.environ:  # a shell requests completions
        from sandbox.cli.parser import whole
        from sandbox.completion.answer import complete

        complete(whole)
    _open_standard_descriptors()
    _escape_unencodable()
    try:
        try:
            return _run(sys.argv[1:] if argv is None else argv)
        finally:
            # Flush here, after help as well: no handler would report a failure when the interpreter ends.
            sys.stdout.flush()
    except BrokenPipeError:
        _drop_output()  # the reader has closed the pipe, as head(1) does
        return 141
    except OSError as error:
        _drop_output()  # for example `sandbox config FILE > /full/disk`
        reason = (error.strerror or str(error)).lower()
        hint = (
            "free space on the file system of standard output and of the state directory (see `df`)"
            if _is_full(error)
            else None
        )
        _report(SandboxError(f"cannot write: {reason}", hint=hint), as_json=False)
        return EXIT_FAILURE


def _run(argv: Sequence[str]) -> int:
    """Run the command line; raise only OSErrors of writing output, and SystemExit after help."""
    from sandbox.cli.parser import parse

    arguments = parse(argv)
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
        print("sandbox: out of memory\n      hint: free some and try again", file=sys.stderr)
        return EXIT_FAILURE
    except Exception as error:  # noqa: BLE001 - any other error becomes one line and EXIT_FAILURE
        if debug:
            _print_traceback()
        print(
            f"sandbox: internal error: {error!r}\n      hint: run again with --debug and report it",
            file=sys.stderr,
        )
        return EXIT_FAILURE


def _is_full(error: OSError) -> bool:
    """Tell whether a write to a descriptor failed for lack of space; an error of a named file has a file name."""
    return error.filename is None and error.errno in _NO_SPACE_ERRNOS


def _as_failure(error: OSError) -> SandboxError:
    """Return a SandboxError for an OSError that no verb handled, such as a lack of descriptors, memory, processes or space."""
    where = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
    reason = (error.strerror or str(error)).lower()
    hint = describe_errno("", error.errno or 0)
    return SandboxError(f"{where}{reason}", hint=hint or "run again with --debug")


def _report(error: SandboxError, *, as_json: bool) -> None:
    if as_json:
        print_json({"error": error.as_dict()})
        return
    text = error.render(color=use_colour(sys.stderr))
    # Diagnostics of a file begin with its name, as those of compilers do; other errors begin with "sandbox:".
    print(text if isinstance(error, SpecError) else f"sandbox: {text}", file=sys.stderr)


def _open_standard_descriptors() -> None:
    """Open /dev/null on closed standard descriptors; otherwise a socket of the launcher could become the program's output."""
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # open(2) returns the lowest free number
            os.set_inheritable(fd, True)
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", closefd=False)


def _drop_output() -> None:
    """Redirect buffered output to /dev/null, because the interpreter would try to write it again at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _escape_unencodable() -> None:
    """Make standard output accept all text in any locale, as Python does for standard error.

    A pipe or a file gets UTF-8, the encoding of TOML and JSON. Characters that a terminal's encoding lacks, and bytes of file
    names that are not UTF-8, are escaped as in TOML.
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
