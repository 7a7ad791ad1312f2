"""Use a writable layer that no sandbox uses, so that none starts meanwhile."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from sandbox.changes.writable_layers import WritableLayer
from sandbox.errors import StateError
from sandbox.state.locks import claim
from sandbox.state.runs import users_of


@contextmanager
def exclusively(state_directory: str, layer: WritableLayer, refused: str) -> Iterator[None]:
    """Lock *layer* within the context.

    Raises:
        StateError: a sandbox uses it; the message is that it "is running, and *refused*".
    """
    lock, fd = claim(os.path.join(layer.path, "lock"))
    try:
        users = layer.kind == "persistent" and bool(users_of(state_directory, layer=layer.name))
        if layer.kind == "running" or lock == "held" or users:
            raise StateError(f"sandbox {layer.id} is running, and {refused}", hint="end the sandbox first")
        yield
    finally:
        if fd >= 0:
            os.close(fd)
