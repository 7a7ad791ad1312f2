"""Unpack each archive once for each id map into a layer of the layer store, which all sandboxes share that name the archive.

A layer's key consists of the real path, device, inode, size and modification time of its archive, and of the id map, because
owners on disk depend on it. An archive with another key but unchanged content keeps its layer (sandbox/images/origin.py).

After an import, layers of older versions of the same archive are
removed if no process has their lock. They are removed as root of the id map that they were made with.
"""

from __future__ import annotations

import errno
import os
from contextlib import AbstractContextManager, ExitStack, suppress

from sandbox.as_container_root import run_with_ids
from sandbox.errors import ImageError, SandboxError
from sandbox.images.places import archives_in
from sandbox.images.unpacked_trees import StoredLayer, UnpackedTrees, digest
from sandbox.kernel.files import NotRegularError, open_regular
from sandbox.plan import IdPlan
from sandbox.state.directory import StateDirectory
from sandbox.state.file_digests import sha256_of
from unionfs._stdlib.dataclasses import dataclass

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox.images.origin import Origin
    from sandbox.images.reading import Progress

_SWAPPED = "another process has just replaced it or a directory above it: start again, or move it to a directory that only you can write to"
_FORMAT = (
    1  # incremented when unpacking changes, so that layers of older versions of the launcher are not used
)


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
        self.trees = UnpackedTrees(archives_in(state.images))
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
                ids=self._ids_key(ids),
            )
            layer = self._find(key, archive_fd) or self._import(key, archive_fd, path, ids)
            note_reference(layer.place, file, lock_fd=layer.lock_fd, archive=path)
            return layer
        finally:
            os.close(archive_fd)

    def _ids_key(self, ids: IdPlan) -> str:
        """Return the part of the key for *ids*, and for what this store makes of an archive."""
        return key_of_ids_for(ids)

    def _opened(self, name: str, archive_fd: int, notices: tuple[str, ...] = ()) -> StoredLayer | None:  # noqa: ARG002 - subclasses use it
        """Open the layer *name* of the archive *archive_fd*; return None if there is none that can be used."""
        return self.trees.open(name, notices)

    def _find(self, key: _Key, archive_fd: int) -> StoredLayer | None:
        """Open the layer of *key*; return None if no layer has this key, or has recorded it as known."""
        if (layer := self._opened(key.name, archive_fd)) is not None:
            return layer
        for name in self.trees.names(f"{key.source}-"):
            if name.endswith(f"-{key.ids}"):
                origin = _read_origin(os.path.join(self.trees.base, name))
                if origin is None or key.archive not in origin.known:
                    continue
                if (layer := self._opened(name, archive_fd)) is not None:
                    return layer
        return None

    def _find_equal(self, key: _Key, archive_fd: int, path: str) -> StoredLayer | None:
        """Open the layer of the same path whose archive had the same content, and record the new key; None if there is none."""
        from sandbox.images.origin import write_origin

        size = os.fstat(archive_fd).st_size
        places = [
            os.path.join(self.trees.base, name)
            for name in self.trees.names(f"{key.source}-")
            if name.endswith(key.ids)
        ]
        found = [
            (place, origin) for place in places if (origin := _read_origin(place)) and origin.size == size
        ]
        if not found:
            return None
        with self._following("compare", path, archive_fd) as meanwhile:
            content = sha256_of(archive_fd, meanwhile)
        os.lseek(archive_fd, 0, os.SEEK_SET)
        for place, origin in found:
            name = os.path.basename(place)
            if origin.sha256 == content and (layer := self._opened(name, archive_fd)):
                with suppress(OSError):  # for example on a full disk; the next start then compares again
                    write_origin(place, origin.with_key(key.archive))
                return layer
        return None

    def _following(self, action: str, path: str, fd: int) -> AbstractContextManager[Callable[[], None]]:
        from sandbox.images.reading import NoProgress, followed

        return followed(NoProgress() if self._progress is None else self._progress(), action, path, fd)

    def _import(self, key: _Key, archive_fd: int, path: str, ids: IdPlan) -> StoredLayer:
        notices: list[str] = []

        def fill(building: str, tree_fd: int) -> str:
            content, lines = self._fill(archive_fd, path, building, tree_fd, ids)
            notices.extend(lines)
            if content:
                from sandbox.images.origin import Origin, write_origin

                size = os.fstat(archive_fd).st_size
                write_origin(building, Origin(size=size, sha256=content, known=(key.archive,)))
            return key.name

        with self.trees.importing(key.source) as lock:
            made = self._find(key, archive_fd) or self._find_equal(key, archive_fd, path)
            if made is not None:
                return made
            self.trees.make(key.source, ids, fill, lock=lock, step=f"layer tar:{path}")
            self._remove_older(key, path)
            layer = self._opened(key.name, archive_fd, tuple(notices))
            if layer is None:
                raise ImageError(
                    f"{path}: its layer in the store is damaged, and another sandbox uses it",
                    hint="end the other sandbox, and start again",
                )
        return layer

    def _fill(
        self,
        archive_fd: int,
        path: str,
        building: str,  # noqa: ARG002 - subclasses use it
        tree_fd: int,
        ids: IdPlan,
    ) -> tuple[str, list[str]]:
        """Unpack the archive in a child process that is root of a user namespace and has a memory limit.

        Return the digest of the archive ("" if there is none), and the notices.
        """
        # Import here, and open the archive, which imports the module for its compression: the child process may be unable to
        # read this Python's files.
        from sandbox.images.bounded import unpack_bounded
        from sandbox.images.layer_stream import LayerStream
        from sandbox.images.root_archive import RootArchive

        with ExitStack() as undo:
            file = undo.enter_context(open(archive_fd, "rb", closefd=False))
            layer = undo.enter_context(LayerStream(file, path))
            archive = RootArchive(undo.enter_context(layer.open_archive()))

            def action() -> str:
                report = unpack_bounded(archive, tree_fd, single_id=ids.single)
                found = layer.finish()
                digest = "" if found is None else found.digest.removeprefix("sha256:")
                return f"{digest}\n" + "".join(f"{path}: {notice}\n" for notice in report.notices())

            following = undo.enter_context(self._following("unpack", path, archive_fd))
            content, _, lines = run_with_ids(ids, action, following).partition("\n")
        return content, lines.splitlines()

    def _remove_older(self, key: _Key, path: str) -> None:
        from sandbox.state.runs import users_of

        if users_of(self._state, archive=path):
            return  # a user may be on another node, whose lock may not be visible here
        own = _read_origin(os.path.join(self.trees.base, key.name))
        for name in self.trees.names(f"{key.source}-"):
            place = os.path.join(self.trees.base, name)
            if name.startswith(f"{key.source}-{key.archive}-"):
                continue
            origin = _read_origin(place)
            if own is not None and origin is not None and origin.sha256 == own.sha256:
                continue  # the same archive under other ids
            with suppress(
                SandboxError
            ):  # without the layer's ids, it stays; the sandbox can start all the same
                self.trees.discard_unused(name)


def key_of_ids_for(ids: IdPlan, *facts: object) -> str:
    """Return the part of a key for *ids*, and for *facts* on which the layer also depends."""
    return digest([list(map(str, ids.uid_map)), list(map(str, ids.gid_map)), *facts])


def recorded_digest(place: str) -> str:
    """Return the SHA-256 of the archive whose layer is in *place*, in hexadecimal digits; "" if it is not recorded."""
    origin = _read_origin(place)
    return "" if origin is None else origin.sha256


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
    return digest(path)


def digest_of_archive(info: os.stat_result) -> str:
    """Return the second part of the layer key of an archive whose stat(2) result is *info*."""
    return digest([_FORMAT, info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns])
