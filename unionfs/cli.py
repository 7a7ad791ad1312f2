"""The command ``unionfs``: mounts a union, and returns when the mount can be used. The server continues in the background."""

from __future__ import annotations

import os
import signal
import sys

from unionfs import __version__
from unionfs.errors import UnionError, explain

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

    from unionfs.assemble import StackSource
    from unionfs.launch.index_builder import IndexBuilder
    from unionfs.options import Serving
    from unionfs.vfs.filesystem import UnionFs

EXIT_FAILURE = 1
EXIT_USAGE = 2


DESCRIPTION = "Mount a copy-on-write union of directories, without root and without kernel OverlayFS."
CHANGES = "unionfs changes prints what the writable layer of a union changes, or writes it as an archive: see unionfs changes --help."
EXAMPLE = "  unionfs -o lowerdir=/top:/bottom,upperdir=/changes,workdir=/work /mnt\n  fusermount3 -u /mnt"
_COLUMN = 36


def _option_lines() -> str:
    from unionfs.options import DECLARED

    lines = []
    for one in DECLARED:
        usage = f"  {one.usage}"
        # A long usage has a line of its own.
        lines.append(
            f"{usage:{_COLUMN}}{one.help}" if len(usage) < _COLUMN else f"{usage}\n{'':{_COLUMN}}{one.help}"
        )
    return "\n".join(lines)


def _describe() -> dict[str, object]:
    """Return the contents of the command's manual page as JSON-compatible values."""
    from unionfs.changes import command as changes
    from unionfs.options import DECLARED

    return {
        "version": __version__,
        "description": DESCRIPTION,
        "usage": "unionfs [-f] [-d] -o OPTION,... [SOURCE] MOUNTPOINT",
        "arguments": _describe_arguments(_parser()),
        "changes": {
            "description": changes.DESCRIPTION,
            "usage": changes.USAGE,
            "arguments": _describe_arguments(changes.parser()),
        },
        "options": [{"usage": one.usage, "help": one.help} for one in DECLARED],
        "example": EXAMPLE,
        "exit_status": "0: success; 1: failure; 2: wrong command line",
    }


def _describe_arguments(parser: argparse.ArgumentParser) -> list[dict[str, object]]:
    import argparse

    return [
        {
            "names": ", ".join(action.option_strings) or str(action.metavar),
            "value": (action.metavar or "|".join(action.choices or ()))
            if action.option_strings and action.nargs != 0
            else None,
            "help": action.help,
        }
        for action in parser._actions
        if action.help != argparse.SUPPRESS
    ]


def _parser() -> argparse.ArgumentParser:
    import argparse

    parser = argparse.ArgumentParser(
        prog="unionfs",
        allow_abbrev=False,
        description=DESCRIPTION,
        epilog=f"{CHANGES}\n\noptions for -o:\n{_option_lines()}\n\nexample:\n{EXAMPLE}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "-o",
        dest="options",
        action="append",
        default=[],
        metavar="OPTION,...",
        help="options of the union and of the mount, listed below; unknown ones are reported and ignored",
    )
    parser.add_argument("-f", "--foreground", action="store_true", help="stay in the foreground")
    parser.add_argument(
        "-d", "--debug", action="store_true", help="stay in the foreground and show tracebacks"
    )
    parser.add_argument("-V", "--version", action="version", version=f"unionfs {__version__}")
    parser.add_argument(
        "arguments",
        nargs="*",
        metavar="[SOURCE] MOUNTPOINT",
        help="an existing directory outside of all layers; mount(8) shows SOURCE as the source",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Return the exit status: 0, 1 for a failure, 2 for a wrong command line."""
    given = sys.argv[1:] if argv is None else argv
    if len(given) == 2 and given[0] == "--serve-fd" and given[1].isdecimal():
        from unionfs.launch.server_process import serve_launcher

        return serve_launcher(int(given[1]))
    if given and given[0] == "changes":
        from unionfs.changes.command import main as changes

        return changes(given[1:])
    if list(given) == ["--describe"]:  # for `sandbox man unionfs`
        import json

        print(json.dumps(_describe()))
        return 0
    import logging

    from unionfs._stdlib.logging import to_standard_error

    parser = _parser()
    # Callers of fuse-overlayfs, and mount(8), pass flags that mean nothing here, and rely on their being ignored.
    arguments, unknown = parser.parse_known_args(given)
    for flag in unknown:
        print(f"unionfs: unknown argument ignored: {flag}", file=sys.stderr)
    to_standard_error(everything=arguments.debug)
    try:
        if len(arguments.arguments) not in (1, 2):
            parser.error("the mount point is missing" if not arguments.arguments else "too many arguments")
        return _mount(arguments)
    except (UnionError, OSError) as error:
        print(f"unionfs: {explain(error)}", file=sys.stderr)
        if arguments.debug:
            logging.getLogger(__name__).exception("failed here")
    return EXIT_FAILURE


def _mount(arguments: argparse.Namespace) -> int:
    from unionfs.assemble import source_from_options
    from unionfs.options import DISABLE_VARIABLE, parse_options

    options = parse_options(arguments.options, os.environ.get(DISABLE_VARIABLE, ""))
    for ignored in options.ignored:
        print(f"unionfs: unknown option ignored: {ignored}", file=sys.stderr)
    # The kernel mounts on the target of a symbolic link, and unmounting must find the same directory.
    mountpoint = os.path.realpath(arguments.arguments[-1])
    source = source_from_options(options, mountpoint)
    fuse = {"default_permissions", *options.fuse}
    # The set has no order in which the caller's value could override the default, so add only what the caller did not give.
    given = {option.partition("=")[0] for option in fuse}
    shown = arguments.arguments[0] if len(arguments.arguments) > 1 else "unionfs"
    fuse.update(
        f"{key}={value}" for key, value in (("fsname", shown), ("subtype", "unionfs")) if key not in given
    )
    if os.geteuid() == 0:
        fuse.add("allow_other")
    if source.upper_fd is None:
        fuse.discard("rw")
        fuse.add("ro")

    def run(on_ready: Callable[[], None]) -> int:
        if options.index_first:
            _build_indexes_first(source)
        return _serve_on(mountpoint, source, fuse, options.serving, on_ready)

    if arguments.foreground or arguments.debug or options.debug:
        return run(lambda: None)
    return _in_background(run)


def _serve_on(
    mountpoint: str, source: StackSource, fuse: set[str], serving: Serving, on_ready: Callable[[], None]
) -> int:
    from unionfs.assemble import open_stack
    from unionfs.fuse.backend import ENDING, load

    load(serving.server)
    os.umask(0)
    fs = open_stack(source)
    # Block signals until the server handles them, and again while unmounting.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        return _mount_and_serve(fs, source, mountpoint, fuse, serving, on_ready)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _mount_and_serve(
    fs: UnionFs,
    source: StackSource,
    mountpoint: str,
    fuse: set[str],
    serving: Serving,
    on_ready: Callable[[], None],
) -> int:
    from unionfs.fuse.backend import choose, serve
    from unionfs.mount import mount

    try:
        mounted = mount(mountpoint, fuse)
    except BaseException:
        fs.close()
        raise
    building = None
    try:
        try:
            building = _build_indexes(source)
            choice = choose(serving)
        except BaseException:
            fs.close()
            raise
        return serve(choice, fs, os.dup(mounted.fd), on_ready=on_ready)
    finally:
        try:
            mounted.unmount()
        finally:
            os.close(mounted.fd)
            if building is not None:
                building.finish()


def _build_indexes_first(source: StackSource) -> None:
    from unionfs.assemble import build_indexes

    try:
        build_indexes(source, wait=True)
    except OSError as error:
        print(f"unionfs: cannot build the index of the lower layers: {explain(error)}", file=sys.stderr)


def _build_indexes(source: StackSource) -> IndexBuilder | None:
    """Start to build the layer indexes that *source* lacks, if it has a directory for them."""
    if source.index_fd is None:
        return None
    from unionfs.launch.index_builder import IndexBuilder

    return IndexBuilder(source)


def _in_background(run: Callable[[Callable[[], None]], int]) -> int:
    """Fork. The parent returns 0 when the child reports that the mount can be used, or the child's exit status if it fails."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        status = EXIT_FAILURE
        try:
            os.setsid()
            status = run(lambda: _become_daemon(writer))
        except (UnionError, OSError) as error:
            print(f"unionfs: {explain(error)}", file=sys.stderr)
        finally:
            sys.stderr.flush()
            os._exit(status)
    os.close(writer)
    with open(reader, "rb") as pipe:
        if pipe.read() == b"ready":
            return 0
    _, wait_status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(wait_status) or EXIT_FAILURE


def _become_daemon(writer: int) -> None:
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    os.close(null)
    os.write(writer, b"ready")
    os.close(writer)
