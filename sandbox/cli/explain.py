"""`sandbox explain`: print what the program of an environment file will be able to reach, and why."""

from __future__ import annotations

import argparse
import os
import sys

from sandbox.cli.options import add_file, add_json, add_overrides
from sandbox.cli.output import print_json, use_colour

DESCRIPTION = """\
Say what the program of FILE will be able to reach on this machine, and where each of it comes from: what stands out, what
differs from what the file asks for, and what the file sets. Nothing is started or changed; what only a start can find out
is not in the report. JSON has all of it."""
EPILOG = "exit status: 0 if `sandbox up` would go ahead, 1 if it would refuse, 125 for a file that is wrong and other failures"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    add_file(parser, optional=True)
    add_overrides(parser)
    parser.add_argument(
        "--all",
        action="store_true",
        dest="everything",
        help="also print what holds by default and on this machine, and what would be done, in order",
    )
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the report; return 1 if `up` would refuse the file, otherwise 0."""
    from sandbox.as_container_root import access_of_root
    from sandbox.cli.planning import load_to_plan, plan
    from sandbox.explain import Case, look, make_report, render
    from sandbox.plan.operations import BindDevice

    spec = load_to_plan(arguments)
    planning = plan(spec)
    steps = planning.draft.plan.operations
    devices = [step.source for step in steps if isinstance(step, BindDevice)]
    report = make_report(
        Case(
            spec=spec,
            draft=planning.draft,
            facts=planning.facts,
            paths=planning.paths,
            environ=os.environ,
            state_directory=planning.state_directory,
            state=planning.state,
            kept=planning.kept,
            surroundings=look(devices=access_of_root(planning.draft.plan.ids, devices)),
        )
    )
    if arguments.json:
        print_json(report.as_dict())
    else:
        sys.stdout.write(render(report, colour=use_colour(sys.stdout), everything=arguments.everything))
    return 1 if report.refused else 0
