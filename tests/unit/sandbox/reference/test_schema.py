"""Test the JSON Schema with taplo: it accepts the files that `sandbox check` accepts, and finds mistakes that a schema can find."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from sandbox.errors import SpecError
from sandbox.reference.schema import schema
from sandbox.spec import parse
from sandbox.spec.model import Spec
from sandbox.spec.settings import settings_of
from tests.conftest import PROJECT
from tests.unit.sandbox.spec.examples import ALL, with_example

TAPLO = Path(sys.executable).parent / "taplo"


@pytest.fixture(scope="module")
def schema_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("schema") / "schema.json"
    file.write_text(json.dumps(schema()))
    return file


def refused(directory: Path, schema_file: Path, texts: Mapping[str, str | bytes]) -> set[str]:
    """Return the names of the *texts* that do not match the schema."""
    for name, text in texts.items():
        (directory / f"{name}.toml").write_bytes(text if isinstance(text, bytes) else text.encode())
    done = subprocess.run(
        [TAPLO, "check", "--schema", schema_file.as_uri(), *(f"{name}.toml" for name in texts)],
        cwd=directory,
        capture_output=True,
        text=True,
        env={"NO_COLOR": "1", "HOME": str(directory)},
        check=False,
    )
    # taplo sometimes loses log lines; its output for people is complete.
    failed = {
        Path(file).stem for file in re.findall(r"┌─ (.*\.toml):[0-9]+:[0-9]+$", done.stderr, re.MULTILINE)
    }
    assert (done.returncode != 0) == bool(failed), done.stderr
    return failed


def test_the_schema_says_what_it_is() -> None:
    assert schema()["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert list(schema()["properties"]) == list(settings_of(Spec))  # type: ignore[call-overload]


def test_every_setting_has_its_documentation_and_example_in_the_schema() -> None:
    found = {text for node in nodes(schema()) for text in [node.get("description")] if isinstance(text, str)}
    for key, setting in ALL.items():
        assert any(text.startswith(setting.doc) for text in found), key


def nodes(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        for inside in value.values():
            yield from nodes(inside)
    elif isinstance(value, list):
        for inside in value:
            yield from nodes(inside)


def test_every_example_of_a_setting_fits(tmp_path: Path, schema_file: Path) -> None:
    texts = {f"{number}": with_example(key, setting) for number, (key, setting) in enumerate(ALL.items())}
    assert refused(tmp_path, schema_file, texts) == set()


def test_every_file_in_configs_fits(tmp_path: Path, schema_file: Path) -> None:
    files = sorted((Path(PROJECT) / "configs").glob("*.toml"))
    assert len(files) > 5
    assert refused(tmp_path, schema_file, {path.stem: path.read_bytes() for path in files}) == set()


@pytest.mark.parametrize(
    "text",
    [
        'extends = "base.toml"\n',
        'extends = ["a", "b"]\nroot.layers = { append = ["tar:x"] }\n',
        'root.layers = ["${env:X}"]\nnetwork.mode = "${env:MODE:-none}"\nlimits.memory = "${env:M}"\n',
        'root.layers = ["dir:/"]\n[profile.a]\nlimits.memory = "1G"\nvolumes.remove = ["/x"]\n',
        'root.layers = ["dir:/"]\nvolumes = { append = [{ type = "tmpfs", target = "/x" }], remove = ["/y"] }\n',
        'root.layers = ["dir:/"]\n[profile.a.root]\nlayers = ["tar:x"]\n',
    ],
)
def test_parts_of_a_composed_file_fit_the_schema(text: str, tmp_path: Path, schema_file: Path) -> None:
    assert refused(tmp_path, schema_file, {"x": text}) == set()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "root = {}\n",
        'root.layers = ["dir:/"]\nunknown = 1\n',
        'root.layers = ["dir:/"]\nlimits.memry = 1\n',
        "root.layers = []\n",
        'root.layers = ["x:/"]\n',
        'root.layers = ["dir:/"]\nnetwork.mode = "public"\n',
        'root.layers = ["dir:/"]\nlimits.pids = 0\n',
        'root.layers = ["dir:/"]\nlimits.pids = "5"\n',
        'root.layers = ["dir:/"]\nprocess.umask = 22\n',
        'root.layers = ["dir:/"]\n[[volumes]]\ntype = "tmpfs"\n',
        'root.layers = ["dir:/"]\n[profile.a.limits]\nmemry = 1\n',
        'root.layers = ["dir:/"]\n[profile.a]\nextends = "x"\n',
        'root.layers = ["dir:/"]\n[health]\nretries = 1\n',
        'extends = "x"\nvolumes = { apend = [] }\n',
    ],
)
def test_mistakes_that_a_schema_can_find_are_refused(text: str, tmp_path: Path, schema_file: Path) -> None:
    assert refused(tmp_path, schema_file, {"x": text}) == {"x"}


VALUES = st.one_of(
    st.booleans(),
    st.integers(-1, 3),
    st.floats(0, 4),
    st.text("a/:0${}", max_size=4),
    st.lists(st.text("ab", max_size=2), max_size=2),
    st.sampled_from(
        ["512M", "1h30m", "0755", "unlimited", "auto", "host", "1000:1000", "dir:/", "/x", "80:80"]
    ),
)

#: Settings with a value of their own, rather than further settings.
LEAVES = sorted(
    key
    for key in ALL
    if "." in key
    and not key.startswith("layer.")
    and not any(other.startswith((f"{key}.", f"{key}[")) for other in ALL)
)


# Shrinking would start taplo thousands of times.
@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    phases=[Phase.generate],
)
@given(chosen=st.lists(st.tuples(st.sampled_from(LEAVES), VALUES), min_size=150, max_size=150))
def test_the_schema_accepts_every_valid_file(
    chosen: list[tuple[str, object]], tmp_path: Path, schema_file: Path
) -> None:
    accepted = {}
    for number, (key, value) in enumerate(chosen):
        text = with_example(key, ALL[key], value)
        try:
            parse(text.encode(), path="/conf/f.toml", environ={"HOME": "/"}, unenforced="keep")
        except SpecError:
            continue
        accepted[f"{number}"] = text
    if accepted:
        failed = refused(tmp_path, schema_file, accepted)
        assert not failed, accepted[min(failed)]
