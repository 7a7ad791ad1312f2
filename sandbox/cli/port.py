"""`sandbox port`: print the ports of the host that are forwarded to a running sandbox."""

from __future__ import annotations

import argparse
import sys

from sandbox.cli.options import add_json
from sandbox.cli.output import print_json
from sandbox.errors import StateError

DESCRIPTION = """\
Print the ports of the host that are forwarded to a running sandbox, one per line: the sandbox's port, and the address
and port of the host. Where the file has port 0 of the host, the assigned port is printed.

With PORT, print only the address and port of the host that lead there, as ADDRESS:PORT.

NAME is the name of a sandbox or the id of a run; FILE selects the newest run of that file."""
EPILOG = """examples:
  sandbox port web
  curl http://$(sandbox port web 80)/

exit status: 0, 125 for a failure"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("sandbox", metavar="FILE|NAME", help="the sandbox")
    parser.add_argument(
        "port", metavar="PORT[/PROTOCOL]", nargs="?", help="a port of the sandbox; tcp without a protocol"
    )
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the ports; return the exit status."""
    from sandbox.cli.state_path import existing_locations
    from sandbox.spec.values.addresses import bracketed, single_ports
    from sandbox.state.selection import running

    where = existing_locations()
    if where is None:
        raise StateError(f"no sandbox {arguments.sandbox} is running", hint="`sandbox up` starts one")
    record = running(where.state, arguments.sandbox).record
    ports = single_ports(() if record is None else record.ports)
    if arguments.port is not None:
        number, _, protocol = arguments.port.partition("/")
        wanted = number, protocol or "tcp"
        ports = tuple(port for port in ports if (str(port.sandbox), port.protocol) == wanted)
        if not ports:
            raise StateError(
                f"no port of this machine leads to {'/'.join(wanted)} of {arguments.sandbox}",
                hint=f"add one to network.ports; `sandbox port {arguments.sandbox}` prints those that there are",
            )
    if arguments.json:
        rows = [
            {"address": port.address, "host": port.host, "sandbox": port.sandbox, "protocol": port.protocol}
            for port in ports
        ]
        print_json({"ports": rows})
        return 0
    for port in ports:
        place = f"{bracketed(port.address)}:{port.host}"
        line = place if arguments.port is not None else f"{port.sandbox}/{port.protocol} -> {place}"
        sys.stdout.write(f"{line}\n")
    return 0
