"""Record over which layers a writable layer was used, so that a later command can read both together. Values only.

The record is part of state.json of a run, of a persistent layer and of a kept ephemeral one::

    "stack": {"writable": DIRECTORY, "next": DIRECTORY or null, "earlier": [DIRECTORY, ...],
              "layers": [{"kind", "path", "place", "cross", "mounted", "lazy"}, ...]}    # bottom first

It names what the start has opened, so that a reader needs neither the environment file nor the archive. Directories in that of
the record are relative to it, so that it can be renamed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from unionfs._stdlib.dataclasses import dataclass, replace
from unionfs._stdlib.typing import Any

KEY = "stack"
LATER = "later"
"""The directory of the later writable layers, beside the record (sandbox/state/earlier_layers.py)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedLayer:
    """One layer below a writable layer."""

    #: "dir", "tar" or "image".
    kind: str
    #: The real path of the directory or of the archive; of an image, its name and the digest of its manifest.
    path: str
    #: The name of the unpacked tree, or of the index of a mounted archive, in the image directory; None for "dir".
    place: str | None = None
    #: Paths of file systems mounted in the directory that are shown as part of it.
    cross: tuple[str, ...] = ()
    #: The archive, or the layer of an image, is mounted: *place* has its index instead of its files.
    mounted: bool = False
    #: The layer is fetched in part, from this image of a registry, "docker://HOST/NAME"; "" for any other.
    lazy: str = ""

    def shown(self) -> str:
        """Return the layer as an environment file writes it: "dir:/usr"."""
        return f"{self.kind}:{self.path}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedStack:
    """A writable layer's directory, which contains ``upper`` and ``work``, and the layers below, bottom first."""

    writable: str
    layers: tuple[RecordedLayer, ...]
    #: The directories of layers that were the writable one before. They lie above *layers*, and belong to the changes.
    earlier: tuple[str, ...] = ()
    #: The next writable layer, while the present one is being frozen (sandbox/state/earlier_layers.py).
    next: str | None = None

    def frozen(self) -> RecordedStack:
        """Return the stack after the freeze that *next* is recorded for."""
        assert self.next is not None
        return replace(self, writable=self.next, earlier=(*self.earlier, self.writable), next=None)

    def directories(self) -> set[str]:
        """Return the directories of the writable layer, the earlier ones and the next one."""
        return {self.writable, *self.earlier} | ({self.next} if self.next is not None else set())

    def as_json(self, directory: str | None = None) -> dict[str, Any]:
        """Return the record as JSON, under its key, for a state.json in *directory*; None: its paths are not relative."""
        layers = [
            {
                "kind": one.kind,
                "path": one.path,
                "place": one.place,
                "cross": list(one.cross),
                **({"mounted": True} if one.mounted else {}),
                **({"lazy": one.lazy} if one.lazy else {}),
            }
            for one in self.layers
        ]
        return {
            KEY: {
                "writable": relative(directory, self.writable),
                "next": None if self.next is None else relative(directory, self.next),
                "earlier": [relative(directory, path) for path in self.earlier],
                "layers": layers,
            }
        }

    @classmethod
    def read(cls, state: object, directory: str) -> RecordedStack | None:
        """Return the stack in *state*, the JSON value of the state.json in *directory*; None if it has none or a malformed one."""
        value = state.get(KEY) if isinstance(state, dict) else None
        try:
            layers = tuple(
                RecordedLayer(
                    kind=_text(one["kind"]),
                    path=_text(one["path"]),
                    place=None if one["place"] is None else _text(one["place"]),
                    cross=tuple(map(_text, one["cross"])),
                    mounted=one.get("mounted") is True,
                    lazy=_text(one.get("lazy", "")),
                )
                for one in value["layers"]  # type: ignore[index]
            )
            following = value.get("next")  # type: ignore[union-attr]
            return cls(
                writable=absolute(directory, value["writable"]),  # type: ignore[index]
                layers=layers,
                earlier=tuple(absolutes(directory, value.get("earlier", ()))),  # type: ignore[union-attr]
                next=None if following is None else absolute(directory, following),
            )
        except (AttributeError, KeyError, TypeError):
            return None


def relative(directory: str | None, path: str) -> str:
    """Return how a record in *directory* writes *path*: relative if it is in that directory, else unchanged."""
    inside = directory is not None and (path == directory or path.startswith(directory + "/"))
    return os.path.relpath(path, directory) if inside else path


def absolute(directory: str, value: object) -> str:
    """Return the path that *value* in a record in *directory* means; TypeError if it is not a string."""
    return os.path.normpath(os.path.join(directory, _text(value)))


def absolutes(directory: str, values: Iterable[object]) -> list[str]:
    """Return the paths that *values* in a record in *directory* mean."""
    return [absolute(directory, value) for value in values]


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value
