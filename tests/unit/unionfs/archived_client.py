"""A client of a union whose first lower layers are mounted archives, packed from the directories that would be layers."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

from tests.support.archives import packed, write_index
from tests.unit.unionfs.client import Client

if TYPE_CHECKING:
    from pathlib import Path

    from unionfs.assemble import LayerSource, StackSource


class ArchivedClient(Client):
    """One union over archives. Layers that the union wrote itself are directories, as in a client."""

    def _source(self, *, writable: bool) -> StackSource:
        source = super()._source(writable=writable)
        lowers = [
            self._as_archive(path, lower) if path.name.startswith("lower") else lower
            for path, lower in zip(self.lowers, source.lowers, strict=True)
        ]
        return replace(source, lowers=tuple(lowers))

    def _as_archive(self, path: Path, lower: LayerSource) -> LayerSource:
        os.close(lower.fd)
        archive, index = path.with_suffix(".tar"), path.with_suffix(".index")
        # The tests set the times of a layer once, after they have opened it for the first time.
        age = path.stat().st_mtime_ns
        if not archive.exists() or archive.stat().st_mtime_ns != age:
            archive.write_bytes(packed(path))
            # What was recorded of the layers is about the archive with the other times.
            (self.work / "unionfs" / "below").unlink(missing_ok=True)
            with open(archive, "rb") as tar, open(index, "wb") as output:
                write_index(tar, output)
            os.utime(archive, ns=(age, age))
        return replace(
            lower,
            fd=os.open(archive, os.O_RDONLY | os.O_CLOEXEC),
            archive_index_fd=os.open(index, os.O_RDONLY | os.O_CLOEXEC),
        )
