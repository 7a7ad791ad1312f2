"""The directory of one sandbox: its record, its lock, its skeleton, and the parts of its writable layer.

:class:`sandbox.state.directory.StateDirectory` creates a :class:`RunDirectory` for each run, for a persistent layer and for a
kept ephemeral one. The runtime removes or closes it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

from sandbox.errors import StateError
from sandbox.kernel.process import is_alive, start_time
from sandbox.kernel.trees import synchronize_directory
from sandbox.plan import IdPlan, LayerRecord
from sandbox.state import locks
from sandbox.state.layer_records import ids_as_json, read_record
from sandbox.state.removal import ReservedDescriptors, remove_directory
from sandbox.state.stack_record import LATER, RecordedLayer, RecordedStack
from unionfs._stdlib.dataclasses import replace
from unionfs._stdlib.typing import Any

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.plan import MountPoint

_ATTRIBUTE = "user.sandbox.run"
"""An extended attribute that is set on the directory of a writable layer to test whether its file system supports these."""
_KILLED = "killed"
_NOTE = """\
This directory is the writable layer of a sandbox. Do not copy files from it.

The directory "upper" has only a part of the changes, in a form that only the
sandbox can read: a file may be empty although it has contents, a moved
directory may be empty, and other names of a changed file are missing.
A copy loses data without an error. Use these commands instead:

    sandbox diff NAME                   show what changed
    sandbox export NAME PATH... DEST    copy files out of the sandbox
    sandbox apply NAME                  write the changes to the layer below
    sandbox discard NAME                remove the changes

NAME is the name of the sandbox, or that of this directory.
"""


def announce_kill(path: str) -> None:
    """Note in *path*, the directory of a run in the run directory, that the caller is going to kill the sandbox.

    So the supervisor can say who has done it.

    Raises:
        OSError: the note cannot be written.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    os.close(os.open(os.path.join(path, _KILLED), flags, 0o600))


class RunDirectory:
    """The directory of one sandbox and that of its record. Owns the lock until :meth:`close` or :meth:`remove`."""

    def __init__(
        self,
        path: str,
        ids: IdPlan,
        *,
        records: str | None = None,
        facts: Mapping[str, Any] | None = None,
        in_use: str = "",
        resume: bool = False,
        layers: tuple[RecordedLayer, ...] | None = None,
        reserved: ReservedDescriptors | None = None,
        record: LayerRecord | None = None,
        before: LayerRecord | None = None,
        refuse: Callable[[], StateError | None] | None = None,
    ) -> None:
        """Lock *path*. With *resume*, *path* may contain the writable layer of an earlier run, and earlier layers.

        *layers* are the layers below that it is used over now; None: those of its record.

        *records* is the directory of the record, *path* if None. The record begins with *facts*, and *path* receives a copy of
        that beginning. *record* is the new record of the writable layer (its file and the layers below it); *before* is the
        expected one. *refuse* is called under the lock, and returns an error if the directory may not be used. *reserved* is
        released before the directories are removed.

        Raises:
            StateError: *in_use*, if another process has the lock; or the directory belongs to other ids, or has another record.
        """
        self.path = path
        self._records = path if records is None else records
        self._ids = ids
        fd = locks.take(os.path.join(path, "lock"), wait=False)
        if fd is None:
            raise _in_use(in_use, _read_state(path) or {})
        self._fds = [fd]
        self._lasting = resume
        #: Whether the record outlives the run.
        self._retired = False
        self._reserved = reserved
        #: The writable layer and those below, if they are recorded here.
        self.stack: RecordedStack | None = None
        #: The directory in which the writable layer is created.
        self._layer = path
        #: Created directories that the sandbox's root must own (:func:`sandbox.as_container_root.chown_to_root`).
        self.unowned: list[int] = []
        self._state: dict[str, Any] = {
            **(facts or {}),
            "pid": os.getpid(),
            "start": start_time(os.getpid()),
            "ids": ids_as_json(ids),
        }
        if record is not None:
            self._state |= record.as_json()
        try:
            if refuse is not None and (refused := refuse()) is not None:
                raise refused
            kept = read_record(path) if resume else None
            if kept is not None:
                self._check(kept, before)
            if resume:
                self._take_stack(kept, layers)
            self.record({})
            if self._records != path:
                write_state(path, self._state, lasting=False)
        except BaseException:
            self.close()
            raise

    def _check(self, kept: dict[str, Any], before: LayerRecord | None) -> None:
        """Raise StateError if *kept*, the record of an earlier run, is about other ids, or is not *before*."""
        from sandbox.state.recorded_ids import other_ids

        if (foreign := other_ids(self.path, kept.get("ids"), self._ids)) is not None:
            raise foreign
        if LayerRecord.read(kept) != before:
            raise StateError(
                f"the record of the writable layer in {self.path} was changed by another process",
                hint="start the sandbox again",
            )

    def _take_stack(self, kept: dict[str, Any] | None, layers: tuple[RecordedLayer, ...] | None) -> None:
        """Continue with the writable layer that *kept* names, over *layers*."""
        stack = RecordedStack.read(kept, self.path)
        if stack is not None and stack.next is not None:
            from sandbox.state.earlier_layers import settle

            stack = settle(stack, self._ids)
        if stack is None and layers is not None:
            stack = RecordedStack(writable=self.path, layers=layers)
        if stack is None:
            return
        self.note_stack(stack if layers is None else replace(stack, layers=layers))
        self._layer = stack.writable

    def note_stack(self, stack: RecordedStack) -> None:
        """Set :attr:`stack`; the next :meth:`record` writes it."""
        self.stack = stack
        self.note(stack.as_json(self.path))

    def publish(self, path: str, records: str) -> None:
        """Rename the directories of a run to their final names: to *path*, and that of the record to *records*.

        Raises:
            OSError: one could not be renamed; the lock is released.
        """
        try:
            separate = self._records != self.path
            os.rename(self.path, path)
            if separate:
                self._fds.append(locks.keep_from_ageing(path))
                os.rename(self._records, records)
        except BaseException:
            self.close()
            raise
        self.path, self._records, self._layer = path, records, path
        if separate and not _has_attributes(path) and _has_attributes(records):
            self._layer = records

    def note(self, facts: Mapping[str, Any]) -> None:
        """Add *facts* to the record; the next :meth:`record` writes them."""
        self._state.update(facts)

    def record(self, facts: Mapping[str, Any]) -> None:
        """Add *facts* to the record, and replace its file atomically."""
        self.note(facts)
        write_state(self._records, self._state, lasting=self._lasting)

    def subdirectory(self, name: str, *, mode: int = 0o755) -> int:
        """Create the directory *name*, which the sandbox's root will own, if it is missing; return an O_PATH descriptor."""
        path = os.path.join(self._layer, name)
        try:
            os.mkdir(path, 0o700)
            os.chmod(path, mode)
        except FileExistsError:
            pass
        fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            # If it is empty and belongs to this user, an earlier start may have been killed before it changed the owner.
            if os.fstat(fd).st_uid == os.geteuid() and not os.listdir(path):
                self.unowned.append(fd)
        except BaseException:
            os.close(fd)
            raise
        return fd

    @property
    def is_killed(self) -> bool:
        """Whether a command has announced that it kills the sandbox (`announce_kill`)."""
        return os.path.lexists(os.path.join(self.path, _KILLED))

    @property
    def record_path(self) -> str:
        """The directory of the record."""
        return self._records

    def retire(self, *, status: int, reason: str) -> None:
        """Keep the record, with the exit status and why the sandbox ended, when the run is removed.

        Nothing is done where the record is not in a directory of its own. A full disk changes nothing: the record then seems
        to be that of a sandbox whose supervisor was killed.
        """
        if self._records == self.path:
            return
        with suppress(OSError):
            self.record({"phase": "exited", "since": time.time(), "status": status, "reason": reason})
            self._retired = True

    @property
    def layer_path(self) -> str:
        """The directory in which :meth:`subdirectory` creates the parts of the writable layer."""
        return self._layer

    @property
    def later_path(self) -> str:
        """The directory of later writable layers."""
        return os.path.join(self.path, LATER)

    def later(self) -> int:
        """Create the directory for later writable layers, if it is missing; return an O_PATH descriptor."""
        with suppress(FileExistsError):
            os.mkdir(self.later_path, 0o700)
        return os.open(self.later_path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)

    def explain_layer(self) -> None:
        """Create the note beside the writable layer that says how to read it, unless it exists. Errors are ignored."""
        with suppress(OSError), open(os.path.join(self.path, "README"), "x", encoding="utf-8") as file:
            file.write(_NOTE)

    def skeleton(self, points: tuple[MountPoint, ...]) -> int:
        """Create the generated layer, which contains only mount points; return an O_PATH descriptor."""
        top = os.path.join(self.path, "skeleton")
        _make_directory(top)
        for point in points:
            at = top
            parts = point.path.strip("/").split("/")
            for part in parts[:-1]:
                at = os.path.join(at, part)
                _make_directory(at)
            last = os.path.join(at, parts[-1])
            if point.is_directory:
                _make_directory(last)
            elif not os.path.lexists(last):
                with open(last, "xb"):
                    os.chmod(last, 0o644)
        fd = os.open(top, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        # Real root's id is not mapped in the sandbox, so the server shows it as the sandbox's root anyway.
        if os.geteuid() != 0:
            self.unowned.append(fd)
        return fd

    def remove(self) -> None:
        """Remove the directories with their content, that of the record last, and release the lock."""
        self._release_reserved()
        try:
            for path in dict.fromkeys((self.path, *(() if self._retired else (self._records,)))):
                remove_directory(path, self._ids)
        finally:
            self.close()

    def close(self) -> None:
        """Release the lock."""
        self._release_reserved()
        while self._fds:
            os.close(self._fds.pop())

    def _release_reserved(self) -> None:
        if self._reserved is not None:
            self._reserved.release()


def _in_use(message: str, state: Mapping[str, Any]) -> StateError:
    """Return the error about a locked directory with the record *state*; *message* says what uses it if that is a sandbox."""
    pid, start = state.get("pid"), state.get("start")
    if isinstance(pid, int) and isinstance(start, int) and is_alive(pid, start):
        return StateError(
            f"{message} (pid {pid})", hint="wait for it to end, or set another sandbox.name, or fork it"
        )
    return StateError(f"{message}, or a command is changing its layers", hint="run the command again")


def _make_directory(path: str) -> None:
    try:
        os.mkdir(path)
        os.chmod(path, 0o755)
    except FileExistsError:
        pass


def _has_attributes(path: str) -> bool:
    """Return whether the file system of the directory *path* supports user extended attributes.

    Without them no directory of a layer can be renamed.
    """
    try:
        os.setxattr(path, _ATTRIBUTE, b"1")
    except OSError:
        return False
    return True


def _read_state(path: str) -> dict[str, Any] | None:
    try:
        with open(os.path.join(path, "state.json"), encoding="utf-8") as file:
            state = json.load(file)
    except (OSError, ValueError):
        return None
    return state if isinstance(state, dict) else None


def write_state(path: str, state: Mapping[str, Any], *, lasting: bool) -> None:
    """Replace the record of the directory *path* atomically.

    With *lasting*, fsync(2) the file before the rename and the directory after it: after a crash, the old or the new record
    exists. A record that ends with the sandbox does not justify the milliseconds of fsync(2): after a reboot its lock is free,
    and the run is swept whatever its record contains.
    """
    temporary = os.path.join(path, "state.json.new")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump(state, file)
            if lasting:
                file.flush()
                os.fsync(file.fileno())
        os.rename(temporary, os.path.join(path, "state.json"))
    except OSError as error:
        with suppress(OSError):  # for example on a full disk, in a directory that persists
            os.unlink(temporary)
        if error.filename is None:  # fsync(2) and write(2) set no file name
            error.filename = temporary
        raise
    if lasting:
        synchronize_directory(path)
