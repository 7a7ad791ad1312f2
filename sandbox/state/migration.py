"""Move what an earlier version kept in other places. Imported only if there is something to move."""

from __future__ import annotations

import os
from contextlib import suppress

from sandbox.state import locks

_UNFINISHED = (".new", ".importing")


def move_archives(state_directory: str, images: str) -> None:
    """Move the unpacked archives from `layers` in *state_directory* to `archives` in *images*.

    Names stay, so that records of writable layers still find them. What cannot be moved, as to another file system, is unpacked
    again when it is needed; `sandbox prune` removes the old copy.
    """
    old, new = os.path.join(state_directory, "layers"), os.path.join(images, "archives")
    with suppress(OSError), locks.exclusively_locked(state_directory):
        os.makedirs(new, mode=0o700, exist_ok=True)
        for name in os.listdir(old):
            if not name.endswith(_UNFINISHED) and not os.path.lexists(os.path.join(new, name)):
                os.rename(os.path.join(old, name), os.path.join(new, name))
        os.rmdir(old)
