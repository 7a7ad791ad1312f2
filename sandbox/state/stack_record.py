"""Record over which layers a writable layer was used, so that a later command can read both together. Values only.

The record is part of state.json of a run, of a persistent layer and of a kept ephemeral one::

    "stack": {"writable": DIRECTORY, "layers": [{"kind", "path", "place", "cross"}, ...]}    # bottom first

It names what the start has opened, so that a reader needs neither the environment file nor the archive.
"""

from __future__ import annotations

from unionfs._stdlib.dataclasses import dataclass
from unionfs._stdlib.typing import Any

KEY = "stack"


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedLayer:
    """One layer below a writable layer."""

    #: "dir" or "tar".
    kind: str
    #: The real path of the directory or of the archive.
    path: str
    #: The name of the unpacked archive's directory in the layer store; None for "dir".
    place: str | None = None
    #: Paths of file systems mounted in the directory that are shown as part of it.
    cross: tuple[str, ...] = ()

    def shown(self) -> str:
        """Return the layer as an environment file writes it: "dir:/usr"."""
        return f"{self.kind}:{self.path}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedStack:
    """A writable layer's directory, which contains ``upper`` and ``work``, and the layers below, bottom first."""

    writable: str
    layers: tuple[RecordedLayer, ...]

    def as_json(self) -> dict[str, Any]:
        """Return the record as JSON, under its key."""
        layers = [
            {"kind": one.kind, "path": one.path, "place": one.place, "cross": list(one.cross)}
            for one in self.layers
        ]
        return {KEY: {"writable": self.writable, "layers": layers}}

    @classmethod
    def read(cls, state: object) -> RecordedStack | None:
        """Return the stack in *state*, the JSON value of a state.json; None if it has none or a malformed one."""
        value = state.get(KEY) if isinstance(state, dict) else None
        try:
            layers = tuple(
                RecordedLayer(
                    kind=_text(one["kind"]),
                    path=_text(one["path"]),
                    place=None if one["place"] is None else _text(one["place"]),
                    cross=tuple(map(_text, one["cross"])),
                )
                for one in value["layers"]  # type: ignore[index]
            )
            return cls(writable=_text(value["writable"]), layers=layers)  # type: ignore[index]
        except (KeyError, TypeError):
            return None


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value
