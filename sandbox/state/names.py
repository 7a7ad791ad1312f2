"""Reserve the names of sandboxes in the background.

RUN/names/NAME    locked by the supervisor of the sandbox as long as it lives
"""

from __future__ import annotations

import os

from sandbox.state import locks


def reserve(run_directory: str, name: str) -> bool:
    """Reserve *name* for the rest of this process; return False if another process has it. Its children must not inherit the lock.

    Raises:
        OSError: the lock cannot be taken.
    """
    directory = os.path.join(run_directory, "names")
    os.makedirs(directory, mode=0o700, exist_ok=True)
    return locks.take(os.path.join(directory, name), wait=False) is not None
