"""`sandbox explain`: print what the program of an environment file will be able to reach, and why."""

from __future__ import annotations

import argparse
import os
import sys

from sandbox.cli.options import add_file, add_json, add_overrides
from sandbox.cli.output import print_json, use_colour

DESCRIPTION = """\
Print what the program of FILE can reach on this machine, and which setting or fact decides it. The report contains
unusual settings, differences from what the file requests, and the settings of the file. Nothing is started or
changed. Facts that only a start can find out are not in the report. JSON contains the whole report."""
EPILOG = "exit status: 0 if `sandbox up` would start, 1 if it would refuse, 125 for mistakes in the file and other failures"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    add_file(parser, optional=True)
    add_overrides(parser)
    parser.add_argument(
        "--all",
        action="store_true",
        dest="everything",
        help="also print defaults, facts of this machine, and the operations of the start, in order",
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
            spec=planning.spec,
            draft=planning.draft,
            facts=planning.facts,
            paths=planning.paths,
            environ=os.environ,
            state_directory=planning.state_directory,
            state=planning.state,
            persistent=planning.persistent,
            surroundings=look(devices=access_of_root(planning.draft.plan.ids, devices)),
        )
    )
    if arguments.json:
        print_json(report.as_dict())
    else:
        sys.stdout.write(render(report, colour=use_colour(sys.stdout), everything=arguments.everything))
    return 1 if report.refused else 0
