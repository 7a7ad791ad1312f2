"""`sandbox check`: find all mistakes in environment files."""

from __future__ import annotations

import argparse
import os
import sys

from sandbox.cli.options import DEFAULT_FILE, add_json, add_overrides, overrides
from sandbox.cli.output import print_json, use_colour

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandbox.spec.check import CheckResult
    from sandbox.spec.requests import Request

DESCRIPTION = """\
Find all mistakes in environment files, for an editor, a commit hook or a CI job. Nothing is started.

Without --here, paths of this machine are not examined, with one exception: a layer or file that exists here and
cannot be used on any machine, such as a FIFO, is a mistake. With --here, everything that `sandbox up` would refuse
before it starts a process is a mistake, such as a missing path or a limit that cannot be enforced.

Without --profile, each file is checked as it is and with each of its profiles.

With --untrusted, all paths, registries, variables, ports and privileges that a file requests are listed. The list also contains
what its program could change of its own next start on this machine, and the existing layers and volumes that it
would use."""
_HEADINGS = {
    "path": "paths of this machine",
    "registry": "images of registries",
    "variable": "variables of your environment",
    "port": "ports of this machine",
    "privilege": "privileges",
}
EPILOG = "exit status: 0 if there is no mistake (there may be warnings), 1 if there is one, 125 for a failure of sandbox"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument(
        "files",
        metavar="FILE",
        nargs="*",
        default=[DEFAULT_FILE],
        help=f"an environment file (TOML); - for standard input; default: {DEFAULT_FILE} in this directory",
    )
    parser.add_argument(
        "--untrusted",
        action="store_true",
        help="also list every path of this machine, variable, port and privilege that the files request",
    )
    parser.add_argument(
        "--here",
        action="store_true",
        help="also report everything that `up` would refuse on this machine before it starts a process",
    )
    add_overrides(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the mistakes in the files; return 1 if there is one, otherwise 0."""
    from sandbox.spec.check import examine

    examined = {
        file: examine(
            file,
            profiles=arguments.profile,
            assignments=overrides(arguments),
            requested=arguments.untrusted,
        )
        for file in dict.fromkeys(arguments.files)
    }
    if arguments.untrusted:
        from sandbox.cli.check_untrusted import with_local_facts

        examined = {file: with_local_facts(checked) for file, checked in examined.items()}
    if arguments.here:
        from sandbox.cli.check_here import with_refusals

        examined = {file: with_refusals(checked) for file, checked in examined.items()}
    found = {file: checked.diagnostics for file, checked in examined.items()}
    mistakes = sum(diagnostic.severity == "error" for one in found.values() for diagnostic in one)
    if arguments.json:
        print_json(
            {
                "ok": not mistakes,
                "here": arguments.here,
                "files": [
                    {
                        "file": file,
                        "ok": all(diagnostic.severity != "error" for diagnostic in diagnostics),
                        "diagnostics": [diagnostic.as_dict() for diagnostic in diagnostics],
                        **_requests_as_dict(examined[file], arguments.untrusted),
                    }
                    for file, diagnostics in found.items()
                ],
            }
        )
        return 1 if mistakes else 0
    # If several files extend one file, a mistake in that file is the same diagnostic for all of them.
    for diagnostic in dict.fromkeys(diagnostic for one in found.values() for diagnostic in one):
        print(diagnostic.render(color=use_colour(sys.stdout)))
    if arguments.untrusted:
        for file, checked in examined.items():
            print("\n".join(_requests_as_text(file, checked)))
    sys.stdout.flush()  # so that the summary comes last if both streams go to the same place
    print(_summary(len(found), mistakes, here=arguments.here), file=sys.stderr)
    return 1 if mistakes else 0


def _requests_as_dict(checked: CheckResult, wanted: bool) -> dict[str, object]:
    if not wanted:
        return {}
    requested = checked.requests
    return {"requests": None if requested is None else [_request_as_dict(request) for request in requested]}


def _request_as_dict(request: Request) -> dict[str, object]:
    return {**request.as_dict(), "leads_to": _leads_to(request)}


def _leads_to(request: Request) -> str | None:
    """Return the real path of a path request if it differs from the written one, otherwise None.

    A directory of another user may contain symbolic links to the caller's files.
    """
    path = request.what
    if request.kind != "path" or not path.startswith("/"):
        return None
    real = os.path.realpath(path)
    return None if real == path else real


def _requests_as_text(file: str, checked: CheckResult) -> Iterator[str]:
    """Yield the lines of the report, with control characters escaped, so that an untrusted file cannot forge lines."""
    from sandbox.spec.notation import visible

    def printable(text: str) -> str:
        return "".join(map(visible, text))

    if checked.requests is None:
        yield printable(f"{file}: its requests are listed only after its mistakes are corrected")
        return
    if not checked.requests:
        yield printable(f"{file} requests no path, variable, port or privilege of this machine")
        return
    yield printable(f"{file} requests:")
    for kind, heading in _HEADINGS.items():
        requested = [request for request in checked.requests if request.kind == kind]
        if requested:
            yield f"  {heading}"
        for request in requested:
            place = request.place
            where = "" if place is None else f" [{place.file}:{place.line}]"
            link = _leads_to(request)
            leads = "" if link is None else f", which is {link}"
            profile = "" if request.profile is None else f" (with --profile {request.profile})"
            yield printable(f"    {request.what}{leads}: {request.text}{profile}{where}")


def _summary(files: int, mistakes: int, *, here: bool) -> str:
    checked = f"{files} {'file' if files == 1 else 'files'} checked"
    found = f"{mistakes or 'no'} {'mistake' if mistakes == 1 else 'mistakes'}"
    looked = "" if here else "; --here also checks this machine"
    return f"{checked}: {found}{looked}"
