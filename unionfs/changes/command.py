"""The command ``unionfs changes``: prints what a writable layer changes, or writes it as an archive. It works beside a server.

The launcher calls it with ``--request-fd N`` instead of ``-o``: a socket over which the request of
:mod:`unionfs.launch.protocol` arrives, without a mount. The process then enters the sandbox's user namespace and confines
itself before it reads a layer.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
from collections.abc import Callable, Iterable, Sequence

from unionfs.errors import UnionError, explain

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from unionfs.assemble import StackSource

EXIT_FAILURE = 1
_ENCODER = json.JSONEncoder(separators=(",", ":"))
DESCRIPTION = """\
Print what the writable layer of a union changes: A (added), C (changed), D (deleted), R (moved). Nothing is mounted or
changed; a server may be using the layer meanwhile."""


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = argparse.ArgumentParser(prog="unionfs changes", allow_abbrev=False, description=DESCRIPTION)
    made.add_argument(
        "-o",
        dest="options",
        action="append",
        default=[],
        metavar="OPTION,...",
        help="the options of the mount: lowerdir, upperdir, workdir and those that decide how layers are read",
    )
    made.add_argument("--request-fd", type=int, metavar="FD", help=argparse.SUPPRESS)
    form = made.add_mutually_exclusive_group()
    form.add_argument(
        "--json",
        action="store_true",
        help="print one JSON object per line; the last one has the number of rows",
    )
    form.add_argument(
        "--archive",
        choices=("layer", "trees", "members"),
        help="write a tar archive to standard output: the changes as a layer of an OCI image; the trees at each PATH as the union "
        "shows them; or the objects at each PATH alone",
    )
    made.add_argument(
        "--facts", action="store_true", help="with --json: add what is needed to write the changes back"
    )
    made.add_argument("--text", action="store_true", help="with --json: add unified diffs of text files")
    made.add_argument(
        "--paths-fd",
        type=int,
        metavar="FD",
        help="read more PATHs from this descriptor, each ended by a zero byte",
    )
    made.add_argument("paths", nargs="*", metavar="PATH", help="show only the changes at and below PATH")
    return made


def main(argv: Sequence[str]) -> int:
    """Run the command. Return the exit status: 0, 1 for a failure, 2 for a wrong command line."""
    arguments = parser().parse_args(argv)
    try:
        _run(arguments)
    except (UnionError, OSError) as error:
        print(f"unionfs: {explain(error)}", file=sys.stderr)
        return EXIT_FAILURE
    return 0


def _run(arguments: argparse.Namespace) -> None:
    # Imported before the process is confined: it may be unable to read these files afterwards.
    from unionfs.changes import report, text
    from unionfs.changes.compared_stack import open_stack_to_compare
    from unionfs.changes.comparison import Comparison
    from unionfs.changes.stream import Stream

    if arguments.text:
        import difflib  # noqa: F401

    chosen = [
        path.strip(b"/") for path in (*map(os.fsencode, arguments.paths), *_paths_in(arguments.paths_fd))
    ]
    if arguments.request_fd is not None:
        source = _receive(arguments.request_fd)
    else:
        from unionfs.assemble import source_from_options
        from unionfs.options import parse_options

        source = source_from_options(parse_options(arguments.options), None)
    stack = open_stack_to_compare(source)
    try:
        with open(sys.stdout.fileno(), "wb", closefd=False, buffering=1 << 16) as output:
            if arguments.archive is not None:
                stream = Stream(stack, output)
                if arguments.archive == "layer":
                    stream.layer(chosen)
                elif arguments.archive == "trees":
                    stream.trees(chosen)
                else:
                    stream.members(chosen)
                return
            rows = [row for row in Comparison(stack).rows() if not chosen or _is_chosen(row.path, chosen)]
            if not arguments.json:
                output.writelines(_line(report.as_value(row)) for row in rows)
                return
            value_of = report.Facts(stack).of if arguments.facts else report.as_value
            add: Callable[..., dict[str, object]] = (
                text.TextDiffs(stack).of if arguments.text else lambda _: {}
            )
            output.writelines(_encoded(value_of(row) | add(row)) for row in rows)
            output.write(_encoded({"version": report.VERSION, "rows": len(rows)}))
    finally:
        stack.close()


def _encoded(value: object) -> bytes:
    return _ENCODER.encode(value).encode() + b"\n"


def _line(value: dict[str, object]) -> bytes:
    moved = f"{_printable(value['from'])} -> " if "from" in value else ""
    return f"{value['kind']} {moved}{_printable(value['path'])}\n".encode()


def _printable(path: object) -> str:
    """Return *path* with all that a terminal would interpret escaped."""
    return "".join(each if each.isprintable() and each != "\\" else ascii(each)[1:-1] for each in str(path))


def _is_chosen(path: bytes, chosen: Iterable[bytes]) -> bool:
    return any(not top or path == top or path.startswith(top + b"/") for top in chosen)


def _paths_in(fd: int | None) -> list[bytes]:
    if fd is None:
        return []
    with open(fd, "rb") as file:
        return file.read().split(b"\0")[:-1]


def _receive(fd: int) -> StackSource:
    from unionfs.assemble import with_process_facts
    from unionfs.launch.confine import enter_user_namespace, restrict_files
    from unionfs.launch.request import receive

    with socket.socket(fileno=fd) as channel:
        try:
            request = receive(channel)
        except EOFError:
            raise UnionError("the launcher went away") from None
    if request.user_namespace_fd is not None:
        enter_user_namespace(request.user_namespace_fd)
        os.close(request.user_namespace_fd)
    source = with_process_facts(request.stack)
    read = [lower.fd for lower in source.lowers]
    read += [each for each in (source.upper_fd, source.work_fd) if each is not None]
    restrict_files(read, [])
    return source
