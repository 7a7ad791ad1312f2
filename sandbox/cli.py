"""The command ``sandbox``: one function per verb. Renders errors, chooses exit statuses, and knows how
nothing is done.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from sandbox import __version__
from sandbox.errors import EXIT_FAILURE, SandboxError, SpecError


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="sandbox",
        description="Run programs in environments that one TOML file describes, without root.",
        epilog="exit status: the program's own, 128+N if signal N ended it, 124 after limits.wall_time, "
        "125 for a failure of sandbox, 126 and 127 for a command that cannot be executed or is not found",
    )
    parser.add_argument("--version", action="version", version=f"sandbox {__version__}")
    verbs = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=_Parser)
    up = verbs.add_parser(
        "up",
        help="start the sandbox of an environment file and wait for it",
        description="Start the sandbox that FILE describes, in the foreground, and wait for its program.",
        usage="sandbox up [--debug] FILE [-- COMMAND [ARGUMENT ...]]",
    )
    up.add_argument("file", metavar="FILE", help="the environment file (TOML)")
    up.add_argument("command", nargs="*", metavar="COMMAND", help="run this instead of the file's command")
    up.add_argument("--debug", action="store_true", help="show each operation, and tracebacks of failures")
    up.set_defaults(run=_up)
    return parser


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Refuse the command line with the exit status of all our failures; argparse's own 2 could be a
        program's.
        """
        self.print_usage(sys.stderr)
        print(f"sandbox: {message}", file=sys.stderr)
        sys.exit(EXIT_FAILURE)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    _open_standard_descriptors()
    arguments = _parser().parse_args(argv)
    debug = getattr(arguments, "debug", False)
    try:
        status = arguments.run(arguments)
        assert isinstance(status, int)
        return status
    except SandboxError as error:
        if debug:
            _print_traceback()
        text = error.render(color=_colour())
        # Diagnostics of a file begin with its name, as compilers have it; everything else with ours.
        print(text if isinstance(error, SpecError) else f"sandbox: {text}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except Exception as error:  # noqa: BLE001 - whatever it is, one line and our own exit status
        if debug:
            _print_traceback()
        print(
            f"sandbox: internal error: {error!r}\n      hint: run again with --debug and report it",
            file=sys.stderr,
        )
        return EXIT_FAILURE


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


def _colour() -> bool:
    return sys.stderr.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"


def _up(arguments: argparse.Namespace) -> int:
    from sandbox.spec.load import load

    spec = load(arguments.file)
    # From here on everything is imported beside the server's own imports, which take longest.
    from sandbox.runtime.server import Server

    server = Server()
    try:
        from sandbox import host, state
        from sandbox.plan import host_paths, make_plan
        from sandbox.runtime.supervisor import Supervisor
        from sandbox.sources import inspect_all

        facts = host.gather()
        directory = state.StateDirectory(state.default_path(os.environ, facts.uid))
        directory.sweep()
        plan = make_plan(
            spec,
            facts,
            inspect_all(host_paths(spec)),
            environ=os.environ,
            state_directory=directory.path,
            command=tuple(arguments.command) or None,
        )
    except BaseException:
        server.abandon()
        raise
    for warning in plan.warnings:
        _warn(warning)

    def trace(text: str) -> None:
        if arguments.debug:
            print(f"+ {text}", file=sys.stderr, flush=True)

    return Supervisor(plan, facts, directory, server, trace=trace, warn=_warn).run()


def _warn(text: str) -> None:
    print(f"sandbox: warning: {text}", file=sys.stderr)
