"""`sandbox network`: list and inspect the networks that running sandboxes share."""

from __future__ import annotations

import argparse
import os

from sandbox.cli.options import add_common, add_json
from sandbox.cli.output import print_json, print_table
from sandbox.errors import StateError, printable

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox.state.shared_networks import NetworkRecord

    # Its help, and the functions that declare its arguments and execute it.
    _Action = tuple[str, Callable[[argparse.ArgumentParser], None], Callable[[argparse.Namespace], int]]

DESCRIPTION = """\
List and inspect the networks that running sandboxes share.

An environment file defines a network in [networks.NAME], and joins it by network.networks. A network exists as long as one of
its members runs."""
EPILOG = """\
examples:
  sandbox network ls
  sandbox network inspect backend

exit status: 0, 125 for a failure"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    actions = parser.add_subparsers(
        title="actions", metavar="ACTION", required=True, parser_class=type(parser), help="one of:"
    )
    for name, (text, declare, function) in _ACTIONS.items():
        action = actions.add_parser(name, help=text, description=text[:1].upper() + text[1:] + ".")
        declare(action)
        add_json(action)
        add_common(action, function)


def run(_arguments: argparse.Namespace) -> int:
    """Do nothing: each action has a function of its own."""
    raise AssertionError("argparse requires an action")


def _no_arguments(_parser: argparse.ArgumentParser) -> None: ...


def _networks() -> dict[str, NetworkRecord]:
    from sandbox.state.shared_networks import found_networks

    return found_networks(os.environ, os.geteuid())


def _as_dict(name: str, record: NetworkRecord) -> dict[str, object]:
    return {
        "name": name,
        "subnet": record.subnet,
        "internal": record.internal,
        "members": [
            {
                "name": one.names[0],
                "aliases": list(one.names[1:]),
                "address": one.address,
                "run": one.run,
                "pid": one.pid,
                "file": one.file,
            }
            for one in record.running()
        ],
    }


def _ls(arguments: argparse.Namespace) -> int:
    found = _networks()
    if arguments.json:
        print_json([_as_dict(name, record) for name, record in found.items()])
        return 0
    rows = [
        [
            name,
            record.subnet,
            "internal" if record.internal else "open",
            printable(" ".join(one.names[0] for one in record.running())),
        ]
        for name, record in found.items()
    ]
    print_table(rows, header=("NAME", "SUBNET", "REACH", "MEMBERS") if rows else ())
    return 0


def _inspect_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("network", metavar="NETWORK", help="the name of a network")


def _inspect(arguments: argparse.Namespace) -> int:
    record = _networks().get(arguments.network)
    if record is None:
        raise StateError(
            f"no running sandbox is in a network {arguments.network}",
            hint="`sandbox network ls` lists the networks",
        )
    if arguments.json:
        print_json(_as_dict(arguments.network, record))
        return 0
    reach = "members only" if record.internal else "members and other machines"
    print(f"{arguments.network}: {record.subnet}, reaches {reach}")
    rows = [
        [one.address, printable(" ".join(one.names)), str(one.pid), printable(one.file)]
        for one in record.running()
    ]
    print_table(rows, header=("ADDRESS", "NAMES", "PID", "FILE"))
    return 0


def _prune(arguments: argparse.Namespace) -> int:
    from sandbox.state.shared_networks import directories_with_records, remove_ended

    removed = [
        name for path in directories_with_records(os.environ, os.geteuid()) for name in remove_ended(path)
    ]
    if arguments.json:
        print_json({"removed": removed})
        return 0
    for name in removed:
        print(name)
    return 0


_ACTIONS: dict[str, _Action] = {
    "ls": ("list the networks that have running members", _no_arguments, _ls),
    "inspect": ("print the addresses and names of the members", _inspect_arguments, _inspect),
    "prune": ("remove the records of members whose launchers were killed", _no_arguments, _prune),
}
