"""Make an empty writable layer over layers of images, so that `unionfs changes` can read their union."""

from __future__ import annotations

import os
from contextlib import contextmanager

from sandbox.as_container_root import chown_to_root
from sandbox.changes.writable_layers import WritableLayer
from sandbox.state.stack_record import RecordedLayer, RecordedStack

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sandbox.images.unpacked_trees import StoredLayer
    from sandbox.plan import IdPlan
    from sandbox.state.directory import StateDirectory


@contextmanager
def empty_layer(
    state: StateDirectory, ids: IdPlan, layers: Sequence[StoredLayer], *, name: str
) -> Iterator[WritableLayer]:
    """Give an empty writable layer over the open *layers*, bottom first. It is in the directory of a run *name*, which is removed.

    Raises:
        SandboxError: it cannot be created.
        OSError: it cannot be created.
    """
    run = state.new_run(ids, name=name, uses={"file": None, "layer": None, "volumes": [], "archives": []})
    parts: list[int] = []
    try:
        parts += [run.subdirectory(name) for name in ("upper", "work")]
        chown_to_root(ids, *run.unowned)
        recorded = tuple(
            RecordedLayer(kind="image", path="", place=os.path.basename(layer.place)) for layer in layers
        )
        yield WritableLayer(
            name=name,
            id=name,
            kind="running",
            path=run.path,
            file=None,
            ids=ids,
            stack=RecordedStack(writable=run.layer_path, layers=recorded),
            in_use=True,
            time=0.0,
        )
    finally:
        for fd in parts:
            os.close(fd)
        run.remove()
