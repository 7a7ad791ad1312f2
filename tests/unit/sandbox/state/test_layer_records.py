"""Records of persistent layers: their file, the layers below them, and adoption by another file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from sandbox.errors import SpecError, StateError
from sandbox.host.paths import inspect_all
from sandbox.kernel.idmaps import single_map
from sandbox.lifecycle.adoption import adopt
from sandbox.lifecycle.inventory import list_names
from sandbox.plan import IdPlan, LayerRecord, Plan, default_name, host_paths, make_plan
from sandbox.spec.diagnostic import Diagnostic
from sandbox.spec.load import load
from sandbox.state.directory import StateDirectory
from sandbox.state.layer_records import look
from sandbox.state.location import Locations
from tests.unit.sandbox.facts import PRIVATE, host

IDS = IdPlan(uid_map=single_map(os.geteuid()), gid_map=single_map(os.getegid()), helpers=None, single=True)
NAMED = '[sandbox]\nname = "db"\n[root]\nlayers = ["dir:base"]\nwritable = "persistent"\n'
UNNAMED = NAMED.partition("\n")[2].partition("\n")[2]


@pytest.fixture(autouse=True)
def files(tmp_path: Path) -> Path:
    for name in ("base", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "a.tar").write_text("first")
    return tmp_path


def planned(files: Path, text: str, name: str = "a.toml", **options: Any) -> Plan:
    """Plan as `up` does, with the state below *files*."""
    if text:
        (files / name).write_text(text)
    spec = load(f"{files}/{name}", environ={})
    return make_plan(
        spec,
        host(),
        inspect_all(host_paths(spec)),
        environ={},
        state_directory=f"{files}/state",
        private=PRIVATE,
        persistent=look(spec, f"{files}/state"),
        **options,
    )


def _layer_names(files: Path) -> list[str]:
    return list_names(Locations(state=f"{files}/state", images=f"{files}/state/images"), "layer")


def started(
    files: Path, text: str, name: str = "a.toml", *, digests: Mapping[str, str] | None = None, **options: Any
) -> None:
    """Write the record of a start, with *digests* of archives."""
    plan = planned(files, text, name, **options)
    state = StateDirectory(f"{files}/state")
    record = plan.record.with_digests(digests or {})
    state.persistent(IDS, name=plan.name, record=record, before=plan.record_before).close()
    state.close()


def refused(files: Path, text: str, name: str = "a.toml", **options: Any) -> Diagnostic:
    with pytest.raises(SpecError) as caught:
        planned(files, text, name, **options)
    (found,) = caught.value.diagnostics
    assert isinstance(found, Diagnostic)
    assert found.line is not None
    return found


def test_layer_is_used_again_by_the_same_file_over_the_same_layers(files: Path) -> None:
    started(files, NAMED)
    started(files, NAMED)


def test_other_layers_are_refused_with_both_and_the_choices_until_they_are_accepted(files: Path) -> None:
    started(files, NAMED)
    other = NAMED.replace("dir:base", "dir:other")
    found = refused(files, other)
    assert found.key == "root.layers"
    assert f"kept from {files}/a.toml over dir:{files}/base" in found.message
    assert f"over dir:{files}/other" in found.message
    for choice in (
        "another sandbox.name",
        "sandbox rm layer:db",
        f"sandbox up --accept-layers {files}/a.toml",
    ):
        assert choice in (found.hint or "")
    started(files, other, accept_layers=True)
    started(files, other)
    assert refused(files, NAMED).key == "root.layers"


def test_layers_in_another_order_are_other_layers(files: Path) -> None:
    both = NAMED.replace('"dir:base"', '"dir:base", "dir:other"')
    started(files, both)
    assert refused(files, NAMED.replace('"dir:base"', '"dir:other", "dir:base"')).key == "root.layers"


def test_layer_behind_another_spelling_is_the_same(files: Path) -> None:
    started(files, NAMED)
    (files / "link").symlink_to("base")
    started(files, NAMED.replace("dir:base", "dir:./link/../base/"))


def test_archive_that_has_changed_is_another_layer(files: Path) -> None:
    archive = NAMED.replace("dir:base", "tar:a.tar")
    started(files, archive)
    started(files, archive)
    (files / "a.tar").write_text("another one")
    assert "an archive that has changed since" in refused(files, archive).message


def test_archive_that_was_only_touched_is_the_same_layer(files: Path) -> None:
    archive = NAMED.replace("dir:base", "tar:a.tar")
    digests = {f"{files}/a.tar": sha256(b"first").hexdigest()}
    started(files, archive, digests=digests)
    os.utime(files / "a.tar", (1, 1))
    started(files, archive, digests=digests)
    assert planned(files, archive).record_before == planned(files, archive).record.with_digests(digests)
    (files / "a.tar").write_text("other")
    assert "an archive that has changed since" in refused(files, archive).message


def test_foreign_file_with_the_name_is_refused_and_may_adopt(files: Path) -> None:
    started(files, NAMED)
    found = refused(files, NAMED, "foreign.toml")
    assert (found.key, found.line) == ("sandbox.name", 2)
    assert f"kept from {files}/a.toml" in found.message
    assert f"sandbox adopt {files}/foreign.toml db" in (found.hint or "")
    state = StateDirectory(f"{files}/state")
    adopt(state, "db", "db", f"{files}/foreign.toml")
    state.close()
    started(files, NAMED, "foreign.toml")
    assert refused(files, NAMED).key == "sandbox.name"


def test_accepting_layers_accepts_no_other_file(files: Path) -> None:
    started(files, NAMED)
    assert refused(files, NAMED, "foreign.toml", accept_layers=True).key == "sandbox.name"


@pytest.mark.parametrize("make", [os.symlink, os.link])
def test_same_file_under_another_path_is_the_same(files: Path, make: Any) -> None:
    started(files, NAMED)
    make(f"{files}/a.toml", f"{files}/b.toml")
    started(files, "", "b.toml")


def test_file_that_took_the_inode_of_one_that_is_gone_is_another(files: Path) -> None:
    started(files, NAMED)
    (files / "a.toml").rename(files / "b.toml")
    assert refused(files, "", "b.toml").key == "sandbox.name"


def test_record_of_an_older_version_is_completed_without_a_word(files: Path) -> None:
    started(files, NAMED)
    record = files / "state/sandboxes/db/state.json"
    state = json.loads(record.read_text())
    del state["layers"]
    record.write_text(json.dumps(state | {"file": "/elsewhere.toml"}))
    started(files, NAMED)
    assert LayerRecord.read(json.loads(record.read_text())).file == f"{files}/a.toml"
    assert refused(files, NAMED, "foreign.toml").key == "sandbox.name"


def test_orphan_of_a_renamed_file_is_told_and_the_command_given_brings_it_back(files: Path) -> None:
    started(files, UNNAMED)
    name = default_name(f"{files}/a.toml")
    (files / f"state/sandboxes/{name}/upper").mkdir()
    (files / f"state/sandboxes/{name}/upper/kept").touch()
    (files / "a.toml").rename(files / "b.toml")
    (caution,) = planned(files, "", "b.toml").cautions
    assert (caution.severity, caution.key) == ("warning", "root.writable")
    assert f"sandbox adopt {files}/b.toml {name}" in (caution.hint or "")
    started(files, "", "b.toml")  # the file's own, empty layer is replaced
    state = StateDirectory(f"{files}/state")
    new = default_name(f"{files}/b.toml")
    adopt(state, name, new, f"{files}/b.toml")
    state.close()
    assert _layer_names(files) == [new]
    assert (files / f"state/sandboxes/{new}/upper/kept").exists()
    assert planned(files, "", "b.toml").cautions == ()
    started(files, "", "b.toml")


@pytest.mark.parametrize(
    ("text", "keep"),
    [(UNNAMED.replace("dir:base", "dir:other"), False), (UNNAMED, True), (NAMED, False)],
    ids=["other layers", "the file is there", "a name of its own"],
)
def test_layer_that_cannot_be_this_files_is_no_orphan_of_it(files: Path, text: str, keep: bool) -> None:
    started(files, UNNAMED)
    if not keep:
        (files / "a.toml").unlink()
    assert planned(files, text, "b.toml").cautions == ()


def test_layer_with_changes_of_its_own_is_not_replaced_by_an_adopted_one(files: Path) -> None:
    started(files, UNNAMED)
    started(files, UNNAMED, "b.toml")
    old, new = default_name(f"{files}/a.toml"), default_name(f"{files}/b.toml")
    (files / f"state/sandboxes/{new}/upper").mkdir()
    (files / f"state/sandboxes/{new}/upper/own").touch()
    before = (files / f"state/sandboxes/{old}/state.json").read_bytes()
    state = StateDirectory(f"{files}/state")
    with pytest.raises(StateError, match="exists and has changes"):
        adopt(state, old, new, f"{files}/b.toml")
    state.close()
    assert _layer_names(files) == sorted([old, new])
    assert LayerRecord.read(json.loads(before)).file == f"{files}/a.toml"
    started(files, "")


def test_layer_in_use_and_layer_that_is_not_there_are_not_adopted(files: Path) -> None:
    plan = planned(files, NAMED)
    state = StateDirectory(f"{files}/state")
    used = state.persistent(IDS, name="db", record=plan.record, before=None)
    with pytest.raises(StateError, match="sandbox db is running"):
        adopt(state, "db", "db", "/x.toml")
    used.close()
    for name in ("none", "", "..", "../run"):
        with pytest.raises(StateError, match="no persistent layer") as caught:
            adopt(state, name, "db", "/x.toml")
        assert caught.value.hint == "name an existing one: db"
    state.close()
