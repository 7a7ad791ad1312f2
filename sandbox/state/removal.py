"""Remove directories of the state: as root of the ids that own the files, and even if no other descriptor is free."""

from __future__ import annotations

import errno
import os

from sandbox.as_container_root import run_with_ids, with_own_id
from sandbox.errors import StateError
from sandbox.kernel.trees import remove_contents
from unionfs._stdlib.typing import Self

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.plan import IdPlan

NEW = ".new-"
"""The prefix of the name of a run's directory until the run has a record."""
REMOVED = ".removed-"
"""The prefix of the name of an item that is being removed."""
_TO_REMOVE = 3
"""Descriptors that :func:`remove_directory` opens at the same time."""
_RECORDS = (b"state.json", b"ids")
"""Removed last: after an interrupted removal, the next command learns from them which run the directory belongs to."""
_OPEN_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class ReservedDescriptors:
    """Descriptors reserved for :func:`remove_directory`, so that a start that fails with EMFILE can still be cleaned up.

    The creator releases them by :meth:`release` just before the removal.
    """

    def __init__(self, fd: int) -> None:
        """Reserve the descriptors by duplicating *fd*.

        Raises:
            OSError: not enough are free.
        """
        self._fds: list[int] = []
        try:
            for _ in range(_TO_REMOVE):
                self._fds.append(os.dup(fd))
        except OSError:
            self.release()
            raise

    def __enter__(self) -> Self:
        """Return the object itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Release the descriptors."""
        self.release()

    def release(self) -> None:
        """Close the descriptors. Later calls do nothing."""
        while self._fds:
            os.close(self._fds.pop())


def remove_directory(path: str, ids: IdPlan | None) -> None:
    """Remove *path* and everything in it; as root of *ids* if entries belong to subordinate ids.

    Raises:
        StateError: an entry cannot be removed.
        SandboxError: the user namespace of *ids* cannot be created.
    """
    try:
        fd = os.open(path, _OPEN_DIR)
    except FileNotFoundError:
        return
    except OSError as error:  # usually a symbolic link, which is not followed
        raise _not_removed(path, error) from None
    try:
        try:
            remove_contents(fd, last=_RECORDS)
        except OSError as error:
            if ids is None or error.errno not in (errno.EACCES, errno.EPERM):
                raise _not_removed(path, error) from None
            run_with_ids(with_own_id(ids), lambda: remove_contents(fd, last=_RECORDS))
    finally:
        os.close(fd)
    try:
        os.rmdir(path)
    except OSError as error:
        # An ending sandbox and a command that sweeps may remove it at the same time.
        if error.errno not in (errno.ENOENT, errno.ENOTEMPTY):
            raise


def _not_removed(path: str, error: OSError) -> StateError:
    reason = (error.strerror or str(error)).lower()
    return StateError(f"cannot remove {path}: {reason}", hint="remove it by hand")
