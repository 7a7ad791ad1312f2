"""`sandbox rm`: remove persistent layers, named volumes, unpacked archives, images and leftovers of sandboxes by name."""

from __future__ import annotations

import argparse
import sys

from sandbox.cli.options import add_json
from sandbox.cli.output import print_json
from sandbox.errors import SandboxError, StateError, printable

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.state.location import Locations

DESCRIPTION = """\
Remove a persistent layer (layer:NAME), a layer kept by `up --keep-changes` (changes:ID), a named volume
(volume:NAME), an unpacked archive (archive:NAME, or a prefix of its name), an image (image:NAME), or what an ended
sandbox has left or kept (its id, or a prefix of it): the record, the log and the changes of one in the background. With
--force, a running sandbox is stopped first.

An item that is in use is not removed, even if a sandbox of another machine that shares the state directory uses it.
Files are removed under the ids that they belong to. There is no confirmation, and a layer or volume cannot be
restored. An archive is unpacked again when it is needed."""
EPILOG = """examples:
  sandbox rm layer:toolbox
  sandbox rm volume:cache volume:data

exit status: 0, 125 if an item could not be removed; the other items are removed nevertheless"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument(
        "things",
        metavar="THING",
        nargs="+",
        help="layer:NAME, changes:ID, volume:NAME, archive:NAME, image:NAME or the id of a run",
    )
    parser.add_argument("--force", "-f", action="store_true", help="stop running sandboxes first")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Remove the things; return the exit status.

    Raises:
        SandboxError: the first failure, after the others were tried.
    """
    from sandbox.cli.state_path import existing_locations

    where = existing_locations()
    if where is None:
        raise StateError("there is nothing to remove: the state directory does not exist")
    removed: list[str] = []
    pending: list[str] = arguments.things
    while True:
        failures: list[tuple[str, SandboxError]] = []
        for thing in pending:
            try:
                _remove(where, thing, force=arguments.force)
            except SandboxError as error:
                failures.append((thing, error))
                continue
            removed.append(thing)
            if not arguments.json:
                print(f"removed {printable(thing)}", file=sys.stderr)
        if len(failures) in (0, len(pending)):
            break
        pending = [thing for thing, _ in failures]  # a layer can be removed after the forks that use it
    if failures:
        for _, failure in failures[1:]:
            print(f"sandbox: {failure.render()}", file=sys.stderr)
        raise failures[0][1]
    if arguments.json:
        print_json({"removed": removed})
    return 0


def _remove(where: Locations, thing: str, *, force: bool) -> None:
    from sandbox.lifecycle import kept_removal, running

    found = kept_removal.find(where, thing)
    if isinstance(found, tuple):
        kept_removal.remove_kept(where, *found)
    elif force:
        running.remove(where, found)
    else:
        kept_removal.remove_run(where, found)
