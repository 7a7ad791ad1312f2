"""Every file in bad/ gives exactly the text beside it, so that the wording of errors is reviewed like code."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandbox.errors import SpecError
from sandbox.spec import load

HERE = Path(__file__).parent
CASES = sorted(path.stem for path in (HERE / "bad").glob("*.toml"))


@pytest.mark.parametrize("name", CASES)
def test_a_bad_file_gives_exactly_the_expected_text(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(HERE)
    with pytest.raises(SpecError) as caught:
        load(f"bad/{name}.toml", environ={"HOME": "/home/alice"})
    assert str(caught.value) + "\n" == (HERE / "bad" / f"{name}.expected").read_text()
    assert caught.value.exit_code == 125


def test_every_expected_text_belongs_to_a_file() -> None:
    assert sorted(path.stem for path in (HERE / "bad").glob("*.expected")) == CASES
    assert len(CASES) > 50
