"""`sandbox adopt`: give an existing persistent layer to an environment file."""

from __future__ import annotations

import argparse
import os
import sys

from sandbox.cli.options import add_json, add_overrides, load_spec
from sandbox.cli.output import print_json
from sandbox.errors import printable

DESCRIPTION = """\
Give the persistent layer NAME to the environment file FILE: the next `sandbox up FILE` uses it.

A persistent layer belongs to the environment file for which it was created. If that file is renamed or moved, or if
another file is to use the layer, `up` uses it only after it is adopted. If FILE does not set sandbox.name, the
layer is renamed to the name that is derived from the path of FILE. The content of the layer does not change.

Only adopt a layer for a file that you trust: its program can read and change the content of the layer."""
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
    from sandbox.state.location import locate

    spec = load_spec(arguments)
    file = printable(arguments.file)
    if spec.root.writable != "persistent":
        raise StateError(
            f"{file} has no persistent layer: root.writable is {spec.root.writable}",
            hint='set root.writable = "persistent" in it first',
        )
    if spec.file not in spec.read_from:
        raise StateError("a layer can be adopted for a file, not for standard input", hint="name the file")
    where = locate(os.environ, os.geteuid())
    directory = StateDirectory(where.state, images=where.images)
    try:
        done = adopt(directory, arguments.layer, spec.sandbox.name or default_name(spec.file), spec.file)
    finally:
        directory.close()
    if arguments.json:
        print_json({"name": done.name, "file": done.file, "was": {"name": done.was, "file": done.old_file}})
        return 0
    called = "" if done.was == done.name else f", and was renamed to {done.name}"
    print(printable(f"persistent layer {done.was} belongs to {done.file}{called}"), file=sys.stderr)
    return 0
