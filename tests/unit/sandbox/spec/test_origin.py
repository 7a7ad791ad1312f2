"""Test `sandbox.spec.origin`: from key paths to positions."""

from __future__ import annotations

import pytest

from sandbox.errors import SpecError
from sandbox.spec.load import parse
from sandbox.spec.locate import locate
from sandbox.spec.notation import KeyPath
from sandbox.spec.origin import MAX_DIAGNOSTICS, Origins, Place, Problem, Source

TEXT = '[root]\nlayers = ["dir:/", "dir:${x}"]\n\n[[volumes]]\ntarget = "/a"\n'


@pytest.fixture
def origins() -> Origins:
    return Origins.of(Source(file="f.toml", directory="/d", text=TEXT), locate(TEXT).entries)


def test_offsets_and_positions_are_inverse() -> None:
    source = Source(file="f", directory="/", text="ab\n\ncd\n")
    positions = [source.position(offset) for offset in range(8)]
    assert positions == [(1, 1), (1, 2), (1, 3), (2, 1), (3, 1), (3, 2), (3, 3), (4, 1)]
    assert [source.offset(line, column) for line, column in positions] == list(range(8))


def test_a_written_value_has_a_position(origins: Origins) -> None:
    origin = origins.find("root.layers[1]")
    assert origin is not None
    assert origin.source.place(origin.entry.value) == Place("f.toml", 2, 20)


def test_an_absent_value_has_no_position(origins: Origins) -> None:
    assert origins.find(("root", "writable")) is None
    assert origins.find("root.layers[2]") is None


@pytest.mark.parametrize(
    ("path", "part", "place"),
    [
        ("root.layers[1]", "value", (2, 20, 30)),
        ("root.layers", "key", (2, 1, 7)),
        ("root.layers", "value", (2, 10, 31)),
        ("root.writable", "value", (1, 2, 6)),
        ("root.layers[1].cross[0]", "value", (2, 20, 30)),
        ("volumes[0].source", "key", (4, 3, 10)),
        ("limits.memory", "value", (None, None, None)),
        ("", "value", (None, None, None)),
    ],
)
def test_a_diagnostic_is_at_the_part_or_at_the_innermost_table_around_it(
    origins: Origins, path: str, part: str, place: tuple[int | None, ...]
) -> None:
    diagnostic = origins.diagnose(path, "m", "h", part="key" if part == "key" else "value")
    assert (diagnostic.line, diagnostic.column, diagnostic.end_column) == place
    assert (diagnostic.file, diagnostic.key, diagnostic.message, diagnostic.hint) == (
        "f.toml",
        path,
        "m",
        "h",
    )


def test_a_fragment_is_marked_if_it_is_there(origins: Origins) -> None:
    paths: list[KeyPath] = [("root", "layers", 1), ("root", "layers", 0)]
    whole, marked = origins.diagnose_all(Problem(path=path, message="m", fragment="${x}") for path in paths)
    assert (whole.column, whole.end_column) == (11, 18)
    assert (marked.column, marked.end_column) == (25, 29)


def test_only_the_first_of_very_many_problems_are_reported_with_the_total(origins: Origins) -> None:
    problems = [Problem(path=("volumes", 0, "target"), message="late")] * 250
    problems += [Problem(path=("root", "layers"), message="early"), Problem(path=("ids",), message="nowhere")]
    told = origins.diagnose_all(problems)
    assert [diagnostic.message for diagnostic in told[:3]] == ["nowhere", "early", "late"]
    assert len(told) == MAX_DIAGNOSTICS + 1
    assert (
        told[-1].render()
        == "f.toml: 252 mistakes in all, of which the first are shown\n      hint: correct the mistakes above first"
    )


def test_each_value_keeps_the_directory_of_its_source(origins: Origins) -> None:
    other = Source(file="g.toml", directory="/e", text="[limits]\npids = 1\n")
    merged = Origins(
        origins.main, {**origins.by_path, **Origins.of(other, locate(other.text).entries).by_path}
    )
    assert merged.directory(("limits", "pids")) == "/e"
    assert merged.directory(("root", "layers", 0)) == "/d"
    assert merged.directory(("ids", "map")) == "/d"
    assert merged.diagnose("limits.pids", "m").file == "g.toml"


def test_a_problem_of_an_absent_key_is_reported_at_its_table() -> None:
    text = 'root = { layers = ["dir:/"] }\n[limits]\npids = 5\n'
    spec = parse(text.encode(), path="a.toml", environ={})
    inline = spec.diagnose("root.size", "is missing")
    assert (inline.line, inline.column, inline.end_column) == (1, 1, 5)
    header = spec.diagnose("limits.memory", "is missing")
    assert (header.line, header.column, header.end_column) == (2, 2, 8)
    assert spec.diagnose("network.mode", "is missing").line is None


def test_the_total_is_reported_only_if_problems_are_left_out() -> None:
    for number in (MAX_DIAGNOSTICS, MAX_DIAGNOSTICS + 1):
        text = 'root.layers = ["dir:/"]\n' + "".join(f"x{index} = 1\n" for index in range(number))
        with pytest.raises(SpecError) as raised:
            parse(text.encode(), path="a.toml", environ={})
        told = [diagnostic.as_dict()["message"] for diagnostic in raised.value.diagnostics]
        assert told[:MAX_DIAGNOSTICS] == ["unknown key"] * MAX_DIAGNOSTICS
        assert told[MAX_DIAGNOSTICS:] == (
            [f"{number} mistakes in all, of which the first are shown"] if number > MAX_DIAGNOSTICS else []
        )


def test_problems_without_a_position_come_first() -> None:
    with pytest.raises(SpecError) as raised:
        parse(b"x = 1\n", path="a.toml", environ={})
    assert [diagnostic.as_dict()["line"] for diagnostic in raised.value.diagnostics] == [None, 1]
