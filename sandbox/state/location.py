"""Locate the state directory and the image directory."""

from __future__ import annotations

import os
from collections.abc import Mapping

from sandbox.errors import StateError
from unionfs._stdlib.dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Locations:
    """The paths of the two directories that keep what outlives a run, without symbolic links."""

    #: Records, logs, persistent layers and named volumes (sandbox/state/directory.py).
    state: str
    #: Images and unpacked layers, which can be fetched and unpacked again (sandbox/images/__init__.py).
    images: str


def locate(environ: Mapping[str, str], uid: int) -> Locations:
    """Return the locations for the user *uid*.

    Raises:
        StateError: the user has no home directory to keep them in.
    """
    return Locations(
        state=os.path.realpath(default_path(environ, uid)),
        images=os.path.realpath(default_image_path(environ, uid)),
    )


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
    return _below_home(environ, "XDG_STATE_HOME", "~/.local/state", "state directory", "SANDBOX_STATE_DIR")


def default_image_path(environ: Mapping[str, str], uid: int) -> str:
    """Return the path of the image directory, which need not exist.

    It is `images` in SANDBOX_CACHE_DIR; else, if SANDBOX_STATE_DIR is set, in that directory; else in /var/lib/sandbox for
    root, and in a directory of XDG_DATA_HOME (~/.local/share) for other users.

    Raises:
        StateError: the user has no home directory to keep it in.
    """
    if chosen := environ.get("SANDBOX_CACHE_DIR") or environ.get("SANDBOX_STATE_DIR"):
        base = os.path.abspath(chosen)
    elif uid == 0:
        base = "/var/lib/sandbox"
    else:
        base = _below_home(environ, "XDG_DATA_HOME", "~/.local/share", "image directory", "SANDBOX_CACHE_DIR")
    return os.path.join(base, "images")


def _below_home(environ: Mapping[str, str], variable: str, usual: str, name: str, own: str) -> str:
    base = environ.get(variable) or os.path.expanduser(usual)
    if not base.startswith("/"):
        raise StateError(
            f"there is no home directory for the {name}",
            hint=f"set HOME or {own} to a directory of yours",
        )
    return os.path.join(base, "sandbox")


ELSEWHERE = "set SANDBOX_STATE_DIR to a directory of yours"
"""The hint if the state directory cannot be used."""
