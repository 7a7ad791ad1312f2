"""Run a function as id 0 of a sandbox's user namespace, the only place where files of subordinate ids can be created and
removed.
"""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack

from sandbox.errors import SandboxError, SetupError, printable
from sandbox.kernel import idmaps, namespaces, process
from unionfs._stdlib import dataclasses

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.plan import IdPlan

#: Separates the message from the hint in the error text of the child; no printable text contains it.
_HINT_SEPARATOR = "\0"


_PERIOD = 200
"""Milliseconds between two calls of *meanwhile* while a child runs."""


class Child:
    """A child that is id 0 of a user namespace. :func:`start_with_ids` creates it; call :meth:`wait` or :meth:`end` once."""

    def __init__(self, pid: int, result_fd: int, mapped: SandboxError | None) -> None:
        """Take over *result_fd*. *mapped* is why the id maps could not be written; the child then ends by itself."""
        self.pid = pid
        self._result_fd = result_fd
        self._mapped = mapped

    def wait(self, meanwhile: Callable[[], None] | None = None) -> str:
        """Wait for the end of the child; return the text that its action returned. *meanwhile* is called five times a second.

        Raises:
            SandboxError: the namespace could not be created, or the action raised; with the message and hint of that error.
        """
        try:
            if meanwhile is not None:
                poll = select.poll()
                poll.register(self._result_fd)
                while not poll.poll(_PERIOD):
                    meanwhile()
            with open(self._result_fd, "rb", closefd=False) as output:
                result = output.read().decode(errors="surrogateescape")
        except BaseException:
            self.end()
            raise
        status = self._reap()
        if self._mapped is not None:
            raise self._mapped
        if status != 0:
            message, _, hint = result.partition(_HINT_SEPARATOR)
            raise SandboxError(message or "a helper process ended without a result", hint=hint or None)
        return result

    def end(self) -> None:
        """Kill the child, whose result is no longer needed, and reap it."""
        os.kill(self.pid, signal.SIGKILL)
        self._reap()

    def _reap(self) -> int:
        os.close(self._result_fd)
        _, status = os.waitpid(self.pid, 0)
        return status


def run_with_ids(
    ids: IdPlan, action: Callable[[], str | None], meanwhile: Callable[[], None] | None = None
) -> str:
    """Run *action* in a child that is id 0 of a new user namespace with the maps of *ids*; return the text that it returns.

    Until the child ends, *meanwhile* is called in this process five times a second.

    Raises:
        SandboxError: the namespace could not be created, or *action* raised; with the message and hint of that error.
    """
    return start_with_ids(ids, action).wait(meanwhile)


def start_with_ids(ids: IdPlan, action: Callable[[], str | None]) -> Child:
    """Start *action* in a child that is id 0 of a new user namespace with the maps of *ids*.

    The action may execute a program. The child's descriptors are then those without close-on-exec.
    """
    with ExitStack() as undo:

        def pipe() -> tuple[int, int]:
            reader, writer = os.pipe()
            opened.update((reader, writer))
            return reader, writer

        def close(*fds: int) -> None:
            for fd in fds:
                opened.discard(fd)
                os.close(fd)

        opened: set[int] = set()
        undo.callback(lambda: close(*opened))
        ready_reader, ready_writer = pipe()
        go_reader, go_writer = pipe()
        result_reader, result_writer = pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            closing = (ready_reader, go_writer, result_reader)
            _child(action, ready_writer, go_reader, result_writer, closing=closing)
        try:
            close(ready_writer, go_reader, result_writer)
            mapped = _map(pid, ids, ready_reader)
            if mapped is None:
                os.write(go_writer, b"go")
            close(go_writer)
        except BaseException:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise
        opened.discard(result_reader)
        return Child(pid, result_reader, mapped)


def access_of_root(ids: IdPlan, paths: Sequence[str]) -> Mapping[str, str]:
    """Return for each of *paths* how id 0 of *ids* may open it: "rw", "r", "w" or "". Return {} if that cannot be tested.

    As in a sandbox, the child keeps the host groups that it cannot drop. The paths are not opened, because opening a device
    may have side effects.
    """
    if not paths:
        return {}
    try:
        output = run_with_ids(ids, lambda: _try_access(ids, paths))
    except SandboxError:
        return {}
    return dict(zip(paths, output.split("\n"), strict=True))


def _try_access(ids: IdPlan, paths: Sequence[str]) -> str:
    if ids.setgroups:
        os.setgroups([])
    modes = (("r", os.R_OK), ("w", os.W_OK))
    return "\n".join(
        "".join(name for name, mode in modes if os.access(path, mode, effective_ids=True)) for path in paths
    )


def with_own_id(ids: IdPlan) -> IdPlan:
    """Return *ids* with the own id of this process added at a free number, which gives access to its own directories."""

    def added(id_map: tuple[idmaps.IdMap, ...], own: int) -> tuple[idmaps.IdMap, ...]:
        if any(entry.outside <= own < entry.outside + entry.count for entry in id_map):
            return id_map
        free = max(entry.inside + entry.count for entry in id_map)
        return (*id_map, idmaps.IdMap(inside=free, outside=own, count=1))

    return dataclasses.replace(
        ids, uid_map=added(ids.uid_map, os.geteuid()), gid_map=added(ids.gid_map, os.getegid())
    )


def chown_to_root(ids: IdPlan, *fds: int) -> None:
    """Change the owner of the trees at *fds* (O_PATH suffices) to user and group 0 of *ids*.

    Raises:
        SandboxError: the namespace in which that is allowed could not be created.
        OSError: real root was refused.
    """
    uid, gid = ids.root
    foreign = [fd for fd in fds if (info := os.fstat(fd)).st_uid != uid or info.st_gid != gid]
    if not foreign:
        return
    if os.geteuid() == 0:
        _change_owner(foreign, uid, gid)
    else:
        run_with_ids(with_own_id(ids), lambda: _change_owner(foreign, 0, 0))


def _change_owner(fds: list[int], uid: int, gid: int) -> None:
    for fd in fds:
        top = f"/proc/self/fd/{fd}"
        os.chown(top, uid, gid)
        for directory, names, others in os.walk(f"{top}/"):
            for name in (*names, *others):
                os.chown(os.path.join(directory, name), uid, gid, follow_symlinks=False)


def _map(pid: int, ids: IdPlan, ready_reader: int) -> SandboxError | None:
    if not os.read(ready_reader, 1):
        return None  # the child could not unshare: it sends the reason as its result
    newuidmap, newgidmap = ids.helpers or (None, None)
    try:
        idmaps.write_maps(pid, ids.uid_map, ids.gid_map, newuidmap=newuidmap, newgidmap=newgidmap)
    except OSError as error:
        return SetupError.from_os_error("id maps", "newuidmap" if ids.helpers else "write uid_map", error)
    return None


def _child(
    action: Callable[[], str | None],
    ready_writer: int,
    go_reader: int,
    result_writer: int,
    *,
    closing: tuple[int, ...],
) -> None:
    status = 1
    try:
        for fd in closing:
            os.close(fd)
        namespaces.unshare(["user"])
        os.write(ready_writer, b"1")
        os.close(ready_writer)
        if os.read(go_reader, 2) == b"go":
            os.setresgid(0, 0, 0)
            os.setresuid(0, 0, 0)
            os.umask(0)
            # Not earlier: a change of ids clears this setting. If the parent had died before, read() would have returned b"".
            process.set_parent_death_signal()
            text, status = action() or "", 0
            os.write(result_writer, text.encode(errors="surrogateescape"))
    except SandboxError as error:
        output = printable(error.message) + (f"{_HINT_SEPARATOR}{error.hint}" if error.hint else "")
        os.write(result_writer, output.encode(errors="surrogateescape"))
    except OSError as error:
        where = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
        os.write(result_writer, f"{where}{error.strerror or error}".encode(errors="surrogateescape"))
    except BaseException as error:  # noqa: BLE001 - a forked child must not continue in the code of its parent
        os.write(result_writer, repr(error).encode(errors="surrogateescape"))
    finally:
        os._exit(status)
