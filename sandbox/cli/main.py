"""Runs a verb, renders errors, chooses exit statuses; knows how nothing is done."""

from __future__ import annotations

import os
import sys

from sandbox.cli.output import print_json, use_colour
from sandbox.cli.parser import parse
from sandbox.errors import EXIT_FAILURE, SandboxError, SpecError

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    if "_ARGCOMPLETE" in os.environ and "COMP_LINE" in os.environ:  # a shell asks for completions
        from sandbox.cli.parser import whole
        from sandbox.completion.asking import complete

        complete(whole)
    _open_standard_descriptors()
    arguments = parse(sys.argv[1:] if argv is None else argv)
    debug: bool = arguments.debug
    try:
        status = arguments.run(arguments)
        assert isinstance(status, int)
        sys.stdout.flush()
        return status
    except SandboxError as error:
        if debug:
            _print_traceback()
        _report(error, as_json=getattr(arguments, "json", False))
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of our output has gone, as head(1) does; what is still buffered has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 141
    except Exception as error:  # noqa: BLE001 - whatever it is, one line and our own exit status
        if debug:
            _print_traceback()
        print(
            f"sandbox: internal error: {error!r}\n      hint: run again with --debug and report it",
            file=sys.stderr,
        )
        return EXIT_FAILURE


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


def _print_traceback() -> None:
    import traceback

    traceback.print_exc()
