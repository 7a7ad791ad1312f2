"""Find the existing state and image directories, for the verbs that must not create them."""

from __future__ import annotations

import os

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.state.location import Locations


def existing_locations() -> Locations | None:
    """Return the state and the image directory of this account; None if neither exists yet.

    Raises:
        StateError: another user owns a directory, or others may write to it.
    """
    from sandbox.state.directory import check_image_directory, examine
    from sandbox.state.location import locate

    where = locate(os.environ, os.geteuid())
    check_image_directory(where.images)
    if not os.path.isdir(where.state):
        return where if os.path.isdir(where.images) else None
    if (problem := examine(where.state)) is not None:
        raise problem
    return where
