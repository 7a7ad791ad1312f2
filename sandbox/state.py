"""The state directory: what sandboxes leave on disk while they run, and what of it outlives them.

    STATE/lock                 held for a moment while run directories are made and swept
    STATE/run/ID/              one running sandbox: lock, state.json, skeleton, and an ephemeral writable
    layer STATE/sandboxes/NAME/      a persistent writable layer: lock, state.json, upper, work
    STATE/volumes/NAME/        a named volume: lock, state.json, data
    STATE/layers/KEY/          an unpacked archive: lock, tree (image/store.py), archive.json (image/origin.py), native (image/native.py)
    STATE/filters/KEY          a compiled filter of system calls (sandbox/runtime/filters.py)

A lock is flock(2) on a file, held by the supervisor alone: it is gone with the process however that ends. A
run directory whose lock is free belongs to a sandbox that is no more, and the next command removes it with
everything it names (:meth:`StateDirectory.sweep`).
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

from sandbox.errors import SandboxError, StateError
from sandbox.keeping import distrust, remedy
from sandbox.kept import damaged, ids_as_json, ids_from_json, read_record
from sandbox.kernel import cgroups
from sandbox.kernel.idmaps import covers
from sandbox.kernel.process import end_rooted, start_time
from sandbox.kernel.trees import remove_contents, synchronize_directory
from sandbox.plan import IdPlan, LayerRecord
from sandbox.records import dataclass, replace
from sandbox.typed import Any, Self
from sandbox.userns import run_with_ids, with_own_id

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.plan import MountPoint

#: What the state directory holds; the docstring of this module says what each is for.
_PARTS = ("run", "sandboxes", "layers", "volumes")
_TO_REMOVE = 3
"""Descriptors that :func:`remove_directory` has open at once."""
_OPEN_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def examine(path: str) -> StateError | None:
    """Return why the state could not be kept in *path*, None where it could; makes and changes nothing."""
    path = os.path.realpath(path)
    at = path
    while not os.path.lexists(at):
        at = os.path.dirname(at)
    try:
        info = os.stat(at)
    except OSError as error:
        return _unusable(path, error)
    if not stat.S_ISDIR(info.st_mode):
        # makedirs(3) would say EEXIST of the directory itself, and ENOTDIR of one above it.
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
    hint = "set SANDBOX_STATE_DIR to a directory of yours that can be written"
    return StateError(f"state directory {path}: {reason}", hint=hint)


class StateDirectory:
    """The state directory of this user."""

    def __init__(self, path: str) -> None:
        """Open *path*, making it (mode 0700) where it is missing.

        Raises:
            StateError: it cannot be made, is somebody else's, or others may write to it.
        """
        self.path = os.path.realpath(path)
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
        except OSError as error:
            os.close(self.fd)
            raise _unusable(self.path, error) from None
        except StateError:
            os.close(self.fd)
            raise
        self.identity = (info.st_dev, info.st_ino)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock of the directory; for moments only."""
        fd = _lock(os.path.join(self.path, "lock"), wait=True)
        assert fd is not None
        try:
            yield
        finally:
            os.close(fd)

    def new_run(self, ids: IdPlan, *, name: str) -> RunDirectory:
        """Make the directory of a sandbox that starts now, locked."""
        aside = SetAside(self.fd)
        try:
            with self.locked():
                path = os.path.join(self.path, "run", f"{name}-{os.urandom(4).hex()}")
                os.mkdir(path, 0o700)
                try:
                    return RunDirectory(path, ids, aside=aside)
                except BaseException:
                    aside.give_back()
                    remove_directory(path, None)
                    raise
        except BaseException:
            aside.give_back()
            raise

    def persistent(
        self, ids: IdPlan, *, name: str, record: LayerRecord, before: LayerRecord | None
    ) -> RunDirectory:
        """Open, or make, the persistent directory of the sandbox *name*, locked, and record what it is used over.

        *before* is the record that the plan was made with.

        Raises:
            StateError: it is in use, its files belong to other ids than this sandbox has, its record cannot be read, or
                another one is there by now.
        """
        path = os.path.join(self.path, "sandboxes", name)
        os.makedirs(path, mode=0o700, exist_ok=True)
        return RunDirectory(
            path,
            ids,
            in_use=f"sandbox {name} is running",
            resume=True,
            record=record,
            before=before,
        )

    def keep_volume(self, name: str, ids: IdPlan, *, mode: int) -> int:
        """Make the volume *name* unless it is there; returns a descriptor that says it is in use (a shared lock) until closed.

        Its directory ``data`` is made with *mode* and belongs to id 0 of *ids*. Who comes later may have other ids, if these
        hold all that files in it may belong to.

        Raises:
            StateError: they do not.
        """
        path = os.path.join(self.path, "volumes", name)
        os.makedirs(path, mode=0o700, exist_ok=True)
        fd = os.open(os.path.join(path, "lock"), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            # One lock for all changes of this kind, since one that is shared cannot be waited for.
            with self.locked():
                state = read_record(path)
                before = None if state is None else ids_from_json(state.get("ids"))
                if state is not None and before is None:
                    raise damaged(path)
                if before is None:
                    _make_owned(os.path.join(path, "data"), ids, mode)
                elif not _holds_ids_of(ids, before):
                    raise StateError(
                        f"volume {name} has files of ids that this sandbox does not have",
                        hint=f"use it with the ids of before, another name, or remove {path} to begin anew",
                    )
                if before != ids:
                    _write_state(path, {"ids": ids_as_json(ids)}, lasting=True)
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            raise StateError(f"volume {name} is being removed", hint="start the sandbox again") from None
        except BaseException:
            os.close(fd)
            raise
        return fd

    def sweep(self) -> list[str]:
        """Remove what sandboxes that are no more have left; returns the names of the run directories
        concerned.
        """
        swept = []
        base = os.path.join(self.path, "run")
        with self.locked():
            stale = [(path, fd) for path in _paths_in(base) if (fd := _lock_stale(path)) is not None]
        for path, fd in stale:
            try:
                state = _read_state(path) or {}
                if isinstance(state.get("root"), str):
                    end_rooted(state["root"])
                if cgroups.remove_stale([str(entry) for entry in state.get("cgroups", [])]):
                    continue  # the directory is what tells the next command of them
                remove_directory(path, ids_from_json(state.get("ids")))
                swept.append(os.path.basename(path))
            except (SandboxError, OSError):
                pass  # what cannot be removed now is found again by the next command
            finally:
                if fd >= 0:
                    os.close(fd)
        return swept

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self.fd)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningSandbox:
    """A sandbox that runs now."""

    name: str
    supervisor: int
    #: Kinds of namespaces that are its own, and the descriptor of the supervisor's that holds each.
    namespaces: Mapping[str, int]

    def namespace(self, kind: str) -> str:
        """Return where its namespace of *kind* can be opened.

        Raises:
            StateError: it has none of its own.
        """
        if kind not in self.namespaces:
            raise StateError(
                f"sandbox {self.name} has no {kind} namespace of its own",
                hint="join what it joins, or give it one: see its namespaces",
            )
        return f"/proc/{self.supervisor}/fd/{self.namespaces[kind]}"


def find_running(state_directory: str, name: str) -> RunningSandbox:
    """Find the running sandbox *name*; nothing is locked or changed.

    Its supervisor holds its namespaces open for as long as it lives, and recorded when it was started: a process with its
    pid that was started at another time is another one. What is opened by the path that this gives is compared with what
    was planned for, so a supervisor that ends in between is found out, too.

    Raises:
        StateError: there is none, or more than one.
    """
    base = os.path.join(state_directory, "run")
    found = []
    try:
        paths = _paths_in(base)
    except OSError:
        paths = []
    for path in paths:
        if os.path.basename(path)[:-9] != name or (state := _read_state(path)) is None:
            continue
        pid, start, held = state.get("pid"), state.get("start"), state.get("namespaces")
        if isinstance(pid, int) and isinstance(held, dict) and start is not None and start == start_time(pid):
            numbers = {kind: fd for kind, fd in held.items() if isinstance(fd, int)}
            found.append(RunningSandbox(name=name, supervisor=pid, namespaces=numbers))
    if not found:
        raise StateError(
            f"no sandbox {name} is running", hint=f"start it first: a file with sandbox.name = {name}"
        )
    if len(found) > 1:
        pids = " and ".join(str(item.supervisor) for item in found)
        raise StateError(
            f"{len(found)} sandboxes {name} are running (pids {pids})", hint="give each its own sandbox.name"
        )
    return found[0]


class SetAside:
    """Descriptors for :func:`remove_directory`: what could not be finished for want of them is to be removed still."""

    def __init__(self, fd: int) -> None:
        """Hold as many as it takes at once, copies of *fd*.

        Raises:
            OSError: there are fewer.
        """
        self._fds: list[int] = []
        try:
            for _ in range(_TO_REMOVE):
                self._fds.append(os.dup(fd))
        except OSError:
            self.give_back()
            raise

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Give them back."""
        self.give_back()

    def give_back(self) -> None:
        """Close them, once."""
        while self._fds:
            os.close(self._fds.pop())


class RunDirectory:
    """The directory of one sandbox, locked for as long as this object is open."""

    def __init__(
        self,
        path: str,
        ids: IdPlan,
        *,
        in_use: str = "",
        resume: bool = False,
        aside: SetAside | None = None,
        record: LayerRecord | None = None,
        before: LayerRecord | None = None,
    ) -> None:
        """Lock *path*; with *resume* it may hold a writable layer from before. *aside* is given back to remove it.

        *record* is what the layer is used over from now on, *before* what it is expected to say now.

        Raises:
            StateError: *in_use*, if somebody else holds the lock; or what is there belongs to other ids, or has another record.
        """
        self.path = path
        self._ids = ids
        fd = _lock(os.path.join(path, "lock"), wait=False)
        if fd is None:
            state = _read_state(path) or {}
            raise StateError(
                f"{in_use} (pid {state.get('pid', 'unknown')})",
                hint="wait for it to end, or give another sandbox.name",
            )
        self._lock_fd = fd
        self._lasting = resume
        self._aside = aside
        #: Directories that were made and are to be given to the sandbox's root (:func:`sandbox.userns.give_to_root`).
        self.unowned: list[int] = []
        self._state: dict[str, Any] = {"pid": os.getpid(), "ids": ids_as_json(ids)}
        if record is not None:
            self._state |= record.as_json()
        try:
            if resume and (kept := read_record(path)) is not None:
                if (foreign := _other_ids(path, kept.get("ids"), ids)) is not None:
                    raise foreign
                if LayerRecord.read(kept) != before:
                    raise StateError(
                        f"the record of the writable layer in {path} has changed meanwhile",
                        hint="start the sandbox again",
                    )
            self.record({"start": start_time(os.getpid())})
        except BaseException:
            self.close()
            raise

    def record(self, facts: Mapping[str, Any]) -> None:
        """Add *facts* to the state on disk, replacing the file as a whole."""
        self._state.update(facts)
        _write_state(self.path, self._state, lasting=self._lasting)

    def subdirectory(self, name: str, *, mode: int = 0o755) -> int:
        """Make the directory *name* for files of the sandbox, whose root will own it, unless it exists; returns a
        descriptor.
        """
        path = os.path.join(self.path, name)
        try:
            os.mkdir(path, 0o700)
            os.chmod(path, mode)
        except FileExistsError:
            pass
        fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            # An empty one of ours may be what an earlier start made and was killed at.
            if os.fstat(fd).st_uid == os.geteuid() and not os.listdir(path):
                self.unowned.append(fd)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def skeleton(self, points: tuple[MountPoint, ...]) -> int:
        """Make the generated layer that holds the mount points and nothing else; returns a descriptor."""
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
        if os.geteuid() != 0:  # else nobody inside is its owner, whom the server shows as root
            self.unowned.append(fd)
        return fd

    def remove(self) -> None:
        """Remove the directory with everything in it, and let go of the lock."""
        self._give_back()
        try:
            remove_directory(self.path, self._ids)
        finally:
            self.close()

    def close(self) -> None:
        """Let go of the lock."""
        self._give_back()
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    def _give_back(self) -> None:
        if self._aside is not None:
            self._aside.give_back()


def _make_directory(path: str) -> None:
    try:
        os.mkdir(path)
        os.chmod(path, 0o755)
    except FileExistsError:
        pass


def _paths_in(base: str) -> list[str]:
    with os.scandir(base) as entries:
        return [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]


def _lock(path: str, *, wait: bool) -> int | None:
    """Lock the file *path* for this process; None if another one has it."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        os.close(fd)
        return None
    except BaseException:  # ENOLCK, or a signal that ends the start
        os.close(fd)
        raise
    return fd


def _lock_stale(directory: str) -> int | None:
    """Lock a run directory that nobody has any more; -1 where it has no lock, None if it is in use.

    The caller holds the lock of the state directory, under which run directories are made: one without a lock of its own
    was never finished, or is being removed, which two may do at once. A lock that we made would be in the other's way.
    """
    try:
        fd = os.open(os.path.join(directory, "lock"), os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return -1
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    except BaseException:
        os.close(fd)
        raise
    return fd


def _read_state(path: str) -> dict[str, Any] | None:
    try:
        with open(os.path.join(path, "state.json"), encoding="utf-8") as file:
            state = json.load(file)
    except (OSError, ValueError):
        return None
    return state if isinstance(state, dict) else None


def _write_state(path: str, state: Mapping[str, Any], *, lasting: bool) -> None:
    """Replace the state of the directory *path* as a whole.

    What is *lasting* is on the disk before and after the rename: a machine that stops finds the old state or the new one. What ends
    with the sandbox is not worth the milliseconds that a start would wait for the disk: after a reboot its lock is free, and it
    is swept whatever its state says.
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
        with suppress(OSError):  # as on a full disk; the directory may be one that is kept
            os.unlink(temporary)
        if error.filename is None:  # fsync(2) and write(2) name no file
            error.filename = temporary
        raise
    if lasting:
        synchronize_directory(path)


def _make_owned(path: str, ids: IdPlan, mode: int) -> None:
    """Make the directory *path* with *mode*, belonging to id 0 of *ids*; one that a start left half-way is taken on."""
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        pass
    fd = os.open(path, _OPEN_DIR)
    try:
        uid, gid = ids.root
        if os.geteuid() == 0:
            os.chown(fd, uid, gid)
            os.chmod(fd, mode)
        elif (uid, gid) == (os.geteuid(), os.getegid()):
            os.chmod(fd, mode)
        else:
            run_with_ids(with_own_id(ids), lambda: _own(fd, mode))
    finally:
        os.close(fd)


def _own(fd: int, mode: int) -> None:
    os.chown(fd, 0, 0)
    os.chmod(fd, mode)


def _holds_ids_of(ids: IdPlan, others: IdPlan) -> bool:
    """Tell whether every id of the host that *others* map is one that *ids* map, whatever it is called inside."""
    return all(
        covers([replace(entry, inside=entry.outside) for entry in own], other)
        for own, other in ((ids.uid_map, others.uid_map), (ids.gid_map, others.gid_map))
    )


def _other_ids(path: str, recorded: Any, ids: IdPlan) -> StateError | None:
    """Return why what was made under the *recorded* ids is not for a sandbox with *ids*; None where it is."""
    before = ids_from_json(recorded)
    if before is not None and (before.uid_map, before.gid_map) == (ids.uid_map, ids.gid_map):
        return None
    made = "an unknown one" if before is None else _in_words(before)
    return StateError(
        f"the writable layer in {path} was made under another id map: {made}, not {_in_words(ids)}",
        hint="give it the ids that it had, or a new sandbox.name; or remove the directory to begin anew",
    )


def _in_words(ids: IdPlan) -> str:
    """Return the lines of both maps, the one of groups where it differs: "0 1000 1, 1 100000 65535"."""
    users, groups = (", ".join(map(str, id_map)) for id_map in (ids.uid_map, ids.gid_map))
    return users if users == groups else f"{users} (groups {groups})"


def remove_directory(path: str, ids: IdPlan | None) -> None:
    """Remove *path* and everything in it; as root of *ids* where entries belong to subordinate ids."""
    try:
        fd = os.open(path, _OPEN_DIR)
    except FileNotFoundError:
        return
    try:
        try:
            remove_contents(fd)
        except OSError as error:
            if ids is None or error.errno not in (errno.EACCES, errno.EPERM):
                raise StateError(
                    f"cannot remove {path}: {error.strerror}", hint="remove it by hand"
                ) from None
            run_with_ids(with_own_id(ids), lambda: remove_contents(fd))
    finally:
        os.close(fd)
    try:
        os.rmdir(path)
    except OSError as error:
        # A sandbox that ends and a command that sweeps may be at it at once.
        if error.errno not in (errno.ENOENT, errno.ENOTEMPTY):
            raise
