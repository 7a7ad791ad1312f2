"""`sandbox login`: verify a user and password with a registry, and store them."""

from __future__ import annotations

import argparse
import os
import sys

from sandbox.cli.registry_options import CREDENTIALS, PROXIES, add_authfile, add_tls, tls_settings
from sandbox.errors import SandboxError, printable

DESCRIPTION = f"""\
Verify a user and password with a registry, and store them for this user. With HOST/NAMESPACE they are used for the
repositories of that namespace only.

Without --username and --password-stdin, the command prompts on the terminal. There is no option for the password, because
other users can see the arguments of a command.

{CREDENTIALS} If the file names a credential helper for the registry, the helper stores the password. Otherwise it is in
the file, which only its owner can read.

{PROXIES}"""
EPILOG = """examples:
  sandbox login registry.example.com
  sandbox login --username me --password-stdin registry.example.com/team < token

exit status: 0, 125 if the registry refuses the password, or it cannot be stored"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("registry", metavar="REGISTRY", help="HOST[:PORT] or HOST[:PORT]/NAMESPACE")
    parser.add_argument("--username", metavar="NAME", help="the user's name")
    parser.add_argument(
        "--password-stdin", action="store_true", help="read the password or token from standard input"
    )
    add_authfile(parser)
    add_tls(parser)


def run(arguments: argparse.Namespace) -> int:
    """Verify and store the password; return the exit status."""
    from sandbox.images.registry.login import log_in
    from sandbox.images.registry.reference import parse_registry

    parse_registry(arguments.registry)  # a mistake is reported before the password is requested
    user, password = _credential(arguments)
    key, place = log_in(
        arguments.registry,
        user,
        password,
        os.environ,
        authfile=arguments.authfile,
        tls=tls_settings(arguments),
    )
    print(printable(f"logged in to {key} as {user}; the password is in {place}"), file=sys.stderr)
    return 0


def _credential(arguments: argparse.Namespace) -> tuple[str, str]:
    """Return the user and the password of the arguments, standard input or the terminal.

    Raises:
        SandboxError: there is no terminal, or standard input is not text.
    """
    from sandbox.images.registry.login import MAX_PASSWORD

    user: str | None = arguments.username
    if arguments.password_stdin:
        if user is None:
            raise SandboxError("--password-stdin requires a user", hint="add --username NAME")
        try:
            # One more character than allowed, which log_in refuses, and the end of the line.
            text = sys.stdin.read(MAX_PASSWORD + 3)
        except UnicodeDecodeError:
            raise SandboxError(
                "the password on standard input is not text in the encoding of the locale"
            ) from None
        return user, text.removesuffix("\n").removesuffix("\r")
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise SandboxError(
            "there is no terminal to prompt for the password",
            hint="add --username and --password-stdin",
        )
    import getpass

    try:
        if user is None:
            print("Username: ", end="", file=sys.stderr, flush=True)
            user = sys.stdin.readline().strip()
        return user, getpass.getpass("Password: ")
    except EOFError:
        raise SandboxError("no password was given") from None
