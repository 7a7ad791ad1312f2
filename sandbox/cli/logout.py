"""`sandbox logout`: remove the stored user and password for a registry, or for all."""

from __future__ import annotations

import argparse
import os
import sys

from sandbox.cli.output import warn
from sandbox.cli.registry_options import CREDENTIALS, add_authfile
from sandbox.errors import SandboxError, printable

DESCRIPTION = f"""\
Remove the user and password that `sandbox login` has stored for a registry, or for a namespace of it. --all removes those
for all registries.

{CREDENTIALS} Files of other programs, such as docker's, are not changed; the command warns if they have a password for
the registry, which `sandbox pull` and `sandbox push` would use."""
EPILOG = """examples:
  sandbox logout registry.example.com
  sandbox logout --all

exit status: 0, 125 if there is nothing to remove, or it cannot be removed"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument(
        "registry", metavar="REGISTRY", nargs="?", help="HOST[:PORT] or HOST[:PORT]/NAMESPACE"
    )
    parser.add_argument("--all", action="store_true", help="remove the passwords for all registries")
    add_authfile(parser)


def run(arguments: argparse.Namespace) -> int:
    """Remove the password; return the exit status.

    Raises:
        SandboxError: there is none.
    """
    from sandbox.images.registry.login import log_out

    if (arguments.registry is None) != arguments.all:
        raise SandboxError("name the registry, or give --all", hint="sandbox logout HOST")
    if arguments.all:
        return _log_out_of_all(arguments)
    key, removal = log_out(arguments.registry, os.environ, authfile=arguments.authfile)
    if removal.removed is None:
        hint = (
            "`sandbox login` with the same --authfile stores one"
            if removal.left is None
            else f"{removal.left} has one: log out with the program that has written it, or use --authfile"
        )
        raise SandboxError(f"no password for {key} is stored", hint=hint)
    print(printable(f"removed the password for {key} from {removal.removed}"), file=sys.stderr)
    if removal.left is not None:
        warn(f"{removal.left} still has a password for {key}")
    return 0


def _log_out_of_all(arguments: argparse.Namespace) -> int:
    from sandbox.images.registry.login import log_out_of_all

    removal = log_out_of_all(os.environ, authfile=arguments.authfile)
    for key, place in removal.removed.items():
        print(printable(f"removed the password for {key} from {place}"), file=sys.stderr)
    if not removal.removed:
        hint = "`sandbox login` with the same --authfile stores one"
        if removal.left:
            hint = (
                f"{removal.left[0]} has some: log out with the program that has written it, or use --authfile"
            )
        raise SandboxError("no password is stored", hint=hint)
    for place in removal.left:
        warn(f"{place} still has passwords")
    return 0
