"""`sandbox prune`: remove unreferenced archives, images and data, and leftovers of ended sandboxes."""

from __future__ import annotations

import argparse
import os
import sys

from sandbox.cli.options import add_json
from sandbox.cli.output import print_json, warn
from sandbox.errors import SandboxError, printable

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from sandbox.lifecycle.kept_items import KeptItem
    from sandbox.state.location import Locations

DESCRIPTION = """\
Remove sandboxes in the background that have ended, the leftovers of others and of interrupted commands of this machine, what no image uses any more, and
unreferenced unpacked archives. An archive is unreferenced if no running sandbox and no persistent layer uses it, and
all environment files that were started with it are gone. An archive that has changed after unpacking is unreferenced,
too, and so is the image of a layout or an archive that has changed or is gone. Other images have names, and are
removed by `sandbox rm` or `sandbox image prune --all`.

With --data, also remove persistent layers, kept ephemeral layers, and named volumes whose environment
files are all gone. A layer or volume without a recorded file is not removed; use `sandbox rm`. --data asks for
confirmation on a terminal, and needs --yes elsewhere."""
EPILOG = """\
Items in use are not removed. `sandbox df` prints how much space would be freed, --dry-run what would be removed.

exit status: 0, 1 if the answer was no or something could not be removed, 125 for a failure of sandbox"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument(
        "--data",
        action="store_true",
        help="also remove unreferenced persistent layers and named volumes, which cannot be restored",
    )
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument(
        "--dry-run", action="store_true", help="print the operations, in order, and do nothing"
    )
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Remove unreferenced items and leftovers; return the exit status."""
    from sandbox.cli.state_path import existing_locations
    from sandbox.lifecycle import inventory
    from sandbox.lifecycle.kept_items import REPLACEABLE, Inventory, space, to_prune, total
    from sandbox.sizes import human_size

    where = existing_locations()
    found = Inventory() if where is None else inventory.take(where)
    items = to_prune(found.items, data=arguments.data)
    size = space(items) + total(one.bytes for one in found.leftovers)
    if arguments.dry_run:
        _print(arguments, [item.title for item in items], [one.path for one in found.leftovers], size)
        return 0
    data = [item for item in items if item.kind not in REPLACEABLE]
    if where is not None and data and not arguments.yes:
        if not _confirmed(data):
            return 1
        # A start may have used an item while the question waited for an answer.
        again = to_prune(inventory.take(where, sizes=False).items, data=True)
        items = [item for item in items if item.path in {one.path for one in again}]
    removed, left = ([], []) if where is None else _remove(where, items)
    size = space(removed) + total(one.bytes for one in found.leftovers)
    _print(arguments, [item.title for item in removed], left, size)
    if not arguments.json:
        print(f"{human_size(size)} of disk space", file=sys.stderr)
    return 0 if len(removed) == len(items) else 1


def _confirmed(data: Sequence[KeptItem]) -> bool:
    """Prompt on the terminal for the removal of *data*; return whether the user confirms.

    Raises:
        SandboxError: standard input or standard error is not a terminal.
    """
    from sandbox.lifecycle.kept_items import in_words, total
    from sandbox.sizes import human_size

    what = f"{in_words(data)} ({human_size(total(item.bytes for item in data))})"
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise SandboxError(
            f"--data would remove {what}, and there is no terminal for the confirmation",
            hint="add --yes; `sandbox prune --data --dry-run` lists the removals",
        )
    for item in data:
        print(f"  {printable(item.title)}", file=sys.stderr)
    print(f"Remove {what} for good? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _remove(where: Locations, items: Sequence[KeptItem]) -> tuple[list[KeptItem], list[str]]:
    """Remove *items* and leftovers; return the removed ones. Print a warning for each that cannot be removed."""
    from sandbox.lifecycle import kept_removal
    from sandbox.runtime.bridge_sweep import sweep_bridge
    from sandbox.state import run_directory
    from sandbox.state.directory import StateDirectory
    from sandbox.state.runs import list_runs

    run_path, _ = run_directory.prepare(run_directory.default_path(os.environ, os.geteuid()), warn)
    directory = StateDirectory(where.state, run_path, where.images)
    try:
        left = directory.sweep()
        sweep_bridge(directory.run_path, warn)
    finally:
        directory.close()
    for run in list_runs(where.state):
        if run.state == "ended" and run.record is not None and run.record.background:
            try:
                kept_removal.remove_run(where, run)
            except SandboxError as error:
                warn(error.message)
            else:
                left.append(run.id)
    removed = []
    for item in items:
        try:
            name = item.name if item.kind == "image" else os.path.basename(item.path)
            kept_removal.remove_kept(where, item.kind, name)
        except SandboxError as error:
            warn(error.message)
        else:
            removed.append(item)
    left += kept_removal.remove_interrupted(where, warn)
    return removed, left


def _print(arguments: argparse.Namespace, titles: list[str], left: list[str], size: int) -> None:
    if arguments.json:
        print_json({"removed": titles, "leftovers": left, "bytes": size, "dry_run": arguments.dry_run})
        return
    for line in (*titles, *left):
        print(printable(line))
