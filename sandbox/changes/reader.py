"""Run `unionfs changes` on a writable layer, and receive what it prints. It alone interprets the layer.

The process runs in the user namespace of the sandbox's ids, in which the owners of all files are mapped, and confines itself
before it reads anything (unionfs/changes/command.py). What it sends is checked, because a layer may have been made to deceive it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress

from sandbox.as_container_root import start_with_ids
from sandbox.changes.rows import Change, parse
from sandbox.changes.writable_layers import WritableLayer, find
from sandbox.errors import SandboxError, SetupError, StateError, describe_errno
from sandbox.host import private_directories
from sandbox.images.chunked.fetching import Fetching
from sandbox.images.mounted_archives import open_recorded
from sandbox.images.mounted_layers import IndexedFds, open_recorded_layer
from sandbox.images.places import archives_in, layers_in
from sandbox.kernel import open_paths
from sandbox.plan import IdPlan
from sandbox.state import run_directory
from sandbox.state.earlier_layers import relocation_of, settle
from sandbox.state.location import default_path, locate
from sandbox.state.stack_record import RecordedLayer
from unionfs._stdlib.dataclasses import replace
from unionfs.launch.protocol import ServedLayer, ServedStack, send_request

_STEP = "the changes of a layer"
#: The child's descriptors beside 0, 1 and 2: the socket of the request, and the list of paths.
_REQUEST, _PATHS = 3, 4


def state_directory() -> str:
    """Return the path of the state directory."""
    return os.path.realpath(default_path(os.environ, os.geteuid()))


def read_changes(
    argument: str, paths: Sequence[str] = (), *, facts: bool = False, text: bool = False
) -> list[Change]:
    """Return the changes at and below *paths* (all, if there are none) of the layer that *argument* selects.

    *facts* and *text* add what `unionfs changes --facts` and `--text` do.

    Raises:
        StateError: there is no such layer.
        SandboxError: it cannot be read.
    """
    return changes_of(find(state_directory(), argument), paths, facts=facts, text=text)


def changes_of(
    layer: WritableLayer, paths: Sequence[str] = (), *, facts: bool = False, text: bool = False
) -> list[Change]:
    """Return the changes of *layer*. Arguments and errors are those of :func:`read_changes`."""
    if not has_changes(layer):
        return []
    options = ["--json", *(["--facts"] if facts else []), *(["--text"] if text else [])]
    return parse(line for line in output_of(layer, options, paths).split(b"\n") if line)


def has_changes(layer: WritableLayer) -> bool:
    """Return whether *layer* exists on disk: it was not discarded, or has been used since."""
    return os.path.isdir(os.path.join(settle(layer.stack, layer.ids).writable, "upper"))


def output_of(
    layer: WritableLayer,
    options: Sequence[str],
    paths: Sequence[str] = (),
    *,
    next_fds: tuple[int, int] | None = None,
) -> bytes:
    """Run `unionfs changes` to its end, and return all that it prints. Arguments are those of :func:`start`.

    Raises:
        SandboxError: it cannot be started, or it failed, with its message.
    """
    with ExitStack() as undo:
        process = start(layer, options, paths, undo, next_fds=next_fds)
        with open(process.output_fd, "rb", closefd=False) as file:
            output = file.read()
        process.finish()
    return output


class Process:
    """A running `unionfs changes`. :func:`start` creates it and registers its end."""

    def __init__(self, pid: int, output_fd: int, errors_fd: int) -> None:
        """Take over the descriptors: the reading end of its standard output, and a memfd with its standard error."""
        self._pid = pid
        self.output_fd = output_fd
        self._errors_fd = errors_fd

    def finish(self) -> None:
        """Wait for its end.

        Raises:
            SandboxError: it failed, with its message.
        """
        pid, self._pid = self._pid, 0
        _, status = os.waitpid(pid, 0)
        if status != 0:
            os.lseek(self._errors_fd, 0, os.SEEK_SET)
            said = os.read(self._errors_fd, 1 << 16).decode(errors="surrogateescape").strip()
            reason = said.rpartition("\n")[2].removeprefix("unionfs: ")
            hint = None if reason else "run again with --debug"
            if reason.endswith(os.strerror(errno.ENOSPC)):
                hint = describe_errno("write", errno.ENOSPC)
            raise SandboxError(f"{_STEP}: {reason or 'it ended unexpectedly'}", hint=hint)

    @contextmanager
    def explaining(self) -> Iterator[None]:
        """Wait for the end of the process after the body of the ``with`` statement, which reads its output.

        Raises:
            SandboxError: the process failed, which may be why the body did.
        """
        try:
            yield
        except SandboxError:
            self._finish_if_ended()
            raise
        self.finish()

    def _finish_if_ended(self) -> None:
        """Raise the error of the process if it has failed already, or is about to."""
        with open(self.output_fd, "rb", closefd=False) as rest:
            if rest.read(1) == b"":
                self.finish()

    def end(self) -> None:
        """Kill the process if it still runs, and close the descriptors."""
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
            self._pid = 0
        os.close(self.output_fd)
        os.close(self._errors_fd)


def start(
    layer: WritableLayer,
    options: Sequence[str],
    paths: Sequence[str],
    undo: ExitStack,
    *,
    next_fds: tuple[int, int] | None = None,
) -> Process:
    """Start `unionfs changes` with *options* for *paths* of *layer*; *undo* ends it.

    *next_fds* are the directories of the next writable layer, for --freeze.

    Raises:
        SandboxError: a layer cannot be opened, or the process cannot be started.
    """
    with ExitStack() as opened:
        try:
            stack = replace(open_layers(layer, opened, lasting=undo), next_fds=next_fds)
            namespace_fd = opened.enter_context(user_namespace(layer.ids))
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            opened.enter_context(ours)
            opened.enter_context(theirs)
            process = _spawn(options, paths, theirs, undo)
            theirs.close()
            with suppress(BrokenPipeError, ConnectionResetError):  # its end is reported by finish()
                send_request(ours, None, namespace_fd, stack, None)
        except OSError as error:
            raise SetupError.from_os_error(_STEP, "start", error) from None
    return process


def _spawn(options: Sequence[str], paths: Sequence[str], request: socket.socket, undo: ExitStack) -> Process:
    with ExitStack() as done:

        def opened(fd: int) -> int:
            done.callback(os.close, fd)
            return fd

        null = opened(os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC))
        wanted = opened(_memfd(b"".join(os.fsencode(path) + b"\0" for path in paths)))
        listed = [f"--paths-fd={_PATHS}"] if paths else []  # an empty list would select nothing
        errors = os.memfd_create("errors", os.MFD_CLOEXEC)
        reader, writer = os.pipe()
        opened(writer)
        command = [sys.executable, "-P", "-m", "unionfs", "changes", f"--request-fd={_REQUEST}"]
        # Descriptors are moved out of the way first: one of them may have the number of another's target.
        moved = [
            opened(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10))
            for fd in (null, writer, errors, request.fileno(), wanted)
        ]
        try:
            pid = os.posix_spawn(
                sys.executable,
                [*command, *listed, *options],
                os.environ,
                file_actions=[(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(moved)],
            )
        except BaseException:
            os.close(errors)
            os.close(reader)
            raise
    process = Process(pid, reader, errors)
    undo.callback(process.end)
    return process


def _memfd(content: bytes) -> int:
    fd = os.memfd_create("paths", os.MFD_CLOEXEC)
    with open(fd, "wb", closefd=False) as file:
        file.write(content)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


@contextmanager
def user_namespace(ids: IdPlan) -> Iterator[int]:
    """Give a descriptor of a user namespace with the maps of *ids*.

    Raises:
        SandboxError: it cannot be created.
    """
    child = start_with_ids(ids, _wait_for_end)
    try:
        fd = os.open(f"/proc/{child.pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        child.end()
    try:
        yield fd
    finally:
        os.close(fd)


def _wait_for_end() -> None:
    select.select([], [], [])


# -- layers ------------------------------------------------------------------------------------------


def open_layers(layer: WritableLayer, undo: ExitStack, *, lasting: ExitStack) -> ServedStack:
    """Open *layer* and the layers below it, as a start does; *undo* closes them. *lasting* ends the process that fetches them.

    Raises:
        StateError: an unpacked archive is no longer in the store.
        OSError: a directory cannot be opened.
    """

    def directory(path: str) -> int:
        fd = open_paths.open_real(path, directory=True)
        undo.callback(os.close, fd)
        return fd

    where = locate(os.environ, os.geteuid())
    stack = settle(layer.stack, layer.ids)
    fetching = Fetching(where.images, lambda _: None)
    undo.callback(fetching.close)
    layers = [_open_layer(one, where.images, directory, undo, fetching) for one in stack.layers]
    relocation = relocation_of(stack.earlier)
    layers += [
        ServedLayer(
            fd=directory(os.path.join(path, "upper")),
            work_fd=directory(os.path.join(path, "work")),
            marks="all",
            squash=False,
            earlier=True,
            relocation=path == relocation,
        )
        for path in (*([] if relocation is None else [relocation]), *stack.earlier)
    ]
    facts = private_directories.look(
        state=where.state,
        images=where.images,
        run=run_directory.default_path(os.environ, os.geteuid()),
        usual_run=run_directory.default_path({}, os.geteuid()),
    )
    return ServedStack(
        layers=layers[::-1],
        upper_fd=directory(os.path.join(stack.writable, "upper")),
        work_fd=directory(os.path.join(stack.writable, "work")),
        hidden=[found.identity for found in facts.directories if found.identity is not None],
        volatile=True,
        server="auto",
        open_requests=True,
        fetcher_fd=fetching.start(lasting),
    )


def _open_layer(
    layer: RecordedLayer,
    images: str,
    directory: Callable[[str], int],
    undo: ExitStack,
    fetching: Fetching,
) -> ServedLayer:
    if layer.kind == "dir":
        fd = open_paths.open_real(layer.path, directory=True)
        undo.callback(os.close, fd)
        return ServedLayer(fd=fd, marks="none", squash=True, cross=layer.cross)
    base = layers_in(images) if layer.kind == "image" else archives_in(images)
    place = os.path.join(base, layer.place or "")
    try:
        lock_fd = os.open(os.path.join(place, "lock"), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        undo.callback(os.close, lock_fd)
        fcntl.flock(lock_fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        if layer.mounted:
            fds = (
                open_recorded_layer(images, place)
                if layer.kind == "image"
                else IndexedFds(*open_recorded(place, layer.path), None)
            )
            for each in fds:
                if each is not None:
                    undo.callback(os.close, each)
            fetched = 0 if fds.chunks_fd is None else fetching.add(layer.lazy, place, fds.chunks_fd)
            return ServedLayer(
                fd=fds.archive_fd,
                archive_index_fd=fds.members_fd,
                chunks_fd=fds.chunks_fd,
                fetched=fetched,
                marks="none",
                squash=False,
            )
        return ServedLayer(fd=directory(os.path.join(place, "tree")), marks="aufs", squash=False)
    except (FileNotFoundError, BlockingIOError):
        raise StateError(
            f"the {'archive' if layer.mounted else 'unpacked layer'} {layer.shown()}, which is below the writable layer, has been removed",
            hint="start the sandbox once, which indexes it again"
            if layer.mounted
            else "start the sandbox once, which unpacks it again",
        ) from None
