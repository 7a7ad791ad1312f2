"""`sandbox inspect`: print the state, the processes and the places of a sandbox."""

from __future__ import annotations

import argparse
import os

from sandbox.cli.options import add_json
from sandbox.cli.output import print_json

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.state.runs import Run

DESCRIPTION = """\
Print what is known of a sandbox that runs, or has run in the background: its state, its program, the pids of its supervisor, of
its process 1 and of its file system's server, its ports, its addresses in networks, its namespaces and cgroups, and where its
record and its log are. `sandbox explain FILE` says what its program can reach, and why.

NAME is the name of a sandbox, or the beginning of the id of a run; FILE selects the newest run of that file."""
EPILOG = "exit status: 0, 125 for a failure"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("sandbox", metavar="FILE|NAME", help="the sandbox")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the facts; return the exit status."""
    from sandbox.cli.state_path import existing_locations
    from sandbox.errors import StateError, printable
    from sandbox.lifecycle.running import newest

    where = existing_locations()
    if where is None:
        raise StateError(f"there is no sandbox {arguments.sandbox}", hint="`sandbox up` starts one")
    found = _facts(newest(where.state, arguments.sandbox))
    if arguments.json:
        print_json(found)
        return 0
    for key, value in found.items():
        print(printable(f"{key}: {_shown(value)}"))
    return 0


def _facts(run: Run) -> dict[str, object]:
    from sandbox.cli.ps import as_dict
    from sandbox.state.log_files import NAME
    from sandbox.state.node import this_place
    from sandbox.state.shared_networks import found_networks

    record = run.record
    assert record is not None
    networks = {
        name: member.address
        for name, network in found_networks(os.environ, os.geteuid()).items()
        for member in network.running()
        if member.run == run.id
    }
    return {
        **as_dict(run, this_place().boot),
        "server": {"pid": record.server},
        "networks": networks,
        "namespaces": {kind: f"/proc/{record.pid}/fd/{fd}" for kind, fd in record.namespaces}
        if run.state == "running"
        else {},
        "cgroups": list(record.cgroups),
        "images": list(record.images),
        "volumes": list(record.volumes),
        "record": run.path,
        "log": os.path.join(run.path, NAME) if record.background else None,
    }


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {one}" for key, one in value.items() if one is not None) or "-"
    if isinstance(value, list):
        return " ".join(map(str, value)) or "-"
    return "-" if value is None else str(value)
