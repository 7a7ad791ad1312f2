"""Compare the error of each file in bad/ with the expected text beside it, so that wording is reviewed like code.

The first line of a file may have options of the command line: `#: --profile NAME --set KEY=VALUE`. Extended files are in
bad/bases/. After a change of the wording, run `python tests/unit/sandbox/spec/test_bad_files.py`, and review the difference.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import pytest

from sandbox.errors import SpecError
from sandbox.spec import load

HERE = Path(__file__).parent
CASES = sorted(path.stem for path in (HERE / "bad").glob("*.toml"))


def error_of(name: str) -> SpecError:
    """Return the error from loading a file of bad/. The current directory must be the directory of this test."""
    file = f"bad/{name}.toml"
    first = Path(file).read_bytes().split(b"\n")[0]
    options = shlex.split(first[2:].decode()) if first.startswith(b"#:") else []
    pairs = list(zip(options[::2], options[1::2], strict=True))
    try:
        load(
            file,
            environ={"HOME": "/home/alice"},
            profiles=[value for option, value in pairs if option == "--profile"],
            assignments=[value for option, value in pairs if option == "--set"],
        )
    except SpecError as error:
        return error
    raise AssertionError(f"{file} is not bad")


@pytest.mark.parametrize("name", CASES)
def test_a_bad_file_gives_exactly_the_expected_text(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(HERE)
    error = error_of(name)
    assert str(error) + "\n" == (HERE / "bad" / f"{name}.expected").read_text()
    assert error.exit_code == 125


def test_every_expected_text_belongs_to_a_file() -> None:
    assert sorted(path.stem for path in (HERE / "bad").glob("*.expected")) == CASES
    assert len(CASES) > 50


if __name__ == "__main__":
    os.chdir(HERE)
    for case in CASES:
        Path(f"bad/{case}.expected").write_text(f"{error_of(case)}\n")
