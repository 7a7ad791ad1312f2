"""Keeps layers, volumes and archives in a state directory, and runs commands on it in this process."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest

from sandbox.cli.main import main
from sandbox.images.layer_store import LayerStore
from sandbox.kernel.idmaps import single_map
from sandbox.plan import IdPlan, LayerRecord
from sandbox.state.directory import StateDirectory

IDS = IdPlan(uid_map=single_map(os.geteuid()), gid_map=single_map(os.getegid()), helpers=None, single=True)


def layer(state: StateDirectory, name: str, file: Path) -> Path:
    """Keep a persistent layer from *file*, with a file in it; return its directory."""
    record = LayerRecord(file=str(file), layers=(("dir", "/", None),))
    home = state.persistent(IDS, name=name, record=record, before=None)
    home.close()
    upper = Path(state.path, "sandboxes", name, "upper")
    upper.mkdir()
    (upper / "file").write_bytes(bytes(8192))
    return upper.parent


def volume(state: StateDirectory, name: str, file: Path) -> Path:
    """Keep a named volume from *file*; return its directory."""
    os.close(state.open_volume(name, IDS, mode=0o755, file=str(file)))
    return Path(state.path, "volumes", name)


def archive(state: StateDirectory, tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Unpack an archive for *file*; return its directory in the store."""
    with tarfile.open(tmp_path / "a.tar", "w") as made:
        made.addfile(tarfile.TarInfo("file"), io.BytesIO())
    monkeypatch.setattr(LayerStore, "_fill", lambda *_: ("", []))
    found = LayerStore(state).open_archive(str(tmp_path / "a.tar"), IDS, file=str(file))
    found.close()
    return Path(found.place)


def printed(capsys: pytest.CaptureFixture[str], *words: str, status: int = 0) -> Any:
    """Return the JSON that a command prints."""
    assert main([*words, "--json"]) == status, capsys.readouterr()
    return json.loads(capsys.readouterr().out)


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Run a command; return its status, standard output and standard error."""
    status = main(words)
    out, err = capsys.readouterr()
    return status, out, err
