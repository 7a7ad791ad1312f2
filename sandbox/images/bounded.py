"""Unpacking with a limit of memory."""

from __future__ import annotations

from sandbox.errors import ImageError
from sandbox.images.names import printable
from sandbox.images.report import UnpackReport
from sandbox.images.unpack import unpack
from sandbox.kernel.rlimits import memory_limit

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.images.tar import Archive

MEMORY = 1 << 30
"""Bytes of memory for one unpacking process. The largest need of a real archive is that of its compression, 256 MiB for xz and
twice 128 for zstd; each directory takes some 350 bytes until the end, so that two million fit beside."""


def unpack_bounded(
    archive: Archive, destination_fd: int, *, single_id: bool, memory: int = MEMORY
) -> UnpackReport:
    """Call `unpack`, with at most *memory* bytes for this process, which should be one of its own.

    The limit is RLIMIT_DATA: the process is alone and shares no writable memory, so that the limit covers all that it can take,
    on every machine. A cgroup would need delegation, and would count the page cache of the files that are written as well.

    Raises:
        ImageError: as `unpack`; the archive needs more memory, with the member at which it did.
        OSError: as `unpack`.
    """
    try:
        with memory_limit(memory):
            return unpack(archive, destination_fd, single_id=single_id)
    except MemoryError:
        pass  # outside of the handler, the traceback and what it refers to are freed
    raise ImageError(
        f"{archive.name}: {printable(archive.current)}: unpacking takes more than {memory >> 20} MiB of memory",
        hint="pack it again in several archives, one layer each, and with a lower level of compression",
    )
