"""The command ``unionfs``, with each lower directory packed into an archive that is mounted in its place.

Usage: as ``python -m unionfs``. The archives and their indexes are beside the directories, and are made anew at each mount.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import unionfs.assemble
from tests.support.archives import packed, write_index
from unionfs.cli import main

if TYPE_CHECKING:
    from unionfs.assemble import LayerSource, StackSource
    from unionfs.options import Options

_opened = unionfs.assemble.source_from_options


def _archived(path: str, lower: LayerSource) -> LayerSource:
    with open(f"{path}.tar", "wb") as file:
        file.write(packed(path))
    with open(f"{path}.tar", "rb") as archive, open(f"{path}.index", "wb") as output:
        write_index(archive, output)
    os.close(lower.fd)
    archive_fd, index_fd = (os.open(f"{path}.{end}", os.O_RDONLY | os.O_CLOEXEC) for end in ("tar", "index"))
    return replace(lower, fd=archive_fd, archive_index_fd=index_fd)


def _source(options: Options, mountpoint: str | None) -> StackSource:
    source = _opened(options, mountpoint)
    lowers = zip(options.lowerdirs, source.lowers, strict=True)
    return replace(source, lowers=tuple(_archived(path, lower) for path, lower in lowers))


if __name__ == "__main__":
    unionfs.assemble.source_from_options = _source
    sys.exit(main())
