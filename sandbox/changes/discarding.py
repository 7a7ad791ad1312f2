"""Discard the changes of a writable layer: the whole layer, or by `unionfs changes --discard` those at some paths."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack, suppress

from sandbox.changes.reader import start, state_directory
from sandbox.changes.writable_layers import WritableLayer, find
from sandbox.errors import StateError
from sandbox.state.locks import claim
from sandbox.state.removal import remove_directory
from sandbox.state.runs import users_of

_DISCARDED = ".discarded-"
"""The prefix of the names of directories that are being removed."""


def discard(argument: str, paths: Sequence[str] = ()) -> WritableLayer:
    """Discard the changes at and below *paths* (all, if there are none) of the layer that *argument* selects; return it.

    Raises:
        StateError: there is no such layer, or a sandbox uses it.
        SandboxError: a change cannot be discarded.
    """
    layer = find(state_directory(), argument)
    lock, fd = claim(os.path.join(layer.path, "lock"))
    try:
        if layer.kind == "running" or lock == "held" or _users(layer):
            raise StateError(
                f"sandbox {layer.id} is running, and its changes cannot be discarded meanwhile",
                hint="end the sandbox first",
            )
        if paths:
            _discard_paths(layer, paths)
        elif layer.kind == "kept":
            remove_directory(layer.path, layer.ids)
        else:
            _empty(layer)
    finally:
        if fd >= 0:
            os.close(fd)
    return layer


def _empty(layer: WritableLayer) -> None:
    """Remove the contents of a persistent layer, whose next start makes its directories anew.

    They are renamed first: a kill leaves the whole layer, or directories that the next call removes.
    """
    top = layer.stack.writable
    for name in ("work", "upper"):
        old, new = os.path.join(top, name), os.path.join(top, f"{_DISCARDED}{name}")
        remove_directory(new, layer.ids)
        with suppress(FileNotFoundError):
            os.rename(old, new)
    for name in ("work", "upper"):
        remove_directory(os.path.join(top, f"{_DISCARDED}{name}"), layer.ids)


def _users(layer: WritableLayer) -> bool:
    return layer.kind == "persistent" and bool(users_of(state_directory(), layer=layer.name))


def _discard_paths(layer: WritableLayer, paths: Sequence[str]) -> None:
    with ExitStack() as undo:
        process = start(layer, ["--discard"], paths, undo)
        with open(process.output_fd, "rb", closefd=False) as output:
            output.read()
        process.finish()
