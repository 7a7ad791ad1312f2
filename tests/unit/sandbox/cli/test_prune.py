"""`sandbox prune` removes what no file, layer or sandbox uses, and data only when that is requested."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import pytest

from sandbox.cli.main import main
from sandbox.state.directory import StateDirectory
from tests.unit.sandbox.cli.support import IDS, archive, layer, printed, run, volume


def test_archive_that_has_changed_is_not_referenced_and_pruned(
    state: StateDirectory,
    tmp_path: Path,
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    place = archive(state, tmp_path, file, monkeypatch)
    assert printed(capsys, "prune")["removed"] == []
    with open(tmp_path / "a.tar", "ab") as stream:
        stream.write(bytes(512))
    assert printed(capsys, "prune", "--dry-run")["removed"] == [f"archive:{place.name[:8]}"]
    assert place.exists()
    assert printed(capsys, "prune")["removed"] == [f"archive:{place.name[:8]}"]
    assert not place.exists()


def test_prune_removes_data_only_with_data_and_yes(
    state: StateDirectory, tmp_path: Path, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = [layer(state, "old", tmp_path / "gone.toml"), volume(state, "v", tmp_path / "gone.toml")]
    kept = [layer(state, "db", file), volume(state, "data", file)]
    assert printed(capsys, "prune")["removed"] == []
    status, _, err = run(capsys, "prune", "--data")
    assert status == 125
    assert "would remove 1 persistent layer and 1 named volume (" in err
    assert "add --yes" in err
    assert all(path.exists() for path in gone)
    assert printed(capsys, "prune", "--data", "--yes")["removed"] == ["layer:old", "volume:v"]
    assert not any(path.exists() for path in gone)
    assert all(path.exists() for path in kept)


@pytest.mark.parametrize(("answer", "status"), [("y\n", 0), ("no\n", 1), ("", 1)])
def test_prune_asks_on_a_terminal(
    state: StateDirectory,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    answer: str,
    status: int,
) -> None:
    path = layer(state, "old", tmp_path / "gone.toml")

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdin", Terminal(answer))
    monkeypatch.setattr("sys.stderr", Terminal())
    assert main(["prune", "--data"]) == status
    capsys.readouterr()
    assert path.exists() == (status == 1)


def test_prune_removes_what_dead_runs_and_interrupted_commands_left(
    state: StateDirectory, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_ = state.new_run(IDS, name="dead")
    run_.close()
    for path in (Path(run_.path), Path(state.path, "run", os.path.basename(run_.path))):
        facts = json.loads((path / "state.json").read_text())
        (path / "state.json").write_text(json.dumps({**facts, "start": 1}))
    half = layer(state, "half", file)
    half.rename(half.with_name(".removed-0123"))
    (Path(state.images) / "archives" / "0123.new" / "tree").mkdir(parents=True)
    assert {one["kind"]: one["count"] for one in printed(capsys, "df")["kinds"]}["leftover"] == 4
    found = printed(capsys, "prune")
    assert found["removed"] == []
    assert len(found["leftovers"]) == 3
    assert os.listdir(f"{state.path}/run") == os.listdir(f"{state.run_path}/run") == []
    assert os.listdir(f"{state.path}/sandboxes") == os.listdir(f"{state.images}/archives") == []


def test_leftover_that_cannot_be_removed_is_not_in_the_way_of_the_others(
    state: StateDirectory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = Path(state.path, "volumes")
    (base / ".removed-1").symlink_to(tmp_path)
    (base / ".removed-2").mkdir()
    status, _, err = run(capsys, "prune")
    assert (status, f"cannot remove {base}/.removed-1: not a directory" in err) == (0, True)
    assert os.listdir(base) == [".removed-1"]


def test_data_whose_file_cannot_be_looked_at_stays(
    state: StateDirectory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "loop").symlink_to("loop")
    path = volume(state, "data", tmp_path / "loop" / "a.toml")
    assert printed(capsys, "prune", "--data", "--yes")["removed"] == []
    assert path.exists()


def test_volume_of_a_file_from_standard_input_stays(
    state: StateDirectory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    volume(state, "data", tmp_path / "gone.toml")
    os.close(state.open_volume("data", IDS, mode=0o755, file="<stdin>"))
    assert printed(capsys, "prune", "--data", "--yes")["removed"] == []


def test_volume_that_a_start_uses_before_the_answer_stays(
    state: StateDirectory, tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = volume(state, "data", tmp_path / "gone.toml")
    other = volume(state, "other", tmp_path / "gone.toml")
    monkeypatch.setattr("sandbox.cli.prune._confirmed", lambda _data: bool(volume(state, "data", file)))
    assert main(["prune", "--data"]) == 0
    assert (path.exists(), other.exists()) == (True, False)


def test_directory_that_another_user_may_change_is_no_leftover_of_a_dead_run(
    state: StateDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    run_ = state.new_run(IDS, name="dead")
    run_.close()
    for path in (Path(run_.path), Path(state.path, "run", os.path.basename(run_.path))):
        facts = json.loads((path / "state.json").read_text())
        (path / "state.json").write_text(json.dumps({**facts, "start": 1}))
    os.chmod(state.run_path, 0o777)
    assert printed(capsys, "prune", "--dry-run")["leftovers"] == []
    os.chmod(state.run_path, 0o700)
    assert len(printed(capsys, "prune", "--dry-run")["leftovers"]) == 2
