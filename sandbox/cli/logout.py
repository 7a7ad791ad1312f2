"""`sandbox logout`: remove the stored user and password for a registry."""

from __future__ import annotations

import argparse
import os
import sys

from sandbox.cli.output import warn
from sandbox.cli.registry_options import CREDENTIALS, add_authfile
from sandbox.errors import SandboxError, printable

DESCRIPTION = f"""\
Remove the user and password that `sandbox login` has stored for a registry, or for a namespace of it.

{CREDENTIALS} Files of other programs, such as docker's, are not changed; the command warns if they have a password for
the registry, which `sandbox pull` and `sandbox push` would use."""
EPILOG = """examples:
  sandbox logout registry.example.com

exit status: 0, 125 if there is nothing to remove, or it cannot be removed"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("registry", metavar="REGISTRY", help="HOST[:PORT] or HOST[:PORT]/NAMESPACE")
    add_authfile(parser)


def run(arguments: argparse.Namespace) -> int:
    """Remove the password; return the exit status.

    Raises:
        SandboxError: there is none.
    """
    from sandbox.images.registry.login import log_out

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
