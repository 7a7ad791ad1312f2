"""The command ``unionfs changes``: prints what a writable layer changes, or writes it as an archive. It works beside a server.

With ``--discard`` it discards changes instead, which no server may use meanwhile, and prints those that it discarded. With
``--freeze`` it freezes the layer, on the same condition, and with ``--begin`` it prepares an empty one above earlier layers.
With ``--relocate`` it begins a relocation below the earlier layers.
``--remaining-names`` prints what a server has to link before it freezes the layer itself.

The launcher calls it with ``--request-fd N`` instead of ``-o``: a socket over which the request of
:mod:`unionfs.launch.protocol` arrives, without a mount. The process then enters the sandbox's user namespace and confines
itself before it reads a layer.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import socket
import sys
from collections.abc import Callable, Container, Iterable, Sequence

from unionfs.errors import UnionError, explain

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from unionfs.assemble import StackSource

EXIT_FAILURE = 1
_ENCODER = json.JSONEncoder(separators=(",", ":"))
USAGE = "unionfs changes -o OPTION,... [--discard] [--json [--facts] [--text] | --archive KIND | --applied] [PATH...]"
DESCRIPTION = """\
Print what the writable layer of a union changes: A (added), C (changed), D (deleted), R (moved). Nothing is mounted or
changed; a server may be using the layer meanwhile. With --discard, show the old objects again instead."""


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
    form.add_argument(
        "--applied",
        action="store_true",
        help="instead of printing: the changes at each PATH have been written to a layer below; adapt the marks and records of "
        "the writable layer, and finish what an earlier call did not",
    )
    made.add_argument(
        "--discard",
        action="store_true",
        help="discard the changes at and below PATH, and print them; no mount may use the layer",
    )
    # For the launcher: these need the directories of a request.
    made.add_argument("--freeze", action="store_true", help=argparse.SUPPRESS)
    made.add_argument("--relocate", action="store_true", help=argparse.SUPPRESS)
    made.add_argument("--begin", action="store_true", help=argparse.SUPPRESS)
    made.add_argument("--remaining-names", action="store_true", help=argparse.SUPPRESS)
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
    made = parser()
    arguments = made.parse_args(argv)
    if (arguments.facts or arguments.text) and not arguments.json:
        made.error("--facts and --text need --json")
    if arguments.archive in {"trees", "members"} and not arguments.paths and arguments.paths_fd is None:
        made.error(f"--archive {arguments.archive} needs a PATH, / for the root")
    if arguments.discard:
        if arguments.archive or arguments.applied or arguments.facts or arguments.text:
            made.error("--discard does not go with --archive, --applied, --facts and --text")
        if not arguments.paths and arguments.paths_fd is None:
            made.error("--discard needs a PATH, / for everything")
    if any(b".." in os.fsencode(path).split(b"/") for path in arguments.paths):
        made.error("a PATH is a path of the union, without ..")
    try:
        _action_of(arguments)(arguments)
    except RecursionError:
        print("unionfs: directories are nested too deeply", file=sys.stderr)
        return EXIT_FAILURE
    except BrokenPipeError:
        return EXIT_FAILURE  # the reader wants no more
    except (UnionError, OSError) as error:
        print(f"unionfs: {_printable(_explain(error))}", file=sys.stderr)
        return EXIT_FAILURE
    return 0


def _action_of(arguments: argparse.Namespace) -> Callable[[argparse.Namespace], None]:
    if arguments.freeze:
        return _freeze
    if arguments.relocate:
        return _relocate
    if arguments.begin:
        return _begin
    if arguments.remaining_names:
        return _list_remaining_names
    return _discard if arguments.discard else _run


def _freeze(arguments: argparse.Namespace) -> None:
    # Imported before the process is confined.
    from unionfs.changes.freezing import freeze

    source, following = _source_and_next(arguments)
    if following is None:
        raise UnionError("--freeze needs a request with the next directories")
    os.umask(0)
    freeze(source, *following)


def _relocate(arguments: argparse.Namespace) -> None:
    # Imported before the process is confined.
    from unionfs.changes.moves_below import group_of
    from unionfs.changes.relocation import relocate

    source, following = _source_and_next(arguments)
    if following is None or arguments.paths_fd is None:
        raise UnionError("--relocate needs a request with the next directories, and --paths-fd")
    with open(arguments.paths_fd, "rb") as file:
        group = group_of(file.read().split(b"\0")[:-1])
    os.umask(0)
    relocate(source, *following, group)


def _begin(arguments: argparse.Namespace) -> None:
    from unionfs.changes.freezing import begin

    source = _source(arguments)
    os.umask(0)
    begin(source)


def _list_remaining_names(arguments: argparse.Namespace) -> None:
    from unionfs.changes.freezing import remaining_names

    if sys.stdout is None:  # else a layer might get the descriptor 1
        raise UnionError("standard output is closed")
    names = remaining_names(_source(arguments))
    with open(sys.stdout.fileno(), "wb", closefd=False) as output:
        output.writelines(name + b"\0" for name in names)


def _explain(error: UnionError | OSError) -> str:
    """Return *error* as one line, also an error of writing the output, which has no path."""
    if isinstance(error, OSError) and error.filename is None and error.strerror:
        return error.strerror
    return explain(error)


def _discard(arguments: argparse.Namespace) -> None:
    # Imported before the process is confined.
    from unionfs.changes import report
    from unionfs.changes.discard import discard

    if sys.stdout is None:  # else a layer might get the descriptor 1
        raise UnionError("standard output is closed")
    paths = [b"/" + path for path in _chosen_paths(arguments) or ()]
    source = _source(arguments)
    os.umask(0)
    rows = discard(source, paths)
    with open(sys.stdout.fileno(), "wb", closefd=False, buffering=1 << 16) as output:
        form = _encoded if arguments.json else _line
        output.writelines(form(report.as_value(row)) for row in rows)
        if arguments.json:
            output.write(_encoded({"version": report.VERSION, "rows": len(rows)}))


def _run(arguments: argparse.Namespace) -> None:
    # Imported before the process is confined: it may be unable to read these files afterwards.
    from unionfs.changes import report, text
    from unionfs.changes.compared_stack import open_stack_to_compare
    from unionfs.changes.comparison import Comparison
    from unionfs.changes.stream import Stream

    gc.disable()  # it would scan the rows again and again, and find no garbage: a seventh of the time
    if arguments.text:
        import difflib  # noqa: F401
    if sys.stdout is None:  # else a layer might get the descriptor 1
        raise UnionError("standard output is closed")
    chosen = _chosen_paths(arguments)
    if arguments.applied:
        _adapt(arguments, chosen or ())
        return
    stack = open_stack_to_compare(_source(arguments))
    try:
        with open(sys.stdout.fileno(), "wb", closefd=False, buffering=1 << 16) as output:
            if arguments.archive == "layer":
                Stream(stack, output).layer(chosen)
            elif arguments.archive == "trees":
                Stream(stack, output).trees(chosen or ())
            elif arguments.archive == "members":
                Stream(stack, output).members(chosen or ())
            else:
                rows = [row for row in Comparison(stack).rows() if chosen is None or _is_in(row.path, chosen)]
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


def _adapt(arguments: argparse.Namespace, paths: Iterable[bytes]) -> None:
    from unionfs.changes.compared_stack import open_home, open_stack_to_compare
    from unionfs.changes.renewal import renew

    source = _source(arguments)
    home_fd = None if source.work_fd is None else open_home(source.work_fd)
    stack = open_stack_to_compare(source)
    try:
        if home_fd is not None:
            renew(stack, home_fd, paths)
    finally:
        stack.close()
        if home_fd is not None:
            os.close(home_fd)


def _source(arguments: argparse.Namespace) -> StackSource:
    return _source_and_next(arguments)[0]


def _source_and_next(arguments: argparse.Namespace) -> tuple[StackSource, tuple[int, int] | None]:
    """Return the stack, and the next upper and work directory of the launcher's request."""
    if arguments.request_fd is not None:
        writes = arguments.applied or arguments.discard or arguments.freeze or arguments.begin
        writes = writes or arguments.relocate
        return _receive(arguments.request_fd, writes=writes)
    from unionfs._stdlib.dataclasses import replace
    from unionfs.assemble import source_from_options
    from unionfs.options import parse_options

    # The index of a mount is not used, so this account need not be able to write it.
    return source_from_options(replace(parse_options(arguments.options), index_dir=None), None), None


def _encoded(value: object) -> bytes:
    return _ENCODER.encode(value).encode() + b"\n"


def _line(value: dict[str, object]) -> bytes:
    moved = f"{_printable(value['from'])} -> " if "from" in value else ""
    return f"{value['kind']} {moved}{_printable(value['path'])}\n".encode()


def _printable(path: object) -> str:
    """Return *path* with all that a terminal would interpret escaped."""
    return "".join(each if each.isprintable() and each != "\\" else ascii(each)[1:-1] for each in str(path))


def _chosen_paths(arguments: argparse.Namespace) -> dict[bytes, None] | None:
    """Return the given paths, in order and each once, without leading slashes; None if none were given.

    Raises:
        UnionError: one of them has a component "..".
    """
    if not arguments.paths and arguments.paths_fd is None:
        return None
    given = list(map(os.fsencode, arguments.paths))
    if arguments.paths_fd is not None:
        with open(arguments.paths_fd, "rb") as file:
            given += file.read().split(b"\0")[:-1]
    chosen: dict[bytes, None] = {}
    for path in given:
        names = [name for name in path.split(b"/") if name not in {b"", b"."}]
        if b".." in names:
            raise UnionError(f"{os.fsdecode(path)}: a path of the union has no ..")
        chosen[b"/".join(names)] = None
    return chosen


def _is_in(path: bytes, chosen: Container[bytes]) -> bool:
    """Return whether *path* is one of *chosen* or below one of them."""
    while path not in chosen:
        if not path:
            return False
        path = path.rpartition(b"/")[0]
    return True


def _receive(fd: int, *, writes: bool) -> tuple[StackSource, tuple[int, int] | None]:
    from unionfs.assemble import import_for, with_process_facts
    from unionfs.launch.confine import enter_user_namespace, restrict_files
    from unionfs.launch.request import receive

    with socket.socket(fileno=fd) as channel:
        try:
            request = receive(channel)
        except EOFError:
            raise UnionError("the launcher went away") from None
    import_for(request.stack)
    if request.user_namespace_fd is not None:
        enter_user_namespace(request.user_namespace_fd)
        os.close(request.user_namespace_fd)
    source = with_process_facts(request.stack)
    directories = [lower for lower in source.lowers if lower.archive_index_fd is None]
    read = [fd for lower in directories for fd in (lower.fd, lower.work_fd) if fd is not None]
    writable = [each for each in (source.upper_fd, source.work_fd) if each is not None]
    writable += request.next_fds or ()
    restrict_files([*read, *writable], writable if writes else [])
    return source, request.next_fds
