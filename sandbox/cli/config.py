"""`sandbox config`: print the effective settings of an environment file, after all merging."""

from __future__ import annotations

import argparse
import sys

from sandbox.cli.options import add_file, add_json, add_overrides, load_spec
from sandbox.cli.output import print_json

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.spec.model import Spec

DESCRIPTION = """\
Print FILE as one environment file: with all files that it extends, with the requested profiles and values, with
references replaced and paths absolute. Keys that this version does not enforce are printed, too."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    add_file(parser, optional=True)
    add_overrides(parser)
    parser.add_argument(
        "--defaults", action="store_true", help="also print the values that the file leaves to defaults"
    )
    parser.add_argument(
        "--origins", action="store_true", help="add to every value the file and line that it comes from"
    )
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the file; the exit status is 0."""
    from sandbox.spec.dump import text_of, tree_of

    spec = load_spec(arguments, unenforced="keep")
    if not arguments.json:
        sys.stdout.write(text_of(spec, defaults=arguments.defaults, origins=arguments.origins))
    elif arguments.origins:
        print_json(_origins(spec, defaults=arguments.defaults))
    else:
        print_json(tree_of(spec, defaults=arguments.defaults))
    return 0


def _origins(spec: Spec, *, defaults: bool) -> list[dict[str, object]]:
    """Return every value with its origins: null for a default, and one for each element of a list from several places."""
    from sandbox.spec.dump import values_of
    from sandbox.spec.notation import format_key_path

    return [
        {
            "key": format_key_path(value.path),
            "value": value.value,
            "origins": [
                {"file": place.file, "line": place.line, "column": place.column} if place else None
                for place in value.origins
            ],
        }
        for value in values_of(spec, defaults=defaults)
    ]
