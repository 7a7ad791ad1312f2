"""`sandbox kill`: send a signal to the programs of sandboxes."""

from __future__ import annotations

import argparse

from sandbox.cli.options import add_json
from sandbox.cli.output import print_json
from sandbox.cli.stop import add_sandboxes, chosen

DESCRIPTION = """\
Send a signal to the programs of running sandboxes: KILL, or one that the supervisor passes on (HUP, INT, QUIT, TERM,
USR1, USR2). KILL ends every process of a sandbox at once. TERM is sent as process.stop_signal, and the sandbox is killed if
it takes longer than process.stop_timeout.

NAME is the name of a sandbox, or the beginning of the id of a run; FILE selects the runs of that file."""
EPILOG = """examples:
  sandbox kill web
  sandbox kill --signal HUP web

exit status: 0, 125 for a failure"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    add_sandboxes(parser)
    parser.add_argument(
        "--signal", "-s", metavar="SIGNAL", default="KILL", help="a name or a number; default: KILL"
    )
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Send the signal; return the exit status."""
    from sandbox.lifecycle import running

    number = _number(arguments.signal)
    runs = chosen(arguments)
    for one in runs:
        running.send(one, number)
    if arguments.json:
        print_json({"sent": [one.id for one in runs]})
    return 0


def _number(text: str) -> int:
    """Return the number of the signal *text*: "HUP", "SIGHUP" or "1".

    Raises:
        SandboxError: there is no such signal.
    """
    import signal

    from sandbox.errors import SandboxError

    name = text.upper()
    try:
        if name.isdecimal():
            return signal.Signals(int(name))
        return signal.Signals[name if name.startswith("SIG") else f"SIG{name}"]
    except (KeyError, ValueError):
        raise SandboxError(f"{text} is no signal", hint="write a name such as HUP, or a number") from None
