"""Index each archive once for each id map, so that the file system server can mount it without unpacking it.

    BASE/KEY/members    the index (unionfs/layer_index/format.py)
    BASE/KEY/tree       an empty directory, as of any stored layer

Keys, locks and removal are those of unpacked archives (layer_store.py). The key has another digest of the ids, so an archive may
be both mounted and unpacked. An index that is damaged is made again.
"""

from __future__ import annotations

import os

from sandbox.as_container_root import run_with_ids
from sandbox.errors import ImageError, StateError
from sandbox.images.archive_names import ArchiveNames
from sandbox.images.layer_store import LayerStore, digest_of_archive, key_of_ids_for
from sandbox.images.origin import read_origin
from sandbox.images.unpacked_trees import StoredLayer
from sandbox.kernel.files import NotRegularError, open_regular
from sandbox.plan import IdPlan
from unionfs._stdlib.dataclasses import replace
from unionfs.layer_index.archive_frames import LARGEST_FRAME
from unionfs.layer_index.format import VERSION, DamagedError

MEMBERS = "members"
"""The name of the index in the directory of the layer."""
_FORMAT = 1  # incremented when indexing changes
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
            members_fd = open_members(layer.place, os.fstat(archive_fd).st_size)
        except (OSError, DamagedError):
            layer.close()
            self.trees.discard_unused(name)
            return None
        return replace(layer, members_fd=members_fd, archive_fd=os.dup(archive_fd))

    def _fill(
        self, archive_fd: int, path: str, building: str, _tree_fd: int, ids: IdPlan
    ) -> tuple[str, list[str]]:
        from sandbox.images.indexing import MAGIC, Indexing
        from sandbox.images.layer_stream import LayerStream
        from sandbox.images.root_archive import RootArchive

        before = os.fstat(archive_fd)
        with (
            open(os.path.join(building, MEMBERS), "xb") as output,
            open(archive_fd, "rb", closefd=False) as source,
            LayerStream(source, path) as layer,
            self._following("index", path, archive_fd) as meanwhile,
        ):
            begin = os.pread(archive_fd, MAGIC, 0)
            indexing = Indexing(layer, begin, RootArchive, not_seekable=lambda _: not_seekable(path))

            def action() -> str:
                report = indexing.run(output, ids, before.st_size)
                digest = "" if indexing.digests is None else indexing.digests.digest.removeprefix("sha256:")
                return f"{digest}\n" + "".join(f"{path}: {one}\n" for one in report.notices())

            content, _, lines = run_with_ids(ids, action, meanwhile).partition("\n")
        if digest_of_archive(os.fstat(archive_fd)) != digest_of_archive(before):
            raise ImageError(
                f"{path}: changed while it was read", hint="start again when it no longer changes"
            )
        return content, lines.splitlines()


def not_seekable(path: str) -> ImageError:
    """Return the error for the compressed archive *path*, with the commands that make it one that can be mounted."""
    from sandbox.images.archive_index import UNPACK

    programs = {".gz": "gzip -dc", ".tgz": "gzip -dc", ".xz": "xz -dc", ".bz2": "bzip2 -dc"}
    unpack = programs.get(os.path.splitext(path)[1], "zstd -dc")
    # With -1, the pieces have 2 MiB: a random read takes a quarter of the time that it takes with the default level.
    packed = os.path.splitext(path)[0].removesuffix(".tar") + "-seekable.tar.zst"
    return ImageError(
        f"{path}: its files cannot be read where they are: it is not compressed in pieces of at most {LARGEST_FRAME >> 20} MiB",
        hint=f"pack it again in such pieces: {unpack} {path} | pzstd -1 -o {packed}; or {UNPACK}",
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
        return archive_fd, open_members(place, info.st_size)
    except DamagedError as error:
        os.close(archive_fd)
        raise StateError(
            f"the index of {path}: {error}", hint="start the sandbox once, which makes it again"
        ) from None
    except BaseException:
        os.close(archive_fd)
        raise


def open_members(place: str, size: int) -> int:
    """Return a descriptor of the index in the directory *place* of an archive of *size* bytes.

    Raises:
        DamagedError: the index is damaged, or describes another archive.
        OSError: it cannot be opened.
    """
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
