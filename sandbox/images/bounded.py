"""Unpack an archive with a memory limit."""

from __future__ import annotations

from sandbox.errors import ImageError
from sandbox.images.names import printable
from sandbox.images.report import UnpackReport
from sandbox.images.unpack import unpack
from sandbox.kernel.rlimits import memory_limit

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sandbox.images.archive_names import ArchiveNames
    from sandbox.images.tar import Archive

MEMORY = 1 << 28
"""The memory limit of one unpacking process, in bytes. With the code of Python and its libraries, it stays below 300 MB.

A real archive needs most for its decompression: 129 MiB for the largest window of zstd, 65 MiB for `xz -9`. Larger ones are
refused. Each directory takes some 350 bytes until the end, so 600,000 directories fit.
"""


def unpack_bounded(
    archive: Archive,
    destination_fd: int,
    *,
    single_id: bool,
    below: Sequence[int | ArchiveNames] = (),
    until_complete: Callable[[], None] = lambda: None,
    memory: int = MEMORY,
) -> UnpackReport:
    """Call `unpack` with a memory limit of *memory* bytes for this process, which should run nothing else.

    The limit is RLIMIT_DATA. The process works alone and shares no writable memory, so this covers all memory that it can
    take, on every machine. A cgroup would need delegation, and would also count the page cache of the written files.

    Raises:
        ImageError: as `unpack`; or the archive needs more memory: the message names the current member.
        OSError: as `unpack`.
    """
    return bounded(
        lambda: unpack(
            archive, destination_fd, single_id=single_id, below=below, until_complete=until_complete
        ),
        archive,
        "unpacking",
        "pack its content into several archives, one for each layer, or with a lower compression level",
        memory=memory,
    )


def bounded(
    action: Callable[[], UnpackReport], archive: Archive, what: str, hint: str, *, memory: int = MEMORY
) -> UnpackReport:
    """Return what *action* returns, which does *what* with *archive*, with a memory limit of *memory* bytes as for `unpack_bounded`.

    Raises:
        ImageError: *action* has raised it, or needs more memory: the message names the current member, and has *hint*.
    """
    try:
        with memory_limit(memory):
            return action()
    except MemoryError:
        pass  # leave the handler first, which frees the traceback and the objects that it refers to
    raise ImageError(
        f"{archive.name}: {printable(archive.current)}: {what} takes more than {memory >> 20} MiB of memory",
        hint=hint,
    )
