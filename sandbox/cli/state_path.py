"""Find the existing state directory, for the verbs that must not create one."""

from __future__ import annotations

import os

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.state.location import Locations


def existing_locations() -> Locations | None:
    """Return the state and the image directory of this account; None if the state directory does not exist yet.

    Raises:
        StateError: another user owns the directory, or others may write to it.
    """
    from sandbox.state.directory import examine
    from sandbox.state.location import locate

    where = locate(os.environ, os.geteuid())
    if not os.path.isdir(where.state):
        return None
    if (problem := examine(where.state)) is not None:
        raise problem
    return where
