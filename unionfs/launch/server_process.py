"""Serves a mount for the launcher: receives everything over one socket, and gives up rights before it serves."""

from __future__ import annotations

import gc
import json
import os
import socket
import time

from unionfs.errors import UnionError, explain

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from unionfs.fuse.lifeline import Lifeline
    from unionfs.vfs.filesystem import UnionFs

EXIT_FAILURE = 1


def serve_launcher(number: int) -> int:
    """Serve the request that arrives on the socket *number* (see `unionfs.launch.protocol`). Return the exit status."""
    channel = socket.socket(fileno=number)
    try:
        return _serve(channel)
    except EOFError:
        return 0
    except (UnionError, OSError) as error:
        reason = explain(error)
    except MemoryError:
        reason = "the server is out of memory"
    except ImportError as error:  # also raised if there is no memory to map a library
        reason = f"the server cannot be loaded: {error}"
    try:
        channel.send(f"error: {reason}".encode(errors="surrogateescape"))
    except OSError:
        pass  # the launcher is gone
    return EXIT_FAILURE


def _serve(channel: socket.socket) -> int:
    gc.disable()  # it would scan the imported modules repeatedly and find no garbage
    # Import first: the launcher starts the server early and sends the descriptors when it has them.
    import unionfs.layer_index.build  # noqa: F401 - a confined process may be unable to read these files
    from unionfs._libc import filter_system_calls
    from unionfs._stdlib.logging import to_standard_error
    from unionfs.assemble import import_for, open_stack, with_process_facts
    from unionfs.fuse.backend import choose, load, serve
    from unionfs.launch.confine import enter_user_namespace, restrict_files
    from unionfs.launch.index_builder import IndexBuilder
    from unionfs.launch.request import receive
    from unionfs.options import Server

    load(Server.AUTO)
    gc.freeze()
    gc.enable()
    times = {"loaded": time.monotonic_ns()}
    request = receive(channel)
    times["asked"] = time.monotonic_ns()
    if request.fuse_fd is None or request.user_namespace_fd is None:
        raise UnionError("malformed request from the launcher: it has no mount")
    lifeline_for = _silent if request.later_fd is None else _load_control()
    choice = choose(request.serving)
    if choice.server is Server.PYFUSE3:
        to_standard_error(everything=False)  # pyfuse3 has imported `logging` anyway
    import_for(request.stack)
    enter_user_namespace(request.user_namespace_fd)
    os.close(request.user_namespace_fd)
    os.umask(0)
    os.chdir("/")
    stack = with_process_facts(request.stack)
    # A descriptor of an archive stays usable, and nothing opens it again.
    readable = [lower.fd for lower in stack.lowers if lower.archive_index_fd is None]
    readable += [] if stack.index_fd is None else [stack.index_fd]

    def confine(*writable: int | None) -> None:
        restrict_files(readable, [fd for fd in writable if fd is not None])
        if request.filter is not None:
            filter_system_calls(request.filter)

    # Fork before the seccomp filter forbids it. Other sandboxes trust the indexes, so only this child, which serves no
    # requests, may write them.
    index_builder = IndexBuilder(stack, lambda: confine(stack.index_fd))
    confine(stack.upper_fd, stack.work_fd, request.later_fd)
    if request.later_fd is not None:
        os.close(request.later_fd)
    fs = open_stack(stack)
    fs.report_when_full(lambda bound: _send_at_once(channel, f"full: {bound}"))
    machine = os.stat("/")
    fs.report_closed_directories(
        lambda path: _send_at_once(channel, f"closed: /{path.decode(errors='surrogateescape')}"),
        host_root=(machine.st_dev, machine.st_ino),
    )

    def report_ready() -> None:
        times["ready"] = time.monotonic_ns()
        message = {"server": choice.server.value, "times": times}
        _report_ready(channel, json.dumps(message))

    try:
        return serve(
            choice,
            fs,
            request.fuse_fd,
            on_ready=report_ready,
            lifeline=lifeline_for(channel, fs),
            callers_visible=False,  # process 1 of the sandbox made the mount, in another pid namespace
        )
    finally:
        index_builder.finish()


def _silent(channel: socket.socket, _: UnionFs) -> Lifeline:
    from unionfs.fuse.lifeline import Silent

    return Silent(channel.fileno())


def _load_control() -> Callable[[socket.socket, UnionFs], Lifeline]:
    """Import what executes requests of the launcher while the mount is served."""
    from unionfs.launch.control import Control

    return Control


def _send_at_once(channel: socket.socket, text: str) -> None:
    """Send *text* before the reply to the current request. Drop it if the launcher does not read its socket."""
    try:
        channel.send(text.encode(errors="surrogateescape"), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
    except OSError:
        pass


def _report_ready(channel: socket.socket, message: str) -> None:
    try:
        channel.send(f"ready {message}".encode())
    except OSError:
        pass  # the launcher is gone: its end of the socket is closed, which ends the server
