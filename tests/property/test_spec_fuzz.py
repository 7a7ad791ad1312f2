"""Test that any file gives a specification, or a SpecError whose diagnostics have valid positions."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sandbox.errors import SpecError
from sandbox.spec import Spec, parse
from sandbox.spec.codecs import ListOf
from sandbox.spec.decode import Record
from sandbox.spec.dump import text_of
from sandbox.spec.notation import format_key, literal
from sandbox.spec.settings import settings_of

BAD = sorted((Path(__file__).parent.parent / "unit/sandbox/spec/bad").glob("*.toml"))
NO_PROFILES: MappingProxyType[str, object] = MappingProxyType({})
VALID = b"""\
[sandbox]
name = "web"
labels = { team = "infra" }

[root]
layers = ["dir:/", { dir = "~/x", cross = ["/usr"] }]

[process]
command = ["sh", "-c", "echo ${env:A:-b}"]
env.A = "\\u00e9"
user = "1000:100"

[[volumes]]
type = "tmpfs"
target = "/tmp"
size = "64M"

[limits]
memory = 536_870_912
cpus = 1.5
wall_time = "1h"
"""


def check(data: bytes) -> Spec | None:
    """Parse *data*; if that fails, check every diagnostic."""
    diagnostics: list[Any] = []
    try:
        spec = parse(data, path="/conf/f.toml", environ={"HOME": "/home/alice", "A": "x"})
    except SpecError as error:
        diagnostics.extend(error.diagnostics)
    else:
        assert spec.root.layers
        check_written_again(spec)
        return spec
    assert diagnostics
    lines = data.decode(errors="replace").replace("\r\n", "\n").split("\n")
    for diagnostic in diagnostics:
        assert diagnostic.message
        assert diagnostic.render().count("\n") <= 2
        if diagnostic.line is not None:
            assert 1 <= diagnostic.line <= len(lines)
            assert diagnostic.source_line == lines[diagnostic.line - 1]
            assert 1 <= diagnostic.column <= len(diagnostic.source_line) + 1
            assert (diagnostic.end_line, diagnostic.end_column) >= (diagnostic.line, diagnostic.column)
    return None


def check_written_again(spec: Spec) -> None:
    """Check that *spec*, written to a file and read again, is equal."""
    bare = dataclasses.replace(spec, extends=(), profile=NO_PROFILES)
    for defaults in (False, True):
        text = text_of(spec, defaults=defaults, origins=defaults)
        assert parse(text.encode(), path="/conf/f.toml", environ={}, unenforced="keep") == bare


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=80))
@example(b"\xef\xbb\xbf")
@example(b"\r")
@example(b"\x80\r\n")
@example(b'a = "\x00"')
@example(b"a=" + b"9" * 5000)
@example(b"a=0x" + b"f" * 5000)
@example(b"a=" + b"[" * 20_000)
@example(b"a=" + b"{a=" * 20_000)
@example(b"a." * 20_000 + b"a=1")
@example(b"[" + b"a." * 20_000 + b"a]")
@example(b"a=1e999999999")
@example(b"a=0001-01-01T00:00:00+23:59")
@example(b"a=9999-12-31T23:59:60Z")
@example(b'process.user="' + b"9" * 5000 + b'"')
@example(b"root.layers=9223372036854775807")
@example(b"limits.memory=-9223372036854775808")
@example(b'limits.memory="' + b"9" * 5000 + b'E"')
@example(b'limits.wall_time="' + b"9" * 5000 + b'd"')
@example(b"volumes=[[],1,{},{type=[]}]")
def test_any_bytes_give_a_specification_or_diagnostics(data: bytes) -> None:
    check(data)


@settings(max_examples=500, deadline=None)
@given(st.text(st.sampled_from("ab1.=[]{},'\"\\ \n#-:${}é\U0001f40d\x00\x1b\t\r"), max_size=60))
def test_any_text_gives_a_specification_or_diagnostics(text: str) -> None:
    check(text.encode())


def test_the_document_that_is_damaged_below_is_valid() -> None:
    assert check(VALID) is not None


@settings(max_examples=500, deadline=None)
@given(st.integers(0, len(VALID)), st.integers(0, 6), st.binary(max_size=4))
def test_a_damaged_document_gives_a_specification_or_diagnostics(
    start: int, length: int, inserted: bytes
) -> None:
    check(VALID[:start] + inserted + VALID[start + length :])


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.stem)
def test_every_beginning_of_a_bad_file_gives_a_specification_or_diagnostics(path: Path) -> None:
    data = path.read_bytes()
    for end in range(0, len(data), max(1, len(data) // 25)):
        check(data[:end])


def keys() -> list[tuple[str, str]]:
    """Return every table of the language with each of its keys."""
    found = []
    for table, setting in settings_of(Spec).items():
        found.append(("", table))
        codec = setting.codec.codec if isinstance(setting.codec, ListOf) else setting.codec
        if isinstance(codec, Record):
            found.extend(
                (f"[[{table}]]" if isinstance(setting.codec, ListOf) else f"[{table}]", key)
                for key in settings_of(codec.cls)
            )
    return found


LEAVES = st.one_of(
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.sampled_from([0, 1, -1, 4 << 20, 1000]),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=6),
    st.sampled_from(
        [
            "host",
            "private",
            "dir:/",
            "tar:x",
            "unlimited",
            "all",
            "auto",
            "single",
            "bind",
            "tmpfs",
            "/a",
            "0755",
            "1h",
            "1.5G",
            "~",
            "~/",
            "~x",
            "dir:",
            "0:0",
            ":",
            "SIGTERM",
            "RTMIN+1",
            "${",
            "${env:A}",
            "$${",
            "/proc",
            "/..",
            "a.b",
            "io",
        ]
    ),
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.one_of(
                st.sampled_from(["dir", "tar", "drop", "add", "type", "target"]),
                st.text(st.characters(exclude_categories=["Cs"]), max_size=3),
            ),
            inner,
            max_size=3,
        ),
    ),
    max_leaves=6,
)


@settings(max_examples=800, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(keys()), VALUES), min_size=1, max_size=4, unique_by=lambda item: item[0]
    )
)
def test_any_value_of_any_key_gives_a_specification_or_diagnostics(
    chosen: list[tuple[tuple[str, str], object]],
) -> None:
    top = "".join(f"{key} = {literal(value)}\n" for (header, key), value in chosen if not header)
    tables: dict[str, str] = {}
    for (header, key), value in chosen:
        if header:
            tables[header] = tables.get(header, "") + f"{format_key(key)} = {literal(value)}\n"
    named = {key for (header, key), _ in chosen if not header}
    body = "".join(
        f"{header}\n{lines}" for header, lines in tables.items() if header.strip("[]") not in named
    )
    layers = 'root.layers = ["dir:/"]\n' if "[root]" not in tables and "root" not in named else ""
    check((layers + top + body).encode())


ASSIGNMENTS = st.one_of(
    st.text(st.sampled_from("abv.=[]{},'\"\\ \n#0-1:${}é\x00\r"), max_size=30),
    st.tuples(
        st.sampled_from(
            "limits.memory limits volumes volumes[0] volumes[0].size volumes[1].target volumes[7] volumes[0][0] root.layers "
            "root.layers[0] process.env process.env.A process.args process.args[0] profile.x extends a.b".split()
        ),
        st.one_of(
            VALUES.map(literal),
            st.sampled_from(
                ["x", "", "{ append = [1] }", "{ remove = ['/tmp'] }", "[", '"', "true\nx = 1", "1979-05-27"]
            ),
        ),
    ).map("=".join),
)


@settings(max_examples=800, deadline=None)
@given(st.lists(ASSIGNMENTS, min_size=1, max_size=3))
def test_any_values_of_the_command_line_give_a_specification_or_diagnostics(assignments: list[str]) -> None:
    try:
        spec = parse(VALID, path="/conf/f.toml", environ={"HOME": "/home/alice"}, assignments=assignments)
    except SpecError as error:
        diagnostics: list[Any] = list(error.diagnostics)
        assert diagnostics
        for diagnostic in diagnostics:
            assert diagnostic.message
            assert diagnostic.file in ("--set", "/conf/f.toml")
            assert diagnostic.render()
    else:
        check_written_again(spec)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(base=st.binary(max_size=60), extends=st.text(st.sampled_from("b./~${}\x00é\n"), max_size=8))
@example(base=b'root.layers=["dir:/"]', extends="b")
@example(base=b'extends="f.toml"', extends="b")
@example(base=b'extends="b"', extends="b")
def test_any_file_that_is_extended_gives_a_specification_or_diagnostics(
    base: bytes, extends: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.mktemp("fuzz")
    (directory / "b").write_bytes(base)
    main = f"extends = {literal(extends)}\nroot.layers = {{ append = ['tar:x'] }}\n"
    found: list[Any] = []
    try:
        spec = parse(main.encode(), path=str(directory / "f.toml"), environ={"HOME": str(directory)})
    except SpecError as error:
        found += error.diagnostics
    else:
        assert spec.root.layers
        return
    assert found
    assert all(diagnostic.render() for diagnostic in found)
