"""Keep the state of a step that failed, for a shell in it, until the next build of the file.

    STATE/changes/ID/build.json     the layers below and the settings of the command, beside the writable layer
    STATE/build.lock                locked by builds, so that none removes a layer of another

The writable layer is one that `up --keep-changes` could have left, so `sandbox diff`, `export` and `discard` know it.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager, suppress

from sandbox.builder.run_step import STACK_NAME, discard_kept
from sandbox.changes.writable_layers import find, list_layers
from sandbox.errors import StateError
from sandbox.images.build.plan import RunCommand
from sandbox.plan.image_values import ImageLayer
from sandbox.state.trusted_files import read_json, replace_json
from unionfs._stdlib.dataclasses import dataclass

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sandbox.changes.writable_layers import WritableLayer

_NAME = "build.json"
_LOCK = "build.lock"
_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedStep:
    """A step that failed: the id of the run whose changes are kept, the layers below, and the command. `text` is for messages."""

    kept: str
    layers: tuple[ImageLayer, ...]
    command: RunCommand
    text: str


def keep(state: str, step: FailedStep) -> None:
    """Record *step* beside its writable layer in the state directory *state*.

    Raises:
        StateError: there is no such layer.
        OSError: the record cannot be written.
    """
    command = step.command
    value = {
        "version": _VERSION,
        "text": step.text,
        "env": list(command.env),
        "user": command.user,
        "cwd": command.cwd,
        "network": command.network,
        "layers": [[layer.diff_id, layer.digest, layer.size, layer.media_type] for layer in step.layers],
    }
    replace_json(os.path.join(find(state, step.kept).path, _NAME), value)


def find_failed(state: str, file: str) -> FailedStep | None:
    """Return the step of the build of *file* that failed last; None if none is kept."""
    for layer in sorted(_of_file(state, file), key=lambda one: one.time, reverse=True):
        with suppress(OSError, ValueError, TypeError, KeyError):
            value = read_json(os.path.join(layer.path, _NAME))
            if value["version"] != _VERSION:
                continue
            command = RunCommand(
                command=("/bin/sh",),
                env=tuple(map(str, value["env"])),
                user=str(value["user"]),
                cwd=str(value["cwd"]),
                network="host" if value["network"] == "host" else "default",
            )
            layers = tuple(
                ImageLayer(
                    diff_id=str(diff_id), digest=str(digest), size=int(size), media_type=str(media_type)
                )
                for diff_id, digest, size, media_type in value["layers"]
            )
            return FailedStep(kept=layer.id, layers=layers, command=command, text=str(value["text"]))
    return None


@contextmanager
def building(state: str, file: str) -> Iterator[None]:
    """Remove what earlier builds of *file* have left; then keep other builds from removing layers while the context lasts.

    Left are steps that failed, and writable layers of builds that were killed. While another build runs, nothing is removed: a
    layer of it looks the same between the end of its command and the end of its step. What a fork needs stays.
    """
    with _locked(state) as fd:
        with suppress(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for layer in _of_file(state, file):
                with suppress(StateError):
                    discard_kept(layer.id)
        fcntl.flock(fd, fcntl.LOCK_SH)
        yield


@contextmanager
def looking(state: str) -> Iterator[None]:
    """Keep builds from removing steps that failed while the context lasts."""
    with _locked(state) as fd:
        fcntl.flock(fd, fcntl.LOCK_SH)
        yield


@contextmanager
def _locked(state: str) -> Iterator[int]:
    fd = os.open(os.path.join(state, _LOCK), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        yield fd
    finally:
        os.close(fd)


def _of_file(state: str, file: str) -> Sequence[WritableLayer]:
    return [
        layer
        for layer in list_layers(state)
        if layer.kind == "kept"
        and layer.file == file
        and any(below.path.startswith(f"{STACK_NAME}@") for below in layer.stack.layers)
    ]
