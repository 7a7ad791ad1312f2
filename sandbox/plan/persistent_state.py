"""Check whether a persistent layer belongs to the file and the layers that it is to be used with. No side effects."""

from __future__ import annotations

from collections.abc import Mapping

from sandbox.host.paths import PathFact
from sandbox.plan.findings import Findings
from sandbox.plan.values import LayerPlan, LayerRecord
from sandbox.spec.diagnostic import Diagnostic
from sandbox.spec.model import Spec
from unionfs._stdlib.dataclasses import dataclass, replace

_STDIN = "<stdin>"
_MAX_NAMED = 3
"""The most orphaned layers that one warning names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PersistentLayer:
    """A persistent layer in the state directory, and the state of the environment file that it was created for."""

    name: str
    #: Its directory.
    path: str
    record: LayerRecord
    #: Whether the recorded file exists, and whether it is the file that is started now, possibly under another name.
    has_file: bool = True
    same_file: bool = False
    #: The real paths of archives whose modification time differs from the record, but whose content does not.
    unchanged: frozenset[str] = frozenset()
    #: How many earlier layers, of snapshots and forks, are below the writable one.
    earlier: int = 0

    def discard(self) -> str:
        """Return the command that removes the layer."""
        import shlex  # only for messages

        return f"sandbox rm {shlex.quote(f'layer:{self.name}')}"

    def shown(self) -> str:
        """Return the layer for messages: "persistent layer NAME, kept from FILE over LAYERS"."""
        return f"persistent layer {self.name}, kept from {self.record.file or 'an unknown file'} over {self.record.shown()}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PersistentState:
    """What the state directory has for a file: its persistent layer, layers whose files are gone, and its named volumes."""

    own: PersistentLayer | None = None
    orphans: tuple[PersistentLayer, ...] = ()
    volumes: frozenset[str] = frozenset()


NO_PERSISTENT_STATE = PersistentState()


def make_record(spec: Spec, layers: tuple[LayerPlan, ...], paths: Mapping[str, PathFact]) -> LayerRecord:
    """Return the record of a persistent layer of *spec* over *layers*."""
    versions = {fact.real: fact.version for fact in paths.values()}
    return LayerRecord(
        file=spec.file if spec.file in spec.read_from else _STDIN,
        layers=tuple(
            # The layers of one image count as one.
            dict.fromkeys(
                (layer.kind, layer.path, versions.get(layer.path) if layer.kind == "tar" else None)
                for layer in layers
            )
        ),
    )


def check_persistent_layer(
    spec: Spec, persistent: PersistentState, record: LayerRecord, findings: Findings, *, accept_layers: bool
) -> None:
    """Refuse a persistent layer that was created for another file than that of *record*, or over other layers."""
    own = persistent.own
    if spec.root.writable != "persistent" or own is None or own.record.layers is None:
        return
    file = _word(spec.file)
    others = f"choose another sandbox.name; or discard it: {own.discard()}"
    if own.record.file is not None and own.record.file != record.file and not own.same_file:
        findings.refuse(
            "sandbox.name" if spec.is_set("sandbox.name") else "root.writable",
            f"{own.shown()}, belongs to another file",
            f"{others}; or give it to this file: sandbox adopt {file} {own.name}{_name_option(spec)}",
        )
    # If the numbers differ, a layer is refused already.
    planned = len(record.layers or ()) == len(dict.fromkeys(spec.root.layers))
    if planned and not own.record.has_layers_of(record, own.unchanged) and not accept_layers:
        changed = (
            f"{record.shown()}, one of them an archive that has changed since"
            if own.record.shown() == record.shown()
            else record.shown()
        )
        findings.refuse(
            "root.layers",
            f"{own.shown()}, would be used over {changed}: its changes were made to other files",
            f"{others}; or use it over these layers from now on: sandbox up --accept-layers {file}",
        )


def _name_option(spec: Spec) -> str:
    """Return the option with which a command uses the name of *spec*, as for a fork; empty if its file has the name."""
    place = spec.origin("sandbox.name")
    named_in_file = place is None or place.file in spec.read_from
    return "" if named_in_file else f" --set sandbox.name={spec.sandbox.name}"


def orphan_warnings(spec: Spec, persistent: PersistentState, record: LayerRecord) -> tuple[Diagnostic, ...]:
    """Return a warning if *spec* begins a new persistent layer while one exists over the same layers whose file is gone."""
    orphans = [one for one in persistent.orphans if one.record.has_layers_of(record)][:_MAX_NAMED]
    if (
        spec.root.writable != "persistent"
        or spec.is_set("sandbox.name")
        or persistent.own is not None
        or not orphans
    ):
        return ()
    listed = " and ".join(f"{one.name}, kept from {one.record.file}" for one in orphans)
    commands = " or ".join(f"sandbox adopt {_word(spec.file)} {one.name}" for one in orphans)
    made = spec.diagnose(
        "root.writable",
        f"a new persistent layer is created, although one exists whose file is gone: {listed}",
        f"if this file was renamed, adopt that layer: {commands}",
    )
    return (replace(made, severity="warning"),)


def _word(path: str) -> str:
    import shlex  # only for messages

    return shlex.quote(path)
