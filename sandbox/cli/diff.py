"""`sandbox diff`: print what a sandbox added, changed, deleted and moved."""

from __future__ import annotations

import argparse
import sys

from sandbox.cli.options import add_json
from sandbox.cli.output import use_colour
from sandbox.errors import SandboxError, printable

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import TextIO

    from sandbox.changes.rows import Change

DESCRIPTION = """Print what the programs of a sandbox have changed in its root file system: A (added), C (changed), D (deleted), R (moved). The
sandbox may be running, or have ended and kept its writable layer. Nothing is changed.

A terminal gets a summary: a line for each directory, with the number of changes in it and below, and the size of the added files. It
shows as many directories as fit on the screen. If FILE is given, the first line names the sandbox. A file or a pipe gets a line for each change. A directory that was deleted is one
line with the number of its entries. A directory that was moved is one line; a change in it has a line of its own."""
EPILOG = """examples:
  sandbox diff toolbox.toml
  sandbox diff toolbox /etc /usr/local
  sandbox diff toolbox --text /etc/profile"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument(
        "sandbox",
        metavar="FILE|NAME",
        help="an environment file (it contains / or ends in .toml), or the name of a sandbox",
    )
    parser.add_argument(
        "paths",
        metavar="PATH",
        nargs="*",
        help="show only the changes at and below this path of the sandbox",
    )
    parser.add_argument("--stat", action="store_true", help="print the summary of directories")
    parser.add_argument("--text", action="store_true", help="print or add unified diffs of text files")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the changes; return the exit status."""
    from sandbox.changes.reader import changes_of, state_directory
    from sandbox.changes.writable_layers import find
    from sandbox.state.selection import is_file

    if arguments.json and arguments.stat:
        raise SandboxError("--json has no summary", hint="leave out --stat or --json")
    paths = [checked(path) for path in arguments.paths]
    layer = find(state_directory(), arguments.sandbox)
    changes = changes_of(layer, paths, text=arguments.text)
    if arguments.json:
        printed = _json(changes)
    else:
        # Several sandboxes can have been started from one file.
        state = " (running)" if layer.in_use else ""
        title = f"sandbox {printable(layer.id)}{state}" if is_file(arguments.sandbox) else None
        printed = _text(arguments, changes, title)
    for line in printed:
        print(line)
    return 0


def print_changes(argument: str, stream: TextIO) -> None:
    """Print the changes of the layer that *argument* selects to *stream*, one per line, for `up --diff`.

    Raises:
        SandboxError: they cannot be read.
    """
    from sandbox.changes import render
    from sandbox.changes.reader import read_changes

    for line in render.lines(read_changes(argument), color=use_colour(stream)):
        print(line, file=stream)


def checked(path: str) -> str:
    """Return *path*, a path of the sandbox, without a slash at the end.

    Raises:
        SandboxError: no row could have it.
    """
    if not path.startswith("/"):
        raise SandboxError(
            f"{printable(path)}: a path of the sandbox begins with a slash", hint=f"write /{printable(path)}"
        )
    parts = [part for part in path.split("/") if part]
    if "." in parts or ".." in parts:
        raise SandboxError(f'{printable(path)}: "." and ".." are not resolved', hint="write the path without")
    return "/" + "/".join(parts)


def _json(changes: Sequence[Change]) -> Iterator[str]:
    """Yield the lines of the JSON value: one for each change, because there may be many."""
    import json

    from sandbox.changes.rows import as_value

    yield '{"changes": ['
    last = len(changes) - 1
    for index, change in enumerate(changes):
        yield f"  {json.dumps(as_value(change))}{',' if index < last else ''}"
    yield "]}"


def _text(arguments: argparse.Namespace, changes: Sequence[Change], title: str | None) -> Iterator[str]:
    from sandbox.changes import render

    color = use_colour(sys.stdout)
    terminal = sys.stdout.isatty()
    if arguments.stat or (terminal and not arguments.text):
        height = width = None
        if terminal:
            from shutil import get_terminal_size

            width, height = get_terminal_size()
            height -= 1  # the prompt needs the last line
            if title is not None:
                height -= 1
                yield title
        yield from render.tree(changes, height=height, width=width, color=color)
        if arguments.text and changes:
            yield ""
    if arguments.text:
        yield from render.text(changes, color=color)
    elif not arguments.stat and not terminal:
        yield from render.lines(changes, color=color)
