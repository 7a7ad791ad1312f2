"""Manage the state directory, which contains the records of runs and everything that outlives a run.

    STATE/lock                 locked briefly while records of volumes change
    STATE/run/ID/              one run: state.json, its record (sandbox/state/run_record.py)
    STATE/sandboxes/NAME/      a persistent writable layer: lock, state.json, README, upper, work
    STATE/changes/ID/          the writable layer of an ephemeral run that `up --keep-changes` kept: the same files
    STATE/volumes/NAME/        a named volume: lock, state.json, references.json, data
    STATE/layers/KEY/          an unpacked archive: lock, tree (images/layer_store.py), archive.json (images/origin.py),
                               native (images/direct_bind.py)
    STATE/filters/KEY          a compiled seccomp filter (sandbox/runtime/filters.py)

Several machines may share a state directory. Files that only one run needs are in the run directory
(sandbox/state/run_directory.py), on a local file system of its machine:

    RUN/lock                   locked briefly while directories of runs are created and swept
    RUN/run/ID/                lock, state.json (a copy of the initial record), skeleton, and an ephemeral writable layer

If no run directory can be used, these are in the state directory. The next command on the same machine removes a run that has
ended, with everything that its record names (sandbox/state/sweeping.py).
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress

from sandbox.errors import StateError
from sandbox.kernel.process import start_time
from sandbox.kernel.trees import synchronize_directory
from sandbox.plan import IdPlan, LayerRecord
from sandbox.state import locks
from sandbox.state.layer_records import damaged, ids_as_json, ids_from_json, read_record
from sandbox.state.node import this_place
from sandbox.state.removal import NEW, ReservedDescriptors, remove_directory
from sandbox.state.stack_record import RecordedLayer, RecordedStack
from sandbox.state.trusted_files import distrust, remedy
from unionfs._stdlib.typing import Any

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.plan import MountPoint

#: Subdirectories of the state directory; the docstring of this module describes each.
_PARTS = ("run", "sandboxes", "layers", "volumes", "changes")
_ATTRIBUTE = "user.sandbox.run"
"""An extended attribute that is set on the directory of a writable layer to test whether its file system supports these."""
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
_OPEN_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def examine(path: str) -> StateError | None:
    """Return why *path* cannot be the state directory, None if it can. Changes nothing."""
    path = os.path.realpath(path)
    at = path
    while not os.path.lexists(at):
        at = os.path.dirname(at)
    try:
        info = os.stat(at)
    except OSError as error:
        return _unusable(path, error)
    if not stat.S_ISDIR(info.st_mode):
        # The errno that makedirs(3) would give: EEXIST for the directory itself, ENOTDIR for one above it.
        return _unusable(path, OSError(errno.ENOTDIR if at != path else errno.EEXIST, "", at))
    if at == path and (foreign := _foreign(path, info)) is not None:
        return foreign
    if not os.access(at, os.W_OK | os.X_OK, effective_ids=True):
        missing = at != path or not all(os.path.isdir(os.path.join(path, name)) for name in _PARTS)
        return _unusable(path, OSError(errno.EACCES, "", at)) if missing else None
    return None


def _foreign(path: str, info: os.stat_result) -> StateError | None:
    """Return why the state directory *path* cannot be trusted, if it cannot."""
    if (reason := distrust(info)) is None:
        return None
    return StateError(f"state directory {path} {reason}", hint=remedy(path, reason))


def _unusable(path: str, error: OSError) -> StateError:
    reason = (error.strerror or os.strerror(error.errno or 0)).lower()
    hint = "set SANDBOX_STATE_DIR to a directory that you can write"
    return StateError(f"state directory {path}: {reason}", hint=hint)


class StateDirectory:
    """The state directory of this user, and the run directory of this machine that belongs to it.

    Owns a descriptor of the state directory until :meth:`close`.
    """

    def __init__(self, path: str, run: str | None = None) -> None:
        """Open *path*, creating it (mode 0700) if it is missing. *run* is a usable run directory, None for none.

        Raises:
            StateError: it cannot be created, belongs to another user, or other users may write to it.
        """
        self.path = os.path.realpath(path)
        #: The directory in which the directories of runs are created: the run directory, or the state directory.
        self.run_path = self.path if run is None else os.path.realpath(run)
        self._place = this_place()
        try:
            os.makedirs(self.path, mode=0o700, exist_ok=True)
            self.fd = os.open(self.path, _OPEN_DIR)
        except OSError as error:
            raise _unusable(self.path, error) from None
        info = os.fstat(self.fd)
        try:
            if (foreign := _foreign(self.path, info)) is not None:
                raise foreign
            for name in _PARTS:
                os.makedirs(os.path.join(self.path, name), mode=0o700, exist_ok=True)
            os.makedirs(os.path.join(self.run_path, "run"), mode=0o700, exist_ok=True)
        except OSError as error:
            os.close(self.fd)
            raise _unusable(self.path, error) from None
        except StateError:
            os.close(self.fd)
            raise
        self.identity = (info.st_dev, info.st_ino)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the state directory exclusively; for short operations only."""
        with _locked(self.path):
            yield

    def new_run(self, ids: IdPlan, *, name: str, uses: Mapping[str, Any] | None = None) -> RunDirectory:
        """Create the directories of a starting sandbox, locked. *uses* is part of its record (sandbox/state/run_record.py).

        They are renamed to their final names once the record is written. Before that, commands on other nodes cannot know which
        node they belong to.

        Raises:
            OSError: they cannot be created.
        """
        reserved = ReservedDescriptors(self.fd)
        try:
            with _locked(self.run_path):
                identity = f"{name}-{os.urandom(4).hex()}"
                bases = dict.fromkeys((self.run_path, self.path))
                paths = [os.path.join(base, "run", identity) for base in bases]
                new = [os.path.join(base, "run", NEW + identity) for base in bases]
                facts = {
                    **self._place.as_record(pid=os.getpid(), start=start_time(os.getpid())),
                    "name": name,
                    "run_directory": paths[0],
                    "record": paths[-1],
                    **(uses or {}),
                }
                try:
                    for path in new:
                        os.mkdir(path, 0o700)
                    run = RunDirectory(new[0], ids, records=new[-1], reserved=reserved, facts=facts)
                    run.publish(paths[0], paths[-1])
                except BaseException:
                    reserved.release()
                    for path in (*new, *paths):
                        remove_directory(path, None)
                    raise
                return run
        except BaseException:
            reserved.release()
            raise

    def persistent(
        self,
        ids: IdPlan,
        *,
        name: str,
        record: LayerRecord,
        before: LayerRecord | None,
        layers: tuple[RecordedLayer, ...] = (),
    ) -> RunDirectory:
        """Open or create the persistent directory of the sandbox *name*, locked, and record which layers it is used over.

        *before* is the record that the plan was made with. *layers* are the layers below, as they were opened.

        Raises:
            StateError: the directory is in use, its files belong to ids that this sandbox does not have, or its record cannot be
                read or has changed since.
        """
        path = os.path.join(self.path, "sandboxes", name)
        os.makedirs(path, mode=0o700, exist_ok=True)
        return RunDirectory(
            path,
            ids,
            facts=RecordedStack(writable=path, layers=layers).as_json(),
            in_use=f"sandbox {name} is running",
            resume=True,
            record=record,
            before=before,
            refuse=lambda: _used_elsewhere(self.path, name),
        )

    def kept_changes(
        self, ids: IdPlan, *, identity: str, name: str, file: str | None, layers: tuple[RecordedLayer, ...]
    ) -> RunDirectory:
        """Create the directory, locked, of a writable layer that outlives the ephemeral run *identity* of the sandbox *name*.

        *file* is its environment file, *layers* are the layers below.
        """
        path = os.path.join(self.path, "changes", identity)
        os.makedirs(path, mode=0o700)
        facts = {"name": name, "file": file, **RecordedStack(writable=path, layers=layers).as_json()}
        return RunDirectory(path, ids, facts=facts, in_use=f"{identity} is in use", resume=True)

    def open_volume(self, name: str, ids: IdPlan, *, mode: int, file: str | None = None) -> int:
        """Create the volume *name* if it is missing; return a descriptor whose shared lock marks it as in use until closed.

        Its directory ``data`` is created with *mode* and belongs to id 0 of *ids*. A later sandbox may have other ids if these
        include all ids that files in the volume may belong to. *file* is the environment file that refers to the volume, and is
        recorded.

        Raises:
            StateError: *ids* do not include these.
        """
        from sandbox.state.recorded_ids import holds_ids_of, make_owned
        from sandbox.state.references import note_reference

        path = os.path.join(self.path, "volumes", name)
        os.makedirs(path, mode=0o700, exist_ok=True)
        fd = os.open(os.path.join(path, "lock"), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            # Not under the volume's own lock: running sandboxes share it, so an exclusive lock could take forever.
            with self.locked():
                state = read_record(path)
                before = None if state is None else ids_from_json(state.get("ids"))
                if state is not None and before is None:
                    raise damaged(path)
                if before is None:
                    make_owned(os.path.join(path, "data"), ids, mode)
                elif not holds_ids_of(ids, before):
                    raise StateError(
                        f"volume {name} contains files of ids that this sandbox does not have",
                        hint=f"use the volume with its former ids, use another name, or discard it: sandbox rm volume:{name}",
                    )
                if before != ids:
                    _write_state(path, {"ids": ids_as_json(ids)}, lasting=True)
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            if not locks.has_name(fd, os.path.join(path, "lock")):
                raise BlockingIOError  # the volume was removed between the two locks
            with self.locked():  # another start may record its file at the same time
                note_reference(path, file, lock_fd=fd)
        except BlockingIOError:
            os.close(fd)
            raise StateError(f"volume {name} is being removed", hint="start the sandbox again") from None
        except BaseException:
            os.close(fd)
            raise
        return fd

    def sweep(self) -> list[str]:
        """Remove the leftovers of ended runs of this node; return the names of these runs.

        Raises:
            OSError: the directories of runs cannot be listed.
        """
        if not any(os.listdir(os.path.join(base, "run")) for base in {self.path, self.run_path}):
            return []
        from sandbox.state import sweeping  # imported only if there are runs

        with _locked(self.run_path):
            ended = sweeping.find_ended(self.path, self.run_path, self._place)
        return sweeping.sweep(ended)

    def close(self) -> None:
        """Close the descriptor of the state directory."""
        os.close(self.fd)


@contextmanager
def _locked(directory: str) -> Iterator[None]:
    """Lock the state or run directory *directory* exclusively."""
    fd = locks.take(os.path.join(directory, "lock"), wait=True)
    assert fd is not None
    try:
        yield
    finally:
        os.close(fd)


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
        reserved: ReservedDescriptors | None = None,
        record: LayerRecord | None = None,
        before: LayerRecord | None = None,
        refuse: Callable[[], StateError | None] | None = None,
    ) -> None:
        """Lock *path*. With *resume*, *path* may contain the writable layer of an earlier run.

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
            state = _read_state(path) or {}
            raise StateError(
                f"{in_use} (pid {state.get('pid', 'unknown')})",
                hint="wait for it to end, or set another sandbox.name",
            )
        self._fds = [fd]
        self._lasting = resume
        self._reserved = reserved
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
            if resume and (kept := read_record(path)) is not None:
                from sandbox.state.recorded_ids import other_ids

                if (foreign := other_ids(path, kept.get("ids"), ids)) is not None:
                    raise foreign
                if LayerRecord.read(kept) != before:
                    raise StateError(
                        f"the record of the writable layer in {path} was changed by another process",
                        hint="start the sandbox again",
                    )
            self.record({})
            if self._records != path:
                _write_state(path, self._state, lasting=False)
        except BaseException:
            self.close()
            raise

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
        _write_state(self._records, self._state, lasting=self._lasting)

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
    def layer_path(self) -> str:
        """The directory in which :meth:`subdirectory` creates the parts of the writable layer."""
        return self._layer

    def explain_layer(self) -> None:
        """Create the note beside the writable layer that says how to read it, unless it exists. Errors are ignored."""
        with suppress(OSError), open(os.path.join(self._layer, "README"), "x", encoding="utf-8") as file:
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
            for path in dict.fromkeys((self.path, self._records)):
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


def _used_elsewhere(state_directory: str, layer: str) -> StateError | None:
    """Return an error if a run uses the persistent layer *layer*, although its lock is free here; None otherwise."""
    from sandbox.state.runs import users_of

    users = users_of(state_directory, layer=layer)
    if not users:
        return None
    return StateError(
        f"the persistent layer {layer} is in use by {' and '.join(run.shown() for run in users)}",
        hint="wait for that to end, or set another sandbox.name; if its machine no longer exists, "
        f"remove {users[0].path}",
    )


def _read_state(path: str) -> dict[str, Any] | None:
    try:
        with open(os.path.join(path, "state.json"), encoding="utf-8") as file:
            state = json.load(file)
    except (OSError, ValueError):
        return None
    return state if isinstance(state, dict) else None


def _write_state(path: str, state: Mapping[str, Any], *, lasting: bool) -> None:
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
