"""Compare plans and errors with the expected texts beside the files in good/ and bad/, so that they are reviewed like code.

After a change, run `python -m tests.unit.sandbox.images.build.test_expected_files`, and review the difference.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sandbox.errors import SpecError
from sandbox.images.build.containerfile import parse
from sandbox.images.build.instructions import From
from sandbox.images.build.stages import plan_build
from tests.unit.sandbox.images.build.planning import described, options

HERE = Path(__file__).parent
GOOD = sorted(path.stem for path in (HERE / "good").glob("*.containerfile"))
BAD = sorted(path.stem for path in (HERE / "bad").glob("*.containerfile"))
ARGUMENTS = {"VERSION": "1.2.3", "TAG": "7", "http_proxy": "http://proxy:3128", "FORGOTTEN": "x"}


def plan_of(name: str) -> str:
    file = parse((HERE / "good" / f"{name}.containerfile").read_bytes(), "Containerfile")
    return described(plan_build(file, options(ARGUMENTS)))


def error_of(name: str) -> str:
    """Return the mistakes of a file of bad/. Only stages that the result needs are looked at, so each one is a target."""
    path = f"bad/{name}.containerfile"
    found: dict[str, None] = {}
    try:
        file = parse((HERE / path).read_bytes(), path)
    except SpecError as error:
        return f"{error}\n"
    for target in range(sum(isinstance(item, From) for item in file.instructions)):
        try:
            plan_build(file, options(target=str(target)))
        except SpecError as error:
            found |= dict.fromkeys(map(str, str(error).split("\n" + path)))
    assert found, f"{path} is not bad"
    texts = (text.removeprefix(path) for text in found)
    return "".join(f"{path}{text}\n" for text in texts)


@pytest.mark.parametrize("name", GOOD)
def test_a_good_file_gives_exactly_the_expected_plan(name: str) -> None:
    assert plan_of(name) == (HERE / "good" / f"{name}.expected").read_text()


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_gives_exactly_the_expected_text(name: str) -> None:
    assert error_of(name) == (HERE / "bad" / f"{name}.expected").read_text()


def test_every_expected_text_belongs_to_a_file() -> None:
    assert sorted(path.stem for path in (HERE / "good").glob("*.expected")) == GOOD
    assert sorted(path.stem for path in (HERE / "bad").glob("*.expected")) == BAD
    assert len(GOOD) > 4
    assert len(BAD) > 15


if __name__ == "__main__":
    os.chdir(HERE)
    for case in GOOD:
        Path(f"good/{case}.expected").write_text(plan_of(case))
    for case in BAD:
        Path(f"bad/{case}.expected").write_text(error_of(case))
