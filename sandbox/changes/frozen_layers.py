"""Freeze the writable layer of a sandbox, running or not, and begin another one over earlier layers.

The layer is frozen by the server of a running sandbox, or else by `unionfs changes`. Both link names first from which only the
link index leads to a copy, because the index belongs to the writable layer. A running sandbox may change more hard links
meanwhile. Then the server refuses, and it is tried again.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress

from sandbox.as_container_root import chown_to_root, run_with_ids, with_own_id
from sandbox.changes.exclusive import exclusively
from sandbox.changes.reader import has_changes, output_of, state_directory
from sandbox.changes.writable_layers import WritableLayer
from sandbox.errors import SandboxError, StateError, describe_errno
from sandbox.kernel import open_paths
from sandbox.kernel.process import is_stopped
from sandbox.plan import IdPlan
from sandbox.state.control import ControlClient, ControlError, NoAnswerError, connect
from sandbox.state.earlier_layers import (
    PARTS,
    make_next,
    origins_of,
    remove_unused,
    remove_unused_of,
    settle,
)
from sandbox.state.locks import exclusively_locked
from sandbox.state.removal import remove_directory
from sandbox.state.runs import Run, list_runs
from sandbox.state.sandbox_directory import write_state
from sandbox.state.stack_record import RecordedStack
from sandbox.state.trusted_files import read_json
from unionfs._stdlib.dataclasses import replace
from unionfs.launch.protocol import MOST_PATHS, sealed_memfd

_TRIES = 10
#: Seconds before the next try.
_PAUSE = 0.05
#: The most requests to remove copies from the link index. The freeze removes the rest.
_MOST_REQUESTS = 10_000
#: The prefix of the attributes in which unionfs records facts about a layer.
_OWN_ATTRIBUTES = "user.unionfs."


def earlier_layers_after(layer: WritableLayer) -> tuple[str, ...]:
    """Return the directories of the earlier layers of *layer*, bottom first, as they are after it is frozen.

    They are those of now if there is nothing to freeze: no change since the last freeze.

    Raises:
        SandboxError: the writable layer cannot be examined.
    """
    earlier = layer.stack.earlier
    if not has_changes(layer) or (earlier and _is_unchanged(layer)):
        return earlier
    return (*earlier, layer.stack.writable)


def _is_unchanged(layer: WritableLayer) -> bool:
    """Return whether the writable layer has no entries, and its root directory has the attributes of the topmost earlier layer."""
    roots = [os.path.join(path, "upper") for path in (layer.stack.writable, layer.stack.earlier[-1])]

    def look() -> str:
        top, below = (_attributes(root) for root in roots)
        return "unchanged" if top == below and not os.listdir(roots[0]) else ""

    try:
        found = look()
    except PermissionError:
        found = run_with_ids(with_own_id(layer.ids), look)
    return found == "unchanged"


def _attributes(directory: str) -> tuple[object, ...]:
    info = os.stat(directory, follow_symlinks=False)
    names = [name for name in os.listxattr(directory) if not name.startswith(_OWN_ATTRIBUTES)]
    attributes = {name: os.getxattr(directory, name) for name in names}
    return info.st_mode, info.st_uid, info.st_gid, attributes


def freeze(layer: WritableLayer) -> None:
    """Freeze the writable layer of *layer*, which has changes. The caller has the lock of the snapshots.

    Raises:
        StateError: the sandbox runs on another machine, has ended meanwhile, or changes too many hard links.
        SandboxError: the layer cannot be frozen, for example because the disk is full. It is as before.
    """
    run = _run_of(layer)
    if run is not None and run.record is not None and run.record.run_directory is not None:
        pid = run.record.pid
        if pid is not None and is_stopped(pid):
            raise StateError(
                f"sandbox {layer.id} is suspended (ctrl-p ctrl-z)",
                hint=f"resume it with fg or bg in its shell, or: kill -CONT {pid}",
            )
        _freeze_running(layer, run.record.run_directory)
        return
    with exclusively(state_directory(), layer, "its writable layer cannot be frozen from here"):
        _freeze_ended(layer)


@contextmanager
def _next_directory(layer: WritableLayer) -> Iterator[str]:
    """Create the directory of the next writable layer, and remove it again if the layer was not frozen.

    After a request without an answer it stays, because the server may yet use it. A later command removes it.
    """
    directory = make_next(layer.path)
    try:
        yield directory
    except NoAnswerError:
        raise
    except (SandboxError, OSError):
        with suppress(SandboxError, OSError):  # the first error matters
            if settle(replace(layer.stack, next=directory), layer.ids).writable != directory:
                remove_directory(directory, layer.ids)
        raise


def _run_of(layer: WritableLayer) -> Run | None:
    """Return the run on this machine that uses *layer*; None if there is none."""
    for run in list_runs(state_directory()):
        named = run.record is not None and run.record.layer == layer.name
        if run.state == "running" and (run.id == layer.id if layer.kind == "kept" else named):
            return run
    return None


# -- a running sandbox -----------------------------------------------------------------------------------


def _freeze_running(layer: WritableLayer, run_directory: str) -> None:
    with (
        connect(run_directory, layer.id) as control,
        _next_directory(layer) as directory,
        ExitStack() as undo,
    ):
        fds = open_parts(directory, layer.ids, undo)
        for _ in range(_TRIES):
            try:
                searched = control.ask("stamp")["stamp"]
                _link(control, remaining_names(layer))
                control.ask("freeze", fds, searched=searched, directory=directory)
            except ControlError as error:
                if error.errno_name != "EBUSY":
                    raise _not_frozen(layer, error) from None
                time.sleep(_PAUSE)
            else:
                return
        raise StateError(
            f"sandbox {layer.id} changes hard links or large files all the time, and its writable layer cannot be frozen",
            hint="run the command again later, or end the sandbox first",
        )


def _not_frozen(layer: WritableLayer, error: ControlError) -> ControlError:
    """Return *error*, the answer of the server, with a hint if it helps."""
    number = getattr(errno, error.errno_name or "", 0)
    if number in (errno.EOPNOTSUPP, errno.ENOTSUP):
        error.hint = "end the sandbox first, and run the command again"
    elif number:
        # Its text may name a file of the work directory, which nobody knows.
        reason = os.strerror(number).lower()
        error.message = f"the writable layer of sandbox {layer.id} cannot be frozen: {reason}"
        error.hint = describe_errno("write", number)
    return error


def remaining_names(layer: WritableLayer) -> list[bytes]:
    """Return the paths in *layer* from which only the link index leads to a copy."""
    return output_of(layer, ["--remaining-names"]).split(b"\0")[:-1]


def _link(control: ControlClient, names: Sequence[bytes]) -> None:
    """Let the server link *names*, and remove copies from its link index, a few at a time, because programs wait meanwhile."""
    for start in range(0, len(names), MOST_PATHS):
        _link_some(control, names[start : start + MOST_PATHS])
    for _ in range(_MOST_REQUESTS):
        if not _link_some(control, ()):
            break


def _link_some(control: ControlClient, names: Sequence[bytes]) -> bool:
    """Return whether there are more copies to remove. A server of an earlier version removes none."""
    fd = sealed_memfd(b"".join(name + b"\0" for name in names))
    try:
        return bool(control.ask("link", [fd]).get("more"))
    finally:
        os.close(fd)


# -- a sandbox that is not running ----------------------------------------------------------------------


def _freeze_ended(layer: WritableLayer) -> None:
    with _next_directory(layer) as directory, ExitStack() as undo:
        planned = replace(layer.stack, next=directory)
        upper_fd, work_fd = open_parts(directory, layer.ids, undo)
        record(layer, planned)
        try:
            output_of(layer, ["--freeze"], next_fds=(upper_fd, work_fd))
        finally:
            record(layer, settle(planned, layer.ids))


def begin(layer: WritableLayer, earlier: tuple[str, ...]) -> None:
    """Give *layer*, which no sandbox uses, a new, empty writable layer over the layers *earlier*. The present one is removed.

    The caller has the locks of the layer and of the snapshots. After a kill, the old or the new layers are recorded.

    Raises:
        SandboxError: the new layer cannot be created; the old ones are as before.
    """
    directory = make_next(layer.path)
    stack = RecordedStack(writable=directory, layers=layer.stack.layers, earlier=earlier)
    make_parts(replace(layer, stack=stack))
    origins = origins_of(layer.path)
    record(layer, stack)
    remove_unused_layers(layer, origins)


def make_parts(layer: WritableLayer) -> None:
    """Create the directories of the writable layer of *layer*, if there are earlier layers. Otherwise its next start does.

    The root directory of an empty writable layer covers those below it, so it gets the attributes of the topmost one.
    """
    if not layer.stack.earlier:
        return
    with ExitStack() as undo:
        open_parts(layer.stack.writable, layer.ids, undo)
        output_of(layer, ["--begin"])


def remove_unused_layers(layer: WritableLayer, origins: Sequence[str]) -> None:
    """Remove the directories of *layer*, and those in the homes *origins*, that no record and no snapshot names any more."""
    state = state_directory()
    with exclusively_locked(state):
        remove_unused(state, layer.path, layer.ids)
    remove_unused_of(state, origins)


# -- directories and records ----------------------------------------------------------------------------


def open_parts(directory: str, ids: IdPlan, undo: ExitStack) -> tuple[int, int]:
    """Create the upper and the work directory in *directory*, which the root of *ids* owns; return O_PATH descriptors."""
    fds = []
    for part in PARTS:
        path = os.path.join(directory, part)
        os.mkdir(path, 0o700)
        fds.append(open_paths.open_real(path, directory=True))
        undo.callback(os.close, fds[-1])
    chown_to_root(ids, *fds)
    return fds[0], fds[1]


def record(layer: WritableLayer, stack: RecordedStack) -> None:
    """Write *stack* to the record of *layer*, which no sandbox uses."""
    state = read_json(os.path.join(layer.path, "state.json"))
    write_state(layer.path, {**state, **stack.as_json(layer.path)}, lasting=True)
