"""Find the existing state directory, for the verbs that must not create one."""

from __future__ import annotations

import os


def existing_state_directory() -> str | None:
    """Return the path of the state directory of this account; None if it does not exist yet.

    Raises:
        StateError: another user owns the directory, or others may write to it.
    """
    from sandbox.state.directory import examine
    from sandbox.state.location import default_path

    path = os.path.realpath(default_path(os.environ, os.geteuid()))
    if not os.path.isdir(path):
        return None
    if (problem := examine(path)) is not None:
        raise problem
    return path
