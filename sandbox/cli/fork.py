"""`sandbox fork`: make another sandbox from the present state of one."""

from __future__ import annotations

import argparse
import shlex
import sys

from sandbox.cli.options import add_json, check_name
from sandbox.cli.output import print_json
from sandbox.errors import printable

DESCRIPTION = """\
Create the sandbox NEW with the present state of the writable layer of another one. Both go on independently.

The layer is frozen and shared, not copied, as for `sandbox snapshot`; the sandbox may be running. NEW uses the same
environment file, with sandbox.name NEW and a persistent writable layer. `fork` prints the command that starts it.
Named volumes of the file are shared by both.

Layers that NEW uses stay until NEW is removed: `sandbox rm layer:NEW`.

NAME is the name of a sandbox or the id of a run; FILE selects the newest run of that file."""
EPILOG = """examples:
  sandbox fork toolbox experiment
  sandbox up toolbox.toml --set sandbox.name=experiment

exit status: 0, 125 for a failure"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("sandbox", metavar="FILE|NAME", help="the sandbox whose state is used")
    parser.add_argument("new", metavar="NEW", help="the name of the new sandbox")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Create the sandbox; return the exit status."""
    from sandbox.changes.snapshots import fork

    new: str = arguments.new
    check_name(new, "sandbox")
    layer = fork(arguments.sandbox, new)
    words = ["sandbox", "up", layer.file or "FILE", "--set", f"sandbox.name={new}"]
    if layer.kind == "kept":
        words += ["--set", "root.writable=persistent"]
    command = shlex.join(words)
    if arguments.json:
        print_json({"sandbox": layer.id, "fork": new, "command": words})
    else:
        print(printable(f"made the sandbox {new} from {layer.id}; start it: {command}"), file=sys.stderr)
    return 0
