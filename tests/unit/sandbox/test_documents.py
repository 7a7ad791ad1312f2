"""Parsed documents that are kept in the state directory."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sandbox import documents
from sandbox.documents import Documents
from sandbox.errors import SpecError
from sandbox.spec.document import pack, parse_document
from sandbox.spec.load import parse
from tests.support.tampering import fifo, link, open_to_others

GOOD = b"""\
extends = []
[root]
layers = ["dir:/"]  # all of it
[process]
command = ["true"]
env = { A = "\\u00e9\\n", B = "inf", C = 'C:\\d', D = "tab	" }
[limits]
cpus = 1.5
[sandbox]
description = '''
two "lines",
one of them 'quoted'''
[[volumes]]
type = "tmpfs"
target = "/scratch"
"""
#: TOML that is right, and settings that are not.
MISTAKEN = GOOD + b'size = "1X"\nwhat = 3\n'


@pytest.fixture
def state(tmp_path: Path) -> Path:
    directory = tmp_path / "state"
    directory.mkdir(mode=0o700)
    return directory


def memory(state: Path) -> Documents:
    return Documents({"SANDBOX_STATE_DIR": str(state)}, os.geteuid())


def keep(state: Path, data: bytes) -> Path:
    """Have what *data* is parsed to kept; return the file."""
    kept = memory(state)
    parse_document(data, file="a.toml", directory="/d", memory=kept)
    fd = os.open(state, os.O_RDONLY)
    try:
        kept.keep(fd)
    finally:
        os.close(fd)
    (path,) = (state / "documents").iterdir()
    return path


def test_a_kept_document_is_the_parsed_one_and_needs_no_parser(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = parse_document(GOOD, file="a.toml", directory="/d")
    path = keep(state, GOOD)
    assert path.stat().st_mode & 0o777 == 0o600
    monkeypatch.setattr("sandbox.spec.document.locate", None)
    assert parse_document(GOOD, file="a.toml", directory="/d", memory=memory(state)) == expected


def test_it_is_of_the_text_alone_and_not_of_where_the_file_is(state: Path) -> None:
    keep(state, GOOD)
    found = memory(state)
    assert parse_document(GOOD, file="b.toml", directory="/e", memory=found) == parse_document(
        GOOD, file="b.toml", directory="/e"
    )


def test_mistakes_of_a_kept_document_are_told_at_the_same_places(state: Path) -> None:
    keep(state, MISTAKEN)
    told = []
    for kept in (None, memory(state)):
        with pytest.raises(SpecError) as refused:
            parse(MISTAKEN, path="a.toml", environ={}, memory=kept)
        told.append(refused.value.render())
    assert "a.toml:16:" in told[0]
    assert told[0] == told[1]


@pytest.mark.parametrize(
    "data", [b"a = 1\na = 2\n", b"a = \n", b"\xff", b"a = 2001-01-01\n", b"[a", b"a = 9223372036854775808"]
)
def test_what_is_no_document_or_has_dates_is_not_kept(state: Path, data: bytes) -> None:
    kept = memory(state)
    try:
        parse_document(data, file="a.toml", directory="/", memory=kept)
    except SpecError:
        pass
    fd = os.open(state, os.O_RDONLY)
    kept.keep(fd)
    os.close(fd)
    assert list(state.iterdir()) == []


def test_no_string_of_a_file_is_kept(state: Path) -> None:
    kept = keep(state, GOOD).read_bytes()
    tree = parse_document(GOOD, file="a.toml", directory="/d")[0]
    for text in ("dir:/", "lines", "quoted", "inf", "/scratch", "tmpfs"):
        assert text in repr(tree)
        assert text.encode() not in kept


@pytest.mark.parametrize("written", ['"\\U0001f600"', '"""a\\tb"""', '"""a\\\n b"""', "nan"])
def test_a_value_that_its_place_does_not_tell_is_parsed_each_time(state: Path, written: str) -> None:
    data = f"a = {written}\n".encode()
    kept = memory(state)
    parse_document(data, file="a.toml", directory="/", memory=kept)
    assert kept._new == {}


def damage(path: Path) -> None:
    assert b"1.5" in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(b"1.5", b"9.5"))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def second_name(path: Path) -> None:
    path.with_name("elsewhere").hardlink_to(path)


def open_shelf(path: Path) -> None:
    path.parent.chmod(0o777)


def linked_shelf(path: Path) -> None:
    shelf = path.parent
    shelf.rename(shelf.with_name("elsewhere"))
    shelf.symlink_to("elsewhere")


def open_state(path: Path) -> None:
    path.parent.parent.chmod(0o777)


@pytest.mark.parametrize(
    "change",
    [damage, cut, empty, open_to_others, link, second_name, fifo, open_shelf, linked_shelf, open_state],
    ids=lambda change: change.__name__,
)
def test_what_others_may_have_written_or_is_not_whole_is_not_believed(state: Path, change) -> None:  # type: ignore[no-untyped-def]
    path = keep(state, GOOD)
    assert memory(state).recall(GOOD) is not None
    change(path)
    assert memory(state).recall(GOOD) is None


def test_one_document_does_not_stand_for_another(state: Path) -> None:
    path = keep(state, GOOD)
    other = GOOD.replace(b"true", b"false")
    (path.with_name(memory(state)._key(other))).write_bytes(path.read_bytes())
    assert memory(state).recall(other) is None


def test_what_an_earlier_parser_has_made_is_not_believed(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(state, GOOD)
    monkeypatch.setattr(documents, "_identity", lambda module: (module, "changed"))
    assert memory(state).recall(GOOD) is None
    monkeypatch.undo()
    monkeypatch.setattr(documents.sys, "version", "3.99")
    assert memory(state).recall(GOOD) is None


def test_the_parser_is_known_by_all_modules_that_have_a_part_in_what_is_kept(tmp_path: Path) -> None:
    """A copy of one of them, or another one in its place, is another parser; one that cannot be found is none that was known."""
    assert [name for name in documents._PARSER if not isinstance(documents._identity(name), tuple)] == []
    assert documents._identity("none.py") != documents._identity("none.py")


def test_what_cannot_be_kept_is_no_failure(state: Path) -> None:
    (state / "documents").write_text("a file")
    kept = memory(state)
    parse_document(GOOD, file="a.toml", directory="/d", memory=kept)
    fd = os.open(state, os.O_RDONLY)
    kept.keep(fd)
    os.close(fd)
    assert memory(state).recall(GOOD) is None


def test_without_a_state_directory_there_is_nothing_to_recall(tmp_path: Path) -> None:
    assert memory(tmp_path / "none").recall(GOOD) is None
    assert Documents({"XDG_STATE_HOME": "relative"}, 1000).recall(GOOD) is None  # nor a home for it


def test_a_large_document_is_not_kept(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree, origins = parse_document(GOOD, file="a.toml", directory="/d")
    packed = pack(tree, {path: origin.entry for path, origin in origins.by_path.items()}, origins.main.text)
    assert packed is not None
    monkeypatch.setattr(documents, "_LARGEST", len(packed) - 1)
    kept = memory(state)
    kept.remember(GOOD, packed)
    assert kept._new == {}
