"""Where the state is that the verbs about kept things look at, which make none."""

from __future__ import annotations

import os


def existing_state_directory() -> str | None:
    """Return the path of the state directory of this account; None where there is none yet.

    Raises:
        StateError: it is another user's, or others may write to it.
    """
    from sandbox.state.directory import examine
    from sandbox.state.location import default_path

    path = os.path.realpath(default_path(os.environ, os.geteuid()))
    if not os.path.isdir(path):
        return None
    if (problem := examine(path)) is not None:
        raise problem
    return path
