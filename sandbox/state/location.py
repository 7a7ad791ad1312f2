"""Locate the state directory."""

from __future__ import annotations

import os
from collections.abc import Mapping

from sandbox.errors import StateError


def default_path(environ: Mapping[str, str], uid: int) -> str:
    """Return the path of the state directory: SANDBOX_STATE_DIR if set; else /var/lib/sandbox for root, and a directory of
    XDG_STATE_HOME (~/.local/state) for other users.

    Raises:
        StateError: the user has no home directory to keep it in.
    """
    if chosen := environ.get("SANDBOX_STATE_DIR"):
        return os.path.abspath(chosen)
    if uid == 0:
        return "/var/lib/sandbox"
    base = environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    if not base.startswith("/"):
        raise StateError(
            "there is no home directory for the state directory",
            hint="set HOME or SANDBOX_STATE_DIR to a directory of yours",
        )
    return os.path.join(base, "sandbox")


ELSEWHERE = "set SANDBOX_STATE_DIR to a directory of yours"
"""The hint if the state directory cannot be used."""
