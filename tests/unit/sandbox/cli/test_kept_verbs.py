"""`ls`, `df` and `rm` on a state directory, from the command line down to the disk; `prune` in test_prune.py."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path

import pytest

from sandbox.completion.candidates import kept_items, persistent_layers
from sandbox.kernel.trees import disk_usage
from sandbox.state.directory import StateDirectory
from sandbox.state.references import note_reference, read_references
from tests.unit.sandbox.cli.support import IDS, archive, layer, printed, run, volume


def test_nothing_is_kept_and_nothing_is_made_where_there_is_no_state_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SANDBOX_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("SANDBOX_RUN_DIR", str(tmp_path / "run"))
    assert printed(capsys, "ls") == []
    assert printed(capsys, "df")["bytes"] == 0
    assert printed(capsys, "prune")["removed"] == []
    assert printed(capsys, "rm", "layer:x", status=125)["error"]["message"].startswith(
        "there is nothing to remove"
    )
    assert list(tmp_path.iterdir()) == []


def test_ls_lists_each_kind_with_its_size_and_files(
    state: StateDirectory,
    tmp_path: Path,
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    layer(state, "db", file)
    volume(state, "data", tmp_path / "gone.toml")
    place = archive(state, tmp_path, file, monkeypatch)
    found = printed(capsys, "ls")
    assert [(one["kind"], one["name"], one["referenced"]) for one in found] == [
        ("layer", "db", True),
        ("volume", "data", False),
        ("archive", place.name[:8], True),
    ]
    assert found[0]["bytes"] >= 8192
    assert found[0]["source"] == ["dir:/"]
    assert found[1]["files"] == [{"file": str(tmp_path / "gone.toml"), "exists": False}]
    assert found[2]["source"] == [str(tmp_path / "a.tar")]
    status, out, _ = run(capsys, "ls")
    assert status == 0
    assert [line.split("\t")[0] for line in out.splitlines()] == [
        "layer:db",
        "volume:data",
        f"archive:{place.name[:8]}",
    ]
    assert f"{tmp_path}/gone.toml (gone)" in out


def test_json_has_the_shapes_that_are_promised(
    state: StateDirectory, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As docs/json.md describes them."""
    layer(state, "db", file)
    keys = [
        *("kind", "name", "path", "bytes", "last_used", "referenced"),
        *("in_use", "files", "layers", "source"),
    ]
    (found,) = printed(capsys, "ls")
    assert list(found) == keys
    sums = printed(capsys, "df")
    assert list(sums) == ["state_directory", "bytes", "kinds"]
    assert {tuple(one) for one in sums["kinds"]} == {("kind", "count", "bytes", "unreferenced_bytes")}
    assert list(printed(capsys, "prune")) == ["removed", "leftovers", "bytes", "dry_run"]
    assert printed(capsys, "rm", "layer:db") == {"removed": ["layer:db"]}


def test_df_sums_what_ls_lists(
    state: StateDirectory, tmp_path: Path, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layer(state, "db", file)
    layer(state, "old", tmp_path / "gone.toml")
    items = printed(capsys, "ls")
    found = printed(capsys, "df")
    (sums,) = (one for one in found["kinds"] if one["kind"] == "layer")
    assert sums["count"] == 2
    assert sums["bytes"] == sum(one["bytes"] for one in items) == found["bytes"]
    assert sums["unreferenced_bytes"] == next(one["bytes"] for one in items if one["name"] == "old")
    _, out, _ = run(capsys, "df")
    assert [line.split("\t")[0] for line in out.splitlines()] == [
        "layer",
        "changes",
        "volume",
        "archive",
        "image",
        "leftover",
    ]


def test_rm_removes_what_is_named_and_nothing_else(
    state: StateDirectory,
    tmp_path: Path,
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    paths = [
        layer(state, "db", file),
        volume(state, "data", file),
        archive(state, tmp_path, file, monkeypatch),
    ]
    kept = layer(state, "db2", file)
    status, out, err = run(capsys, "rm", "layer:db", "volume:data", f"archive:{paths[2].name[:5]}")
    assert (status, out) == (0, "")
    assert err.startswith("removed layer:db\nremoved volume:data\n")
    assert [path.exists() for path in paths] == [False, False, False]
    assert kept.exists()
    for base in ("sandboxes", "volumes", "images/archives"):
        assert not [name for name in os.listdir(f"{state.path}/{base}") if name.startswith(".")]


@pytest.mark.parametrize(
    ("thing", "message", "hint"),
    [
        ("layer:none", "there is no persistent layer none", "`sandbox ls`"),
        ("layer:../db", "there is no persistent layer ../db", "`sandbox ls`"),
        ("layer:", "there is no persistent layer ", "`sandbox ls`"),
        ("archive:", "there is no unpacked archive ", "`sandbox ls`"),
        ("image:x", "the image store has no image x", "`sandbox image ls`"),
        ("run:x", "run:x: run is not one of layer, changes, volume, archive and image", "image:NAME"),
        ("db", "there is no run db", "did you mean layer:db or volume:db?"),
    ],
)
def test_rm_of_what_is_not_there_says_so(
    state: StateDirectory,
    file: Path,
    capsys: pytest.CaptureFixture[str],
    thing: str,
    message: str,
    hint: str,
) -> None:
    path = layer(state, "db", file)
    volume(state, "db", file)
    status, _, err = run(capsys, "rm", thing)
    assert status == 125
    assert message in err
    assert hint in err
    assert path.exists()


def test_one_that_cannot_be_removed_is_not_in_the_way_of_the_others(
    state: StateDirectory, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = layer(state, "db", file)
    status, _, err = run(capsys, "rm", "layer:none", "layer:db", "layer:other")
    assert status == 125
    assert "removed layer:db" in err
    assert "no persistent layer none" in err
    assert "no persistent layer other" in err
    assert not path.exists()


@pytest.mark.parametrize("locks", ["work", "always succeed"])
@pytest.mark.parametrize("kind", ["layer", "volume", "archive"])
def test_what_is_in_use_is_refused(
    state: StateDirectory,
    tmp_path: Path,
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    locks: str,
    kind: str,
) -> None:
    """In use by its lock, or by the record of a run of another machine, whose locks this machine may not see."""
    path = {
        "layer": lambda: layer(state, "x", file),
        "volume": lambda: volume(state, "x", file),
        "archive": lambda: archive(state, tmp_path, file, monkeypatch),
    }[kind]()
    name = path.name
    if locks == "work":
        fd = os.open(path / "lock", os.O_RDWR)
        fcntl.flock(fd, fcntl.LOCK_SH)
        expected = "is in use\n"
    else:
        monkeypatch.setattr(fcntl, "flock", lambda *_: None)
        fd = -1
        record = Path(state.path, "run", "a-00000000", "state.json")
        record.parent.mkdir()
        uses = {"layer": name, "volumes": [name], "archives": [str(tmp_path / "a.tar")]}
        place = {"version": 2, "machine": "m", "host": "far", "boot": "", "pid_namespace": ""}
        record.write_text(json.dumps({**place, "pid": 7, "start": 1, **uses}))
        expected = "is in use by a-00000000 (pid 7, on far)\n"
    status, _, err = run(capsys, "rm", f"{kind}:{name}")
    assert status == 125
    assert expected in err
    assert printed(capsys, "prune", "--data", "--yes")["removed"] == []
    assert path.exists()
    if fd >= 0:
        os.close(fd)
    else:
        assert printed(capsys, "ls")[0]["in_use"] == ["a-00000000 (pid 7, on far)"]


def test_link_in_the_place_of_a_volume_is_refused_and_keeps_its_name(
    state: StateDirectory, tmp_path: Path, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = volume(state, "data", file)
    path.rename(tmp_path / "moved")
    path.symlink_to(tmp_path / "moved")
    status, _, err = run(capsys, "rm", "volume:data")
    assert (status, f"{path} is a symbolic link" in err) == (125, True)
    assert path.is_symlink()
    assert (tmp_path / "moved" / "data").is_dir()


def test_names_that_end_as_those_of_interrupted_imports_are_listed_and_removed(
    state: StateDirectory, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layer(state, "db.new", file)
    volume(state, "data.importing", file)
    assert [one["name"] for one in printed(capsys, "ls")] == ["db.new", "data.importing"]
    names = ["layer:db.new", "volume:data.importing"]
    assert printed(capsys, "rm", *names) == {"removed": names}


DAMAGED = {
    "nested deeply": "[" * 100_000,
    "a path with a NUL": json.dumps(
        {
            "version": 2,
            **dict.fromkeys(["machine", "host", "boot", "pid_namespace"], "x"),
            **dict.fromkeys(["file", "archive", "run_directory", "record"], "/a\0b"),
            "files": ["/a\0b"],
            "layers": None,
        }
    ),
    "no text": json.dumps({"file": "/\ud800", "archive": "/\ud800", "files": ["/\ud800"], "layers": None}),
    "a large number": json.dumps({"pid": 10**300, "start": 1, "layers": None}),
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED.keys())
def test_damaged_records_are_not_in_the_way_of_the_others(
    state: StateDirectory,
    tmp_path: Path,
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    content: str,
) -> None:
    records = [
        layer(state, "bad", file) / "state.json",
        volume(state, "bad", file) / "state.json",
        volume(state, "worse", file) / "references.json",
        archive(state, tmp_path, file, monkeypatch) / "references.json",
        Path(state.path, "run", "dead-00000000", "state.json"),
    ]
    records[-1].parent.mkdir()
    records.append(records[3].with_name("ids"))
    for record in records:
        record.write_text(content)
    volume(state, "good", file)
    found = [(one["kind"], one["name"]) for one in printed(capsys, "ls")]
    assert ("volume", "good") in found
    assert len(found) == 5
    printed(capsys, "df")
    printed(capsys, "prune", "--dry-run")


def test_empty_argument_names_no_run(state: StateDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    """A shell passes an empty argument for a variable that is not set."""
    run_ = state.new_run(IDS, name="dead")
    run_.close()
    record = Path(state.path, "run", os.path.basename(run_.path), "state.json")
    record.write_text(json.dumps({**json.loads(record.read_text()), "start": 1}))
    assert "the argument is empty" in printed(capsys, "rm", "", status=125)["error"]["message"]
    assert os.listdir(f"{state.path}/run") == [os.path.basename(run_.path)]


def test_rm_removes_what_a_dead_run_left_and_refuses_a_live_one(
    state: StateDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    run_ = state.new_run(IDS, name="one")
    name = os.path.basename(run_.path)
    status, _, err = run(capsys, "rm", name[:-2])
    assert status == 125
    assert f"sandbox {name} (pid {os.getpid()}) is running" in err
    run_.close()
    record = Path(state.path, "run", name, "state.json")
    record.write_text(json.dumps({**json.loads(record.read_text()), "start": 1}))
    assert printed(capsys, "rm", name) == {"removed": [name]}
    assert os.listdir(f"{state.path}/run") == os.listdir(f"{state.run_path}/run") == []


def test_names_of_what_is_kept_are_completed(
    state: StateDirectory, tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer(state, "db", file)
    volume(state, "data", file)
    place = archive(state, tmp_path, file, monkeypatch)
    assert persistent_layers() == {"db": str(file)}
    assert kept_items() == {
        "layer:db": "dir:/",
        "volume:data": str(file),
        f"archive:{place.name[:8]}": str(tmp_path / "a.tar"),
    }
    monkeypatch.setenv("SANDBOX_STATE_DIR", str(tmp_path / "none"))
    assert kept_items() == persistent_layers() == {}


def test_state_directory_that_cannot_be_trusted_is_refused(
    state: StateDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    os.chmod(state.path, 0o777)
    for words in (["ls"], ["df"], ["rm", "layer:x"], ["prune"]):
        status, _, err = run(capsys, *words)
        assert status == 125
        assert "can be written by other users" in err


def test_references_are_noted_once_and_damaged_ones_count_as_none(tmp_path: Path) -> None:
    lock = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    os.utime(tmp_path / "lock", (1, 1))
    for name in ("/a.toml", "/b.toml", "/a.toml", None):
        note_reference(str(tmp_path), name, lock_fd=lock, archive="/x.tar")
    os.close(lock)
    found = read_references(str(tmp_path))
    assert (found.files, found.archive) == (("/a.toml", "/b.toml"), "/x.tar")
    assert (tmp_path / "lock").stat().st_mtime > 1
    for content in ("", "[]", '{"files": 7}'):
        (tmp_path / "references.json").write_text(content)
        assert read_references(str(tmp_path)).files == ()
    assert sorted(os.listdir(tmp_path)) == ["lock", "references.json"]


def test_disk_usage_counts_links_once_at_any_depth(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(1 << 16))
    os.link(tmp_path / "a", tmp_path / "b")
    (tmp_path / "link").symlink_to("/")
    top = os.open(tmp_path, os.O_RDONLY)
    at = os.dup(top)
    for _ in range(1500):
        os.mkdir(b"deep", dir_fd=at)
        below = os.open(b"deep", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    file = os.open(b"file", os.O_CREAT | os.O_WRONLY, dir_fd=at)
    os.write(file, bytes(1 << 16))
    os.close(file)
    os.close(at)
    assert 2 << 16 <= disk_usage(top) < (2 << 16) + 1600 * 8192
    os.close(top)
