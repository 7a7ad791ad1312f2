"""`sandbox ps`: list running sandboxes."""

from __future__ import annotations

import argparse
import time

from sandbox.cli.options import add_json
from sandbox.cli.output import print_json, print_table

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.state.runs import Run

DESCRIPTION = """\
List the running sandboxes of this account: the id of each run, the name of the sandbox, its state and since when it has
been in it, the forwarded ports, and the program.

A sandbox is starting, running, stopping (after SIGTERM, until its program ends) or exited. With --all, also list those in the
background that have ended, until `sandbox rm` removes them, those whose supervisor was killed, and those of other machines that
share the state directory."""
EPILOG = """examples:
  sandbox ps
  sandbox ps --json

exit status: 0, 125 for a failure"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument(
        "--all",
        "-a",
        action="store_true",
        help="also list those that have ended, and those of other machines",
    )
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the list; return the exit status."""
    from sandbox.cli.state_path import existing_locations
    from sandbox.errors import printable
    from sandbox.state.node import this_place
    from sandbox.state.runs import list_runs

    where = existing_locations()
    here = this_place()
    found = [] if where is None else list_runs(where.state, here)
    shown = [run for run in found if run.record is not None and (arguments.all or run.state == "running")]
    shown.sort(key=lambda run: (run.record and run.record.began) or 0.0)
    now = time.time()
    if arguments.json:
        print_json([as_dict(run, here.boot) for run in shown])
        return 0
    rows = []
    for run in shown:
        record = run.record
        assert record is not None
        state = state_of(run, here.boot)
        since = record.since if run.state == "running" or record.phase == "exited" else None
        rows.append(
            [
                run.id,
                record.name,
                state if since is None else f"{state} ({_duration(now - since)})",
                " ".join(record.ports),
                " ".join(record.command),
            ]
        )
    print_table(
        [[printable(cell) for cell in row] for row in rows],
        header=("ID", "NAME", "STATE", "PORTS", "COMMAND") if rows else (),
    )
    return 0


def state_of(run: Run, boot: str) -> str:
    """Return the state of *run* for people; *boot* is the id of the present boot of this machine."""
    record = run.record
    assert record is not None
    if run.state == "running":
        return "stopping" if record.phase == "exited" else record.phase  # its supervisor removes the rest
    if record.phase == "exited":
        reason = f": {record.reason}" if record.reason else ""
        return "exited" + ("" if record.status is None else f" {record.status}") + reason
    if run.state == "ended":
        restarted = record.place is not None and record.place.boot != boot
        return "exited, machine restarted" if restarted else "exited, supervisor was killed"
    host = "" if record.place is None else record.place.node.host
    return f"on {host or 'another machine'}" if run.state == "elsewhere" else "unknown"


def as_dict(run: Run, boot: str) -> dict[str, object]:
    """Return *run* for JSON."""
    record = run.record
    assert record is not None
    return {
        "id": run.id,
        "name": record.name,
        "state": state_of(run, boot),
        "began": record.began,
        "since": record.since,
        "status": record.status,
        "background": record.background,
        "file": record.file,
        "command": list(record.command),
        "ports": list(record.ports),
        "supervisor": {"pid": record.pid},
        "init": {"pid": record.init},
    }


def _duration(seconds: float) -> str:
    """Return *seconds* in the largest unit that fits: "3 minutes"."""
    for name, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            count = int(seconds // length)
            return f"{count} {name}{'s' if count > 1 else ''}"
    count = max(0, int(seconds))
    return f"{count} second{'s' if count != 1 else ''}"
