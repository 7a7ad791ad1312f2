"""Removing directories of the state: as root of the ids that their files belong to, and also where descriptors are scarce."""

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
"""What the name of a directory of a run begins with until it has a record."""
_TO_REMOVE = 3
"""Descriptors that :func:`remove_directory` has open at once."""
_RECORDS = (b"state.json", b"ids")
"""Removed last: if the removal is interrupted, the next command learns from them whose directory this is."""
_OPEN_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class ReservedDescriptors:
    """Descriptors for :func:`remove_directory`: what could not be finished for want of them is to be removed still."""

    def __init__(self, fd: int) -> None:
        """Hold as many as it takes at once, copies of *fd*.

        Raises:
            OSError: there are fewer.
        """
        self._fds: list[int] = []
        try:
            for _ in range(_TO_REMOVE):
                self._fds.append(os.dup(fd))
        except OSError:
            self.give_back()
            raise

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Give them back."""
        self.give_back()

    def give_back(self) -> None:
        """Close them, once."""
        while self._fds:
            os.close(self._fds.pop())


def remove_directory(path: str, ids: IdPlan | None) -> None:
    """Remove *path* and everything in it; as root of *ids* where entries belong to subordinate ids.

    Raises:
        StateError: an entry cannot be removed.
        SandboxError: the user namespace of *ids* cannot be made.
    """
    try:
        fd = os.open(path, _OPEN_DIR)
    except FileNotFoundError:
        return
    except OSError as error:  # a link, as a rule, which is not followed
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
        # A sandbox that ends and a command that sweeps may be at it at once.
        if error.errno not in (errno.ENOENT, errno.ENOTEMPTY):
            raise


def _not_removed(path: str, error: OSError) -> StateError:
    reason = (error.strerror or str(error)).lower()
    return StateError(f"cannot remove {path}: {reason}", hint="remove it by hand")
