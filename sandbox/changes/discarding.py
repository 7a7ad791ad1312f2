"""Discard the changes of a writable layer: the whole layer, or by `unionfs changes --discard` those at some paths."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress

from sandbox.changes.exclusive import exclusively
from sandbox.changes.frozen_layers import begin
from sandbox.changes.reader import output_of, state_directory
from sandbox.changes.writable_layers import WritableLayer, find, read_again
from sandbox.state import snapshots
from sandbox.state.earlier_layers import origins_of, refuse_if_forked, remove_unused_of, settle
from sandbox.state.removal import remove_directory
from unionfs._stdlib.dataclasses import replace

_DISCARDED = ".discarded-"
"""The prefix of the names of directories that are being removed."""


def discard(argument: str, paths: Sequence[str] = ()) -> WritableLayer:
    """Discard the changes at and below *paths* (all, if there are none) of the layer that *argument* selects; return it.

    Snapshots stay, except those of a kept ephemeral layer that is discarded as a whole.

    Raises:
        StateError: there is no such layer, a sandbox uses it, or a fork needs it.
        SandboxError: a change cannot be discarded.
    """
    layer = find(state_directory(), argument)
    with (
        exclusively(state_directory(), layer, "its changes cannot be discarded meanwhile"),
        snapshots.locked_to_remove(layer.path, layer.id),
    ):
        layer = read_again(layer)
        layer = replace(layer, stack=settle(layer.stack, layer.ids))
        if paths:
            output_of(layer, ["--discard"], paths)
        elif layer.kind == "kept":
            refuse_if_forked(state_directory(), layer.path, layer.id)
            origins = origins_of(layer.path)
            remove_directory(layer.path, layer.ids)
            remove_unused_of(state_directory(), origins)
        elif layer.stack.earlier:
            begin(layer, ())
        else:
            _empty(layer)
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
