"""The command ``unionfs``: mounts a union, in the background once it can be used, or serves one for the
launcher.
"""

from __future__ import annotations

import argparse
import errno
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from unionfs import __version__
from unionfs.errors import UnionError

if TYPE_CHECKING:
    from unionfs.catalogue.background import Building
    from unionfs.core import UnionFs
    from unionfs.options import Serving
    from unionfs.stack import StackSource

EXIT_FAILURE = 1
EXIT_USAGE = 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="unionfs",
        allow_abbrev=False,
        description="Mount a copy-on-write union of directories, without root and without kernel OverlayFS.",
        epilog="example:\n  unionfs -o lowerdir=/top:/bottom,upperdir=/changes,workdir=/work /mnt\n  fusermount3 -u /mnt",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "-o",
        dest="options",
        action="append",
        default=[],
        metavar="OPTION,...",
        help="lowerdir=TOP:...:BOTTOM, upperdir=DIR, workdir=DIR, others of this program (its README lists them), and those of mount(8)",
    )
    parser.add_argument("-f", "--foreground", action="store_true", help="stay in the foreground")
    parser.add_argument(
        "-d", "--debug", action="store_true", help="stay in the foreground and show tracebacks"
    )
    parser.add_argument("--serve-fd", type=int, metavar="N", help=argparse.SUPPRESS)
    parser.add_argument("-V", "--version", action="version", version=f"unionfs {__version__}")
    parser.add_argument(
        "arguments",
        nargs="*",
        metavar="[SOURCE] MOUNTPOINT",
        help="an existing directory outside of all layers, after what mount(8) is to show as its source",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status: 0, 1 for a failure, 2 for a wrong command line."""
    parser = _parser()
    # Callers of fuse-overlayfs, and mount(8), give flags that mean nothing here; they rely on their being ignored.
    arguments, unknown = parser.parse_known_args(argv)
    for flag in unknown:
        print(f"unionfs: unknown argument ignored: {flag}", file=sys.stderr)
    logging.basicConfig(
        format="unionfs: %(message)s", level=logging.DEBUG if arguments.debug else logging.WARNING
    )
    logging.getLogger("pyfuse3").setLevel(logging.WARNING)
    logging.getLogger("pyfuse3").addFilter(_is_worth_saying)
    try:
        if arguments.serve_fd is not None:
            return _serve_for_launcher(arguments.serve_fd, arguments.options)
        if len(arguments.arguments) not in (1, 2):
            parser.error("the mount point is missing" if not arguments.arguments else "too many arguments")
        return _mount(arguments)
    except (UnionError, OSError) as error:
        print(f"unionfs: {_explain(error)}", file=sys.stderr)
        if arguments.debug:
            logging.getLogger(__name__).exception("failed here")
    return EXIT_FAILURE


def _is_worth_saying(record: logging.LogRecord) -> bool:
    """Keep quiet of a reply that nobody waits for: its client was killed, or the mount is gone (ENOENT, fs/fuse/dev.c)."""
    return "fuse_reply_" not in record.msg or record.args != (os.strerror(errno.ENOENT),)


def _explain(error: UnionError | OSError) -> str:
    if isinstance(error, UnionError) or not isinstance(error.filename, bytes | str):
        return str(error)
    return f"{os.fsdecode(error.filename)}: {error.strerror}"


def _mount(arguments: argparse.Namespace) -> int:
    from unionfs.options import parse_options
    from unionfs.stack import source_from_options

    options = parse_options(arguments.options)
    for ignored in options.ignored:
        print(f"unionfs: unknown option ignored: {ignored}", file=sys.stderr)
    # What a symbolic link led to is mounted on, and has to be found again to unmount it.
    mountpoint = os.path.realpath(arguments.arguments[-1])
    source = source_from_options(options, mountpoint)
    fuse = {"default_permissions", *options.fuse}
    # A set has no order, in which the caller's could come last: ours are added only where there is none.
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
    from unionfs.fuse.serving import ENDING, load
    from unionfs.stack import open_stack

    load(serving.server)
    os.umask(0)
    fs = open_stack(source)
    # From here until it is served, and while it is taken away, a signal has to wait.
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
    from unionfs.fuse.serving import serve
    from unionfs.mounting import mount

    try:
        mounted = mount(mountpoint, fuse)
    except BaseException:
        fs.close()
        raise
    building = _build_indexes(source)
    try:
        return serve(serving, fs, os.dup(mounted.fd), on_ready=on_ready)
    finally:
        mounted.unmount()
        os.close(mounted.fd)
        if building is not None:
            building.finish()


def _build_indexes_first(source: StackSource) -> None:
    from unionfs.stack import build_indexes

    try:
        build_indexes(source, wait=True)
    except OSError as error:
        print(f"unionfs: no index of the lower layers: {_explain(error)}", file=sys.stderr)


def _build_indexes(source: StackSource, confine: Callable[[], None] = lambda: None) -> Building | None:
    """Start to make the indexes of layers that *source* lacks, where there are to be any."""
    if source.index_fd is None:
        return None
    from unionfs.catalogue.background import Building

    return Building(source, confine)


def _in_background(run: Callable[[Callable[[], None]], int]) -> int:
    """Fork; the parent returns when the child has said that the mount can be used, or with its failure."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        status = EXIT_FAILURE
        try:
            os.setsid()
            status = run(lambda: _become_daemon(writer))
        except (UnionError, OSError) as error:
            print(f"unionfs: {_explain(error)}", file=sys.stderr)
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


def _serve_for_launcher(number: int, options: list[str]) -> int:
    channel = socket.socket(fileno=number)
    try:
        return _serve(channel, options)
    except EOFError:
        return 0
    except (UnionError, OSError) as error:
        reason = _explain(error)
    except MemoryError:
        reason = "there is no memory left"
    except ImportError as error:  # no memory to map a library, too
        reason = f"it cannot be loaded: {error}"
    try:
        channel.send(f"error: {reason}".encode(errors="surrogateescape"))
    except OSError:
        pass  # the launcher is gone, and nobody else is to be told
    return EXIT_FAILURE


def _serve(channel: socket.socket, options: list[str]) -> int:
    # The imports come first: the launcher starts us early and sends the descriptors when it has them.
    import unionfs.catalogue.background
    import unionfs.catalogue.building  # noqa: F401 - where we are going, our own files may not be readable
    from unionfs._libc import filter_system_calls
    from unionfs.channel import receive
    from unionfs.confine import enter_user_namespace, restrict_files
    from unionfs.fuse.serving import load, serve
    from unionfs.options import parse_serving
    from unionfs.stack import open_stack

    serving = parse_serving(options)
    load(serving.server)
    request = receive(channel)
    enter_user_namespace(request.user_namespace_fd)
    os.close(request.user_namespace_fd)
    os.umask(0)
    os.chdir("/")
    stack = request.stack
    readable = [lower.fd for lower in stack.lowers]
    readable += [] if stack.index_fd is None else [stack.index_fd]

    def confine(*writable: int | None) -> None:
        restrict_files(readable, [fd for fd in writable if fd is not None])
        if request.filter is not None:
            filter_system_calls(request.filter)

    # Before we are confined: it lets no process be made, and one would not see its own part of /proc. Only that one writes
    # indexes, which other sandboxes believe: it answers nobody.
    building = _build_indexes(stack, lambda: confine(stack.index_fd))
    confine(stack.upper_fd, stack.work_fd)
    fs = open_stack(stack)
    fs.tell_when_full(lambda bound: _send_at_once(channel, f"full: {bound}"))
    try:
        return serve(
            serving,
            fs,
            request.fuse_fd,
            on_ready=lambda: _report_ready(channel),
            lifeline=channel.fileno(),
        )
    finally:
        if building is not None:
            building.finish()


def _send_at_once(channel: socket.socket, text: str) -> None:
    """Say *text* before the request that is being served is answered, unless the launcher does not listen."""
    try:
        channel.send(text.encode(), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
    except OSError:
        pass


def _report_ready(channel: socket.socket) -> None:
    try:
        channel.send(b"ready")
    except OSError:
        pass  # the launcher is gone: the lifeline ends us
