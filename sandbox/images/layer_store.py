"""Unpack each archive once for each id map into a layer of the layer store, which all sandboxes share that name the archive.

A layer's key consists of the real path, device, inode, size and modification time of its archive, and of the id map, because
owners on disk depend on it. An archive with another key but unchanged content keeps its layer (sandbox/images/origin.py). A
layer is built in a temporary directory and renamed into place, so every layer in the store is complete.

Each process that uses a layer keeps a shared lock on it. After an import, layers of older versions of the same archive are
removed if no process has their lock. They are removed as root of the id map that they were made with.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
from contextlib import AbstractContextManager, ExitStack, suppress

from sandbox.as_container_root import chown_to_root, run_with_ids
from sandbox.errors import ImageError, SandboxError, SetupError
from sandbox.kernel.files import NotRegularError, open_regular
from sandbox.kernel.trees import synchronize_file_system
from sandbox.plan import IdPlan
from sandbox.state.directory import StateDirectory
from sandbox.state.file_digests import sha256_of
from sandbox.state.layer_records import ids_as_json, ids_from_json
from sandbox.state.locks import claim, probe
from sandbox.state.node import this_place
from sandbox.state.removal import ReservedDescriptors, remove_directory
from sandbox.state.trusted_files import read_json
from unionfs._stdlib.dataclasses import dataclass
from unionfs._stdlib.hashlib import sha256

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox.images.origin import Origin
    from sandbox.images.reading import Progress

_OPEN_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_PATH = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_SWAPPED = "another process has just replaced it or a directory above it: start again, or move it to a directory that only you can write to"
_FORMAT = (
    1  # incremented when unpacking changes, so that layers of older versions of the launcher are not used
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredLayer:
    """A layer of the store in use: its tree, and the shared lock that prevents its removal.

    :meth:`LayerStore.open_archive` creates it, and the caller closes it.
    """

    #: The directory of the layer in the store.
    place: str
    tree_fd: int
    lock_fd: int
    #: The directory in which the file system server may store a layer index; None if the layer was made without one.
    index_fd: int | None = None
    #: Messages about objects that were not unpacked; empty unless this call has made the layer.
    notices: tuple[str, ...] = ()

    def content(self) -> str:
        """Return the SHA-256 of the archive's content in hexadecimal digits; "" if it is not recorded."""
        origin = _read_origin(self.place)
        return "" if origin is None else origin.sha256

    def close(self) -> None:
        """Close the descriptors, which releases the lock."""
        os.close(self.tree_fd)
        os.close(self.lock_fd)
        if self.index_fd is not None:
            os.close(self.index_fd)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Key:
    """The key of a layer: digests of the path of its archive, of the archive's stat(2) fields, and of the id maps."""

    source: str
    archive: str
    ids: str

    @property
    def name(self) -> str:
        """The directory name of a new layer with this key."""
        return f"{self.source}-{self.archive}-{self.ids}"


class LayerStore:
    """The unpacked archives of one image directory."""

    def __init__(self, state: StateDirectory, progress: Callable[[], Progress] | None = None) -> None:
        """Use the image directory of *state*; *progress* creates the receiver of progress reports for each archive that is read."""
        self._state = state.path
        self._base = archives_in(state.images)
        self._progress = progress

    def open_archive(
        self,
        path: str,
        ids: IdPlan,
        identity: tuple[int, int] | None = None,
        *,
        file: str | None = None,
    ) -> StoredLayer:
        """Return the layer of the archive *path*, an absolute path without symbolic links; unpack it first if necessary.

        *identity* is the device and inode that were found at *path* when the plan was made; another file is refused. *file*
        is the environment file that refers to the archive; this reference is recorded.

        Raises:
            ImageError: the archive cannot be read or is damaged, or its identity is another.
            SandboxError: the archive cannot be unpacked under *ids*.
        """
        from sandbox.state.references import note_reference  # only starts with an archive need it

        archive_fd = _open_archive_file(path, identity)
        try:
            info = os.fstat(archive_fd)
            key = _Key(
                source=digest_of_path(path),
                archive=digest_of_archive(info),
                ids=_digest([list(map(str, ids.uid_map)), list(map(str, ids.gid_map))]),
            )
            layer = self._find(key) or self._import(key, archive_fd, path, ids)
            note_reference(layer.place, file, lock_fd=layer.lock_fd, archive=path)
            return layer
        finally:
            os.close(archive_fd)

    def _find(self, key: _Key) -> StoredLayer | None:
        """Open the layer of *key*; return None if no layer has this key, or has recorded it as known."""
        if (layer := self._open(key.name)) is not None:
            return layer
        for name in self._names(key.source):
            if name.endswith(f"-{key.ids}"):
                origin = _read_origin(os.path.join(self._base, name))
                if origin is not None and key.archive in origin.known and (layer := self._open(name)):
                    return layer
        return None

    def _find_equal(self, key: _Key, archive_fd: int, path: str) -> StoredLayer | None:
        """Open the layer of the same path whose archive had the same content, and record the new key; None if there is none."""
        from sandbox.images.origin import write_origin

        size = os.fstat(archive_fd).st_size
        places = [
            os.path.join(self._base, name) for name in self._names(key.source) if name.endswith(key.ids)
        ]
        found = [
            (place, origin) for place in places if (origin := _read_origin(place)) and origin.size == size
        ]
        if not found:
            return None
        with self._following("compare", path, archive_fd) as meanwhile:
            digest = sha256_of(archive_fd, meanwhile)
        os.lseek(archive_fd, 0, os.SEEK_SET)
        for place, origin in found:
            if origin.sha256 == digest and (layer := self._open(os.path.basename(place))):
                with suppress(OSError):  # for example on a full disk; the next start then compares again
                    write_origin(place, origin.with_key(key.archive))
                return layer
        return None

    def _names(self, source: str) -> list[str]:
        """Return the names of all complete layers of the archive *source*."""
        try:
            names = os.listdir(self._base)
        except FileNotFoundError:
            return []
        return [name for name in names if name.startswith(f"{source}-") and not name.endswith(".new")]

    def _following(self, action: str, path: str, fd: int) -> AbstractContextManager[Callable[[], None]]:
        from sandbox.images.reading import NoProgress, followed

        return followed(NoProgress() if self._progress is None else self._progress(), action, path, fd)

    def _open(self, name: str, notices: tuple[str, ...] = ()) -> StoredLayer | None:
        place = os.path.join(self._base, name)
        with ExitStack() as undo:

            def open_part(part: str, flags: int) -> int | None:
                try:
                    fd = os.open(os.path.join(place, part), flags)
                except FileNotFoundError:
                    return None
                undo.callback(os.close, fd)
                return fd

            lock_fd = open_part("lock", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            if lock_fd is None:
                return None
            fcntl.flock(lock_fd, fcntl.LOCK_SH)
            tree_fd = open_part("tree", _OPEN_PATH)
            if tree_fd is None:  # the layer was removed between open and flock
                return None
            index_fd = open_part("index", _OPEN_PATH)
            undo.pop_all()
        return StoredLayer(place=place, tree_fd=tree_fd, lock_fd=lock_fd, index_fd=index_fd, notices=notices)

    def _import(self, key: _Key, archive_fd: int, path: str, ids: IdPlan) -> StoredLayer:
        from sandbox.images.import_lock import import_lock, sweep

        os.makedirs(self._base, mode=0o700, exist_ok=True)
        # If another process is importing the same archive, wait for its lock, then find the layer that it made.
        with import_lock(self._base, key.source) as lock:
            made = self._find(key) or self._find_equal(key, archive_fd, path)
            if made is not None:
                return made
            building = self._building(key.source)
            self._discard(building)
            with ReservedDescriptors(lock) as reserved:
                try:
                    notices = self._build(building, key, archive_fd, path, ids)
                    if not self._publish(building, key.name):
                        reserved.release()
                        self._discard(building)
                except BaseException:
                    reserved.release()
                    with suppress(OSError, SandboxError):  # the next import discards it first
                        self._discard(building)
                    raise
            self._remove_older(key, path)
            layer = self._open(key.name, notices)
            assert layer is not None
        sweep(self._base, lambda source: self._discard(self._building(source)))
        return layer

    def _building(self, source: str) -> str:
        # On a network file system, flock(2) may not work between nodes, so each node builds in its own directory.
        return os.path.join(self._base, f"{source}-{_own_node()}.new")

    def _build(self, building: str, key: _Key, archive_fd: int, path: str, ids: IdPlan) -> tuple[str, ...]:
        os.mkdir(building, 0o700)
        tree = os.path.join(building, "tree")
        os.mkdir(tree, 0o755)
        os.chmod(tree, 0o755)
        with open(os.path.join(building, "ids"), "x", encoding="utf-8") as record:
            json.dump(ids_as_json(ids), record)
        with open(os.path.join(building, "lock"), "xb"):
            pass
        os.mkdir(os.path.join(building, "index"), 0o700)
        tree_fd = os.open(tree, _OPEN_DIR)
        index_fd = -1
        try:
            index_fd = os.open(os.path.join(building, "index"), _OPEN_DIR)
            chown_to_root(ids, tree_fd, index_fd)
            digest, _, lines = self._unpack(archive_fd, path, tree_fd, ids).partition("\n")
            if digest:
                from sandbox.images.origin import Origin, write_origin

                size = os.fstat(archive_fd).st_size
                write_origin(building, Origin(size=size, sha256=digest, known=(key.archive,)))
            # The rename that publishes the layer may reach the disk before the layer's content: after a power failure, the
            # layer would have empty files. If only the rename is lost, the layer is made again.
            try:
                synchronize_file_system(index_fd)
            except OSError as error:
                raise SetupError.from_os_error(f"layer tar:{path}", "write to the disk", error) from None
        finally:
            os.close(tree_fd)
            if index_fd >= 0:
                os.close(index_fd)
        return tuple(lines.splitlines())

    def _unpack(self, archive_fd: int, path: str, tree_fd: int, ids: IdPlan) -> str:
        """Unpack the archive in a child process that is root of a user namespace and has a memory limit.

        Return the digest of the archive ("" if there is none) on the first line, and a notice on each further line.
        """
        # Import here, and open the archive, which imports the module for its compression: the child process may be unable to
        # read this Python's files.
        from sandbox.images.bounded import unpack_bounded
        from sandbox.images.reading import DigestedFile
        from sandbox.images.root_archive import RootArchive
        from sandbox.images.tar import open_archive

        with ExitStack() as undo:
            file = DigestedFile(undo.enter_context(open(archive_fd, "rb", closefd=False)))
            archive = RootArchive(undo.enter_context(open_archive(file, path)))

            def action() -> str:
                report = unpack_bounded(archive, tree_fd, single_id=ids.single)
                return f"{file.finish()}\n" + "".join(f"{path}: {notice}\n" for notice in report.notices())

            return run_with_ids(ids, action, undo.enter_context(self._following("unpack", path, archive_fd)))

    def _publish(self, building: str, name: str) -> bool:
        """Rename the layer to *name*; return False if another node has created a layer of that name meanwhile."""
        try:
            os.rename(building, os.path.join(self._base, name))
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            return False
        return True

    def _remove_older(self, key: _Key, path: str) -> None:
        from sandbox.state.runs import users_of

        if users_of(self._state, archive=path):
            return  # a user may be on another node, whose lock may not be visible here
        own = _read_origin(os.path.join(self._base, key.name))
        for name in self._names(key.source):
            place = os.path.join(self._base, name)
            if name.startswith(f"{key.source}-{key.archive}-"):
                continue
            origin = _read_origin(place)
            if own is not None and origin is not None and origin.sha256 == own.sha256:
                continue  # the same archive under other ids
            try:
                lock_fd = os.open(os.path.join(place, "lock"), os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            except OSError:
                continue
            try:
                fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._discard(place)
            except BlockingIOError:
                pass  # in use
            except SandboxError:
                pass  # this account no longer has the layer's ids; the sandbox can start all the same
            finally:
                os.close(lock_fd)

    def _discard(self, place: str) -> None:
        remove_directory(place, ids_of_layer(place))


def ids_of_layer(place: str) -> IdPlan | None:
    """Return the ids under which the layer in the directory *place* was unpacked; None if they are not recorded."""
    try:
        return ids_from_json(read_json(os.path.join(place, "ids")))
    except (OSError, ValueError):
        return None


def archives_in(images: str) -> str:
    """Return the directory of the unpacked archives in the image directory *images*."""
    return os.path.join(images, "archives")


def interrupted_imports(images: str) -> list[str]:
    """Return the directories that interrupted imports of this node have left in the image directory *images*."""
    base = archives_in(images)
    try:
        names = sorted(name for name in os.listdir(base) if name.endswith(".new"))
    except OSError:
        return []
    found = []
    for name in names:
        source, dash, node = name.removesuffix(".new").partition("-")
        if (not dash or node == _own_node()) and probe(os.path.join(base, f"{source}.importing")) != "held":
            found.append(os.path.join(base, name))
    return found


def remove_interrupted_imports(images: str) -> list[str]:
    """Remove the directories that interrupted imports of this node have left in *images*, and return the removed paths.

    Raises:
        SandboxError: a directory cannot be removed.
    """
    gone = []
    for place in interrupted_imports(images):
        source = os.path.basename(place).removesuffix(".new").partition("-")[0]
        lock, fd = claim(os.path.join(os.path.dirname(place), f"{source}.importing"))
        try:
            if lock != "held":
                remove_directory(place, ids_of_layer(place))
                gone.append(place)
        finally:
            if fd >= 0:
                os.close(fd)
    return gone


def _own_node() -> str:
    return _digest(repr(this_place().node))


def _read_origin(place: str) -> Origin | None:
    from sandbox.images.origin import read_origin  # not needed for an unchanged archive

    return read_origin(place)


def _open_archive_file(path: str, identity: tuple[int, int] | None) -> int:
    try:
        fd = open_regular(path, links=False)
    except NotRegularError:
        raise ImageError(f"{path}: is not a regular file", hint=_SWAPPED) from None
    except OSError as error:
        hint = None
        if error.errno == errno.ELOOP:
            hint = _SWAPPED
        elif error.errno == errno.EAGAIN:
            hint = "another process has a lease on the file (fcntl(2), F_SETLEASE): try again"
        raise ImageError(f"{path}: {(error.strerror or str(error)).lower()}", hint=hint) from None
    info = os.fstat(fd)
    if identity is not None and (info.st_dev, info.st_ino) != identity:
        os.close(fd)
        raise ImageError(f"{path}: was replaced by another file after the plan was made", hint=_SWAPPED)
    return fd


def digest_of_path(path: str) -> str:
    """Return the first part of the layer key of an archive at *path*, an absolute path without symbolic links."""
    return _digest(path)


def digest_of_archive(info: os.stat_result) -> str:
    """Return the second part of the layer key of an archive whose stat(2) result is *info*."""
    return _digest([_FORMAT, info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns])


def _digest(facts: object) -> str:
    return sha256(json.dumps(facts).encode()).hexdigest()[:16]
