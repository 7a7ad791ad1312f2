"""`sandbox schema`: print the JSON Schema of environment files."""

from __future__ import annotations

import argparse

from sandbox.cli.output import print_json

DESCRIPTION = """\
Print the JSON Schema (draft 2020-12) of environment files. With it, an editor that supports TOML (Even Better TOML,
taplo) completes keys, shows their documentation and marks mistakes:

    sandbox schema > sandbox.schema.json
    and as the first line of the file:  #:schema ./sandbox.schema.json"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare nothing: the verb has no arguments."""
    del parser


def run(arguments: argparse.Namespace) -> int:
    """Print the schema; the exit status is 0."""
    del arguments
    from sandbox.reference.schema import schema

    print_json(schema())
    return 0
