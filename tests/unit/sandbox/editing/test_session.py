"""Test the copy that `sandbox edit` opens. tests/e2e/test_editing.py tests the dialogue."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from sandbox.editing.session import edit_file, editor_of
from sandbox.errors import EditError

VALID = b'[root]\nlayers = ["dir:/"]\n'


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "x.toml"
    path.write_bytes(VALID)
    return path


def edit(script: str, **environ: str) -> list[str]:
    """Edit x.toml with the shell *script*, whose $0 is the copy; return the texts that are shown."""
    shown: list[str] = []
    edit_file("x.toml", environ={"EDITOR": f"sh -c '{script}'", **environ}, show=shown.append, ask=None)
    return shown


def test_the_copy_is_private_and_has_the_content(file: Path) -> None:
    file.chmod(0o644)
    assert edit('stat -c %a "$0" > mode; cp "$0" content; ls -A > names') == ["x.toml is unchanged"]
    assert Path("mode").read_text() == "600\n"
    assert Path("content").read_bytes() == VALID
    (copy,) = {*Path("names").read_text().split()} - {"x.toml", "mode", "content", "names"}
    assert copy.startswith(".x.")
    assert copy.endswith(".toml")
    assert not Path(copy).exists()
    assert stat.S_IMODE(file.stat().st_mode) == 0o644


def test_a_read_only_file_is_refused_before_an_editor_opens(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.link(file, "second")
    with pytest.raises(EditError, match="has 2 names"):
        edit("touch opened")
    assert not Path("opened").exists()


def test_a_copy_that_cannot_be_installed_is_kept(file: Path) -> None:
    with pytest.raises(EditError, match="was changed by another process in the meantime") as raised:
        edit('echo "# mine" >> "$0"; echo "# theirs" >> x.toml')
    assert raised.value.hint is not None
    copy = Path(raised.value.hint.removeprefix("your version is kept in "))
    assert copy.read_bytes() == VALID + b"# mine\n"
    assert file.read_bytes() == VALID + b"# theirs\n"


def test_visual_takes_precedence_over_editor() -> None:
    assert editor_of({"VISUAL": "a -b", "EDITOR": "c"}) == ["a", "-b"]
    assert editor_of({"VISUAL": " ", "EDITOR": "c"}) == ["c"]
    assert editor_of({}) == ["vi"]
