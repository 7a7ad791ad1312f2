"""`sandbox reference`: print what the keys of an environment file mean."""

from __future__ import annotations

import argparse
import sys

from sandbox.cli.options import add_json
from sandbox.cli.output import print_json

DESCRIPTION = """\
Print what the keys of an environment file mean: all of them, or those that are named, in full. The topics "values"
and "composition" describe how values are written and how files are combined."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument(
        "keys", metavar="KEY", nargs="*", help="a key, a table or a topic, e.g. limits.memory"
    )
    parser.add_argument("--markdown", action="store_true", help="print the whole reference as Markdown")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the reference; the exit status is 0."""
    if arguments.markdown:
        from sandbox.reference.markdown import markdown

        sys.stdout.write(markdown())
        return 0
    from sandbox.reference.prose import TOPICS
    from sandbox.reference.text import detail, find, overview

    if arguments.json:
        print_json([entry.as_dict() for entry in find(arguments.keys)])
    elif not arguments.keys:
        sys.stdout.write(overview())
    else:
        topics = [TOPICS[key] + "\n" for key in arguments.keys if key in TOPICS]
        keys = [key for key in arguments.keys if key not in TOPICS]
        details = [detail(entry) for entry in (find(keys) if keys else [])]
        sys.stdout.write("\n".join(topics + details))
    return 0
