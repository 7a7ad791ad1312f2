"""Index each archive once for each id map, so that the file system server can mount it without unpacking it.

    BASE/KEY/members    the index (unionfs/layer_index/format.py)
    BASE/KEY/tree       an empty directory, as of any stored layer

Keys, locks and removal are those of unpacked archives (layer_store.py). The key has another digest of the ids, so an archive may
be both mounted and unpacked. An index that is damaged is made again.
"""

from __future__ import annotations

import os
import re
from itertools import pairwise

from sandbox.as_container_root import run_with_ids
from sandbox.errors import ImageError, StateError
from sandbox.images.archive_names import ArchiveNames
from sandbox.images.layer_store import LayerStore, digest_of_archive, key_of_ids_for
from sandbox.images.origin import read_origin
from sandbox.images.unpacked_trees import StoredLayer
from sandbox.kernel.files import NotRegularError, open_regular
from sandbox.plan import IdPlan
from unionfs._stdlib.dataclasses import replace
from unionfs.layer_index.archive_frames import LARGEST_FRAME, Frame
from unionfs.layer_index.format import VERSION, DamagedError

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

MEMBERS = "members"
"""The name of the index in the directory of the layer."""
_FORMAT = 1  # incremented when indexing changes
_MAGIC = 4
#: The beginning of gzip and zstd, which the server can read frame by frame.
_SEEKABLE = re.compile(rb"(?s)\x1f\x8b|\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18")
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC


class MountedArchives(LayerStore):
    """The indexes of archives in one image directory."""

    def _ids_key(self, ids: IdPlan) -> str:
        return key_of_ids_for(ids, "mounted", _FORMAT, VERSION)

    def _opened(self, name: str, archive_fd: int, notices: tuple[str, ...] = ()) -> StoredLayer | None:
        """Open the index with the key *name*, with a descriptor of the archive; None if it is missing or damaged."""
        layer = self.trees.open(name, notices)
        if layer is None:
            return None
        try:
            members_fd = _open_members(layer.place, os.fstat(archive_fd).st_size)
        except (OSError, DamagedError):
            layer.close()
            self.trees.discard_unused(name)
            return None
        return replace(layer, members_fd=members_fd, archive_fd=os.dup(archive_fd))

    def _fill(
        self, archive_fd: int, path: str, building: str, _tree_fd: int, ids: IdPlan
    ) -> tuple[str, list[str]]:
        from sandbox.images.archive_index import index_archive
        from sandbox.images.bounded import bounded
        from sandbox.images.reading import DigestedFile
        from sandbox.images.root_archive import RootArchive
        from sandbox.images.tar import open_archive

        before = os.fstat(archive_fd)
        with (
            open(os.path.join(building, MEMBERS), "xb") as output,
            open(archive_fd, "rb", closefd=False) as source,
        ):
            file = DigestedFile(source)
            found: list[Frame] = []
            with (
                open_archive(file, path, lambda *at: found.append(Frame(*at))) as stream,
                self._following("index", path, archive_fd) as meanwhile,
            ):
                if stream.compressed and not _SEEKABLE.match(os.pread(archive_fd, _MAGIC, 0)):
                    raise not_seekable(path)
                archive = RootArchive(stream)

                def frames() -> tuple[Frame, ...]:
                    return seekable_frames(path, found) if stream.compressed else ()

                def action() -> str:
                    report = bounded(
                        lambda: index_archive(
                            archive, lambda: stream.position, output, ids, before.st_size, frames
                        ),
                        archive,
                        "indexing",
                        'remove "mount = true", which unpacks it',
                    )
                    output.flush()
                    return f"{file.finish()}\n" + "".join(f"{path}: {one}\n" for one in report.notices())

                content, _, lines = run_with_ids(ids, action, meanwhile).partition("\n")
        if digest_of_archive(os.fstat(archive_fd)) != digest_of_archive(before):
            raise ImageError(
                f"{path}: changed while it was read", hint="start again when it no longer changes"
            )
        return content, lines.splitlines()


def seekable_frames(path: str, found: Sequence[Frame]) -> tuple[Frame, ...]:
    """Return the frames of the archive *path* that have contents, and its end. *found* are all frames, in order, and the end.

    Raises:
        ImageError: one is too large to be decompressed for each read.
    """
    frames: list[Frame] = []
    for frame in found:
        if frames and frames[-1].shown == frame.shown:
            frames.pop()  # one without contents: it is skipped, or read with the one before
        frames.append(frame)
    if any(following.shown - one.shown > LARGEST_FRAME for one, following in pairwise(frames)):
        raise not_seekable(path)
    return tuple(frames)


def not_seekable(path: str) -> ImageError:
    """Return the error for the compressed archive *path*, with the commands that make it one that can be mounted."""
    programs = {".gz": "gzip -dc", ".tgz": "gzip -dc", ".xz": "xz -dc", ".bz2": "bzip2 -dc"}
    unpack = programs.get(os.path.splitext(path)[1], "zstd -dc")
    # With -1, the pieces have 2 MiB: a random read takes a quarter of the time that it takes with the default level.
    packed = os.path.splitext(path)[0].removesuffix(".tar") + "-seekable.tar.zst"
    return ImageError(
        f"{path}: its files cannot be read where they are: it is not compressed in pieces of at most {LARGEST_FRAME >> 20} MiB",
        hint=f'pack it again in such pieces: {unpack} {path} | pzstd -1 -o {packed}; or remove "mount = true", which unpacks it',
    )


def open_recorded(place: str, path: str) -> tuple[int, int]:
    """Return descriptors of the archive *path* and of its index, which is in the directory *place*.

    Raises:
        StateError: the archive has changed since it was mounted, or the index is damaged.
        OSError: one of them cannot be opened.
    """
    try:
        archive_fd = open_regular(path, links=False)
    except NotRegularError:
        raise _changed(path) from None
    try:
        info = os.fstat(archive_fd)
        key, origin = digest_of_archive(info), read_origin(place)
        if f"-{key}-" not in os.path.basename(place) and (origin is None or key not in origin.known):
            raise _changed(path)
        return archive_fd, _open_members(place, info.st_size)
    except DamagedError as error:
        os.close(archive_fd)
        raise StateError(
            f"the index of {path}: {error}", hint="start the sandbox once, which makes it again"
        ) from None
    except BaseException:
        os.close(archive_fd)
        raise


def _open_members(place: str, size: int) -> int:
    fd = os.open(os.path.join(place, MEMBERS), _READ)
    try:
        ArchiveNames(fd, size)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _changed(path: str) -> StateError:
    return StateError(
        f"the archive {path}, which is mounted below the writable layer, has changed since",
        hint="restore it, or start the sandbox with --accept-layers to use the layer over the new archive",
    )
