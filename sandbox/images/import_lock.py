"""Provide the lock that a process takes to unpack an archive: a file beside the layers, which exists only meanwhile."""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress

from sandbox.errors import SandboxError
from sandbox.state.locks import claim, has_name, take

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_SUFFIX = ".importing"


@contextmanager
def import_lock(base: str, source: str) -> Iterator[int]:
    """Take the lock of the archive *source* in the directory *base*, and yield its descriptor. Wait for other processes."""
    path = os.path.join(base, source + _SUFFIX)
    fd = _lock(path)
    try:
        yield fd
    finally:
        # Unlink before the lock is released: a waiting process then finds that its file has no name, and creates a new one.
        with suppress(OSError):
            os.unlink(path)
        os.close(fd)


def _lock(path: str) -> int:
    while True:
        fd = take(path, wait=True)
        assert fd is not None
        try:
            if has_name(fd, path):
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def sweep(base: str, discard: Callable[[str], None]) -> None:
    """Remove the locks of killed processes; call *discard* with the archive of each such lock while the lock is held."""
    try:
        names = os.listdir(base)
    except FileNotFoundError:
        return
    for name in names:
        if not name.endswith(_SUFFIX):
            continue
        path = os.path.join(base, name)
        try:
            _, fd = claim(path)
        except OSError:
            continue
        if fd < 0:
            continue  # in use, or gone
        try:
            if has_name(fd, path):
                discard(name.removesuffix(_SUFFIX))
                os.unlink(path)
        except (OSError, SandboxError):
            pass  # the next import tries again
        finally:
            os.close(fd)
