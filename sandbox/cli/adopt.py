"""`sandbox adopt`: give an existing persistent layer to an environment file."""

from __future__ import annotations

import argparse
import os
import sys

from sandbox.cli.options import add_json, add_overrides, load_spec
from sandbox.cli.output import print_json
from sandbox.errors import printable

DESCRIPTION = """Give the persistent layer NAME to the environment file FILE: the next `sandbox up FILE` uses it.

A persistent layer belongs to the file that it was kept from. If that file is renamed or moved, or another one shall go on with
the layer, `up` does not use it until it is adopted. A file without sandbox.name gets the layer under the name that is made
of the file's path. Nothing in the layer changes.

Only adopt a layer for a file that you trust: its program reads and changes what was kept."""
EPILOG = """examples:
  sandbox adopt debian.toml debian-1f0c2d3e
  sandbox adopt ~/new/toolbox.toml toolbox"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("file", metavar="FILE", help="the environment file (TOML) that gets the layer")
    parser.add_argument("layer", metavar="NAME", help="the persistent layer, as `up` or `explain` names it")
    add_overrides(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Adopt the layer; return the exit status."""
    from sandbox.errors import StateError
    from sandbox.lifecycle.adoption import adopt
    from sandbox.plan import default_name
    from sandbox.state.directory import StateDirectory
    from sandbox.state.location import default_path

    spec = load_spec(arguments)
    file = printable(arguments.file)
    if spec.root.writable != "persistent":
        raise StateError(
            f"{file} has no persistent layer: root.writable is {spec.root.writable}",
            hint='set root.writable = "persistent" in it first',
        )
    if spec.file not in spec.read_from:
        raise StateError("a layer is given to a file, not to standard input", hint="name the file")
    directory = StateDirectory(default_path(os.environ, os.geteuid()))
    try:
        done = adopt(directory, arguments.layer, spec.sandbox.name or default_name(spec.file), spec.file)
    finally:
        directory.close()
    if arguments.json:
        print_json({"name": done.name, "file": done.file, "was": {"name": done.was, "file": done.old_file}})
        return 0
    called = "" if done.was == done.name else f", and is called {done.name} now"
    print(printable(f"persistent layer {done.was} belongs to {done.file}{called}"), file=sys.stderr)
    return 0
