"""Manage the state directory, which contains the records of runs and everything that outlives a run.

    STATE/lock                 locked briefly while records of volumes change
    STATE/run/ID/              one run: state.json, its record (sandbox/state/run_record.py)
    STATE/sandboxes/NAME/      a persistent writable layer: lock, state.json, README, upper, work
    STATE/changes/ID/          the writable layer of an ephemeral run that `up --keep-changes` kept: the same files
    STATE/volumes/NAME/        a named volume: lock, state.json, references.json, data
    STATE/filters/KEY          a compiled seccomp filter (sandbox/runtime/filters.py)

Several machines may share a state directory. Files that only one run needs are in the run directory
(sandbox/state/run_directory.py), on a local file system of its machine:

    RUN/lock                   locked briefly while directories of runs are created and swept
    RUN/run/ID/                lock, state.json (a copy of the initial record), skeleton, and an ephemeral writable layer

Images and unpacked layers are in the image directory (sandbox/images/__init__.py).

If no run directory can be used, these are in the state directory. The next command on the same machine removes a run that has
ended, with everything that its record names (sandbox/state/sweeping.py).
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from sandbox.errors import StateError
from sandbox.kernel.process import start_time
from sandbox.plan import IdPlan, LayerRecord
from sandbox.state import locks
from sandbox.state.layer_records import damaged, ids_as_json, ids_from_json, read_record
from sandbox.state.node import this_place
from sandbox.state.removal import NEW, ReservedDescriptors, remove_directory
from sandbox.state.sandbox_directory import RunDirectory, write_state
from sandbox.state.stack_record import RecordedLayer
from sandbox.state.trusted_files import distrust, remedy
from unionfs._stdlib.typing import Any

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    pass

#: Subdirectories of the state directory; the docstring of this module describes each.
_PARTS = ("run", "sandboxes", "volumes", "changes")
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


def make_image_directory(path: str) -> None:
    """Create the image directory *path* (mode 0700) if it is missing.

    Raises:
        StateError: it cannot be created, belongs to another user, or other users may write to it.
    """
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
    except OSError as error:
        raise _unusable_images(path, f": {(error.strerror or str(error)).lower()}") from None
    check_image_directory(path)


def check_image_directory(path: str) -> None:
    """Refuse the image directory *path*, if it exists and another user may have written to it.

    Raises:
        StateError: it belongs to another user, other users may write to it, or it cannot be examined.
    """
    try:
        reason = distrust(os.stat(path))
    except FileNotFoundError:
        return
    except OSError as error:
        raise _unusable_images(path, f": {(error.strerror or str(error)).lower()}") from None
    if reason is not None:
        raise _unusable_images(path, f" {reason}")


def _unusable_images(path: str, reason: str) -> StateError:
    return StateError(f"image directory {path}{reason}", hint="set SANDBOX_CACHE_DIR to a directory of yours")


def _unusable(path: str, error: OSError) -> StateError:
    reason = (error.strerror or os.strerror(error.errno or 0)).lower()
    hint = "set SANDBOX_STATE_DIR to a directory that you can write"
    return StateError(f"state directory {path}: {reason}", hint=hint)


class StateDirectory:
    """The state directory of this user, and the run directory of this machine that belongs to it.

    Owns a descriptor of the state directory until :meth:`close`.
    """

    def __init__(self, path: str, run: str | None = None, images: str | None = None) -> None:
        """Open *path*, creating it (mode 0700) if it is missing. *run* is a usable run directory, None for none.

        *images* is the image directory, which is created likewise; None for `images` in the state directory.

        Raises:
            StateError: one cannot be created, belongs to another user, or other users may write to it.
        """
        self.path = os.path.realpath(path)
        #: The image directory.
        self.images = os.path.join(self.path, "images") if images is None else os.path.realpath(images)
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
            make_image_directory(self.images)
            if os.path.isdir(os.path.join(self.path, "layers")):  # of a version that kept archives there
                from sandbox.state.migration import move_archives

                move_archives(self.path, self.images)
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
        with locks.exclusively_locked(self.path):
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
            with locks.exclusively_locked(self.run_path):
                identity = f"{name}-{os.urandom(4).hex()}"
                bases = dict.fromkeys((self.run_path, self.path))
                paths = [os.path.join(base, "run", identity) for base in bases]
                new = [os.path.join(base, "run", NEW + identity) for base in bases]
                facts = {
                    **self._place.as_record(pid=os.getpid(), start=start_time(os.getpid())),
                    "name": name,
                    "began": time.time(),
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
            layers=layers,
            in_use=f"sandbox {name} is running",
            resume=True,
            record=record,
            before=before,
            refuse=lambda: _used_elsewhere(self.path, name),
        )

    def kept_changes(
        self,
        ids: IdPlan,
        *,
        identity: str,
        name: str,
        record: LayerRecord,
        layers: tuple[RecordedLayer, ...],
    ) -> RunDirectory:
        """Create the directory, locked, of a writable layer that outlives the ephemeral run *identity* of the sandbox *name*.

        *record* names its environment file and the layers below, *layers* are these as they were opened.
        """
        path = os.path.join(self.path, "changes", identity)
        os.makedirs(path, mode=0o700)
        return RunDirectory(
            path,
            ids,
            facts={"name": name},
            layers=layers,
            in_use=f"{identity} is in use",
            resume=True,
            record=record,
        )

    def open_volume(self, name: str, ids: IdPlan, *, mode: int, file: str | None = None) -> int:
        """Create the volume *name* if it is missing; return a descriptor whose shared lock marks it as in use until closed.

        Its directory ``data`` is created with *mode* and belongs to id 0 of *ids*. A later sandbox may have other ids if these
        include all ids that files in the volume may belong to. *file* is the environment file that refers to the volume, and is
        recorded.

        Raises:
            StateError: *ids* do not include these.
        """
        from sandbox.state.recorded_ids import contains_ids_of, make_owned
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
                elif not contains_ids_of(ids, before):
                    raise StateError(
                        f"volume {name} contains files of ids that this sandbox does not have",
                        hint=f"use the volume with its former ids, use another name, or discard it: sandbox rm volume:{name}",
                    )
                if before != ids:
                    write_state(path, {"ids": ids_as_json(ids)}, lasting=True)
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

        with locks.exclusively_locked(self.run_path):
            ended = sweeping.find_ended(self.path, self.run_path, self._place)
        return sweeping.sweep(ended, keep=True)

    def close(self) -> None:
        """Close the descriptor of the state directory."""
        os.close(self.fd)


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
