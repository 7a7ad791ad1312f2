"""`sandbox.changes.rows`: the output of the child process as values; nothing of it is used unless it is valid."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.changes.rows import Change, OldObject, as_value, parse
from sandbox.errors import SandboxError
from tests.unit.sandbox.changes.child import changes_of
from tests.unit.sandbox.changes.generated import HOSTILE, any_names, lists_of_changes, parsed, printed
from tests.unit.unionfs.support import Union
from unionfs.formats.whiteout import WhiteoutFormat

ROW: dict[str, Any] = {"kind": "A", "path": "/etc/new", "type": "file", "size": 5}
OLD: dict[str, Any] = {"path": "/etc/old", "layer": 0, "ino": 7, "mode": 0o100644, "since": "same"}
OLD |= {"size": 3, "mtime": -1, "ctime": 2}
FACTS: dict[str, Any] = {"mode": 0o4755, "uid": 0, "gid": 65534}


def problem(lines: list[bytes]) -> str:
    """Return the message about *lines*."""
    with pytest.raises(SandboxError) as error:
        parse(lines)
    assert error.value.exit_code == 125
    assert error.value.hint is not None
    return error.value.message


# -- what is valid ---------------------------------------------------------------------------------


def test_a_row_has_its_fields() -> None:
    row = {"kind": "R", "path": "/b", "from": "/a/x", "type": "directory", "size": 0}
    assert parsed(ROW, row) == [
        Change(kind="A", path=b"/etc/new", type="file", size=5),
        Change(kind="R", path=b"/b", from_path=b"/a/x", type="directory", size=0),
    ]


def test_a_row_with_facts_has_the_old_object() -> None:
    (change,) = parsed({**ROW, "kind": "C", **FACTS, "capabilities": True, "old": OLD})
    assert (change.mode, change.uid, change.gid, change.capabilities) == (0o4755, 0, 65534, True)
    assert change.old == OldObject(
        path=b"/etc/old", since="same", layer=0, ino=7, mode=0o100644, size=3, mtime=-1, ctime=2
    )


def test_an_old_object_that_is_gone_has_nothing_but_its_path() -> None:
    (change,) = parsed({**ROW, **FACTS, "old": {"path": "/etc/new", "since": "gone"}})
    assert change.old == OldObject(path=b"/etc/new", since="gone")
    assert change.old.ino is None


def test_the_mark_of_a_missing_line_end_is_a_line_of_the_diff() -> None:
    (change,) = parsed({**ROW, "diff": ["@@ -0,0 +1 @@", "+a\n\\ No newline at end of file"]})
    assert change.diff == ("@@ -0,0 +1 @@", "+a", "\\ No newline at end of file")


def test_the_root_may_change() -> None:
    (change,) = parsed({**ROW, "kind": "C", "path": "/", "type": "directory"})
    assert change.path == b"/"


def test_no_changes_are_a_list_without_rows() -> None:
    assert parsed() == []


def test_a_byte_that_is_not_utf_8_is_a_surrogate_for_users_as_for_us() -> None:
    (change,) = parsed({**ROW, "path": "/\udcff\u00e9"})
    assert change.path == b"/\xff\xc3\xa9"
    assert json.dumps(as_value(change)["path"]) == r'"/\udcff\u00e9"'


def test_the_value_for_users_has_from_only_if_the_object_was_moved() -> None:
    moved = {**ROW, "kind": "R", "from": "/a"}
    assert [as_value(change) for change in parsed(ROW, moved)] == [{**ROW, "from": None}, moved]


def test_the_value_for_users_has_the_text_that_was_requested() -> None:
    rows = [{**ROW, "diff": ["+a"]}, {**ROW, "contents": "binary"}, {**ROW, "diff": []}]
    assert [as_value(change) for change in parsed(*rows)] == [{**row, "from": None} for row in rows]


@given(lists_of_changes(any_names))
def test_what_users_get_is_what_the_child_process_printed(changes: list[Change]) -> None:
    rows = [{key: value for key, value in as_value(one).items() if value is not None} for one in changes]
    assert parsed(*rows) == changes


# -- what is not -----------------------------------------------------------------------------------

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"kind": "X"}, 'kind is "X", not one of A, C, D, R'),
    ({"kind": None}, "kind is null, not one of A, C, D, R"),
    ({"kind": []}, "kind is a list, not one of A, C, D, R"),
    ({"path": "etc"}, 'path is "etc", which does not begin with "/"'),
    ({"path": ""}, 'path is "", which does not begin with "/"'),
    ({"path": "/a/../b"}, 'path is "/a/../b", with an empty component, "." or ".."'),
    ({"path": "/.."}, 'path is "/..", with an empty component, "." or ".."'),
    ({"path": "/./a"}, 'path is "/./a", with an empty component, "." or ".."'),
    ({"path": "/a//b"}, 'path is "/a//b", with an empty component, "." or ".."'),
    ({"path": "/a/"}, 'path is "/a/", with an empty component, "." or ".."'),
    ({"path": "//"}, 'path is "//", with an empty component, "." or ".."'),
    ({"path": "/a\0b"}, r'path is "/a\u0000b", with a zero byte'),
    ({"path": "/\ud800"}, r'path is "/\ud800", which no file name has'),
    ({"path": "/\udc2e\udc2e"}, r'path is "/\udc2e\udc2e", which no file name has'),  # no disguised ".."
    ({"path": 5}, "path is 5, not text"),
    ({"path": "/"}, 'kind A with path "/": the root can only change'),
    ({"from": "/a"}, "kind A with from"),
    ({"kind": "R"}, "from is missing"),
    ({"kind": "R", "from": "/"}, 'from "/": the root cannot be moved'),
    ({"kind": "R", "from": "/../a"}, 'from is "/../a", with an empty component, "." or ".."'),
    ({"type": "door"}, 'type is "door", not one of file, directory, '),
    ({"size": -1}, "size is -1, not an integer from 0 to 9223372036854775807"),
    ({"size": 1.0}, "size is 1.0, not an integer"),
    ({"size": True}, "size is true, not an integer"),
    ({"size": 1 << 63}, "size is 9223372036854775808, not an integer"),
    ({**FACTS, "mode": 0o10000}, "mode is 4096, not an integer from 0 to 4095"),
    ({**FACTS, "uid": (1 << 32) - 1}, "uid is 4294967295, not an integer from 0 to 4294967294"),
    ({**FACTS, "gid": None}, "gid is null, not an integer"),
    ({"mode": 0, "uid": 0}, "gid is missing"),
    ({"capabilities": 1}, "capabilities is 1, not true or false"),
    ({**FACTS, "kind": "C"}, "old is missing"),
    ({"kind": "C", "old": []}, "old is a list, not an object"),
    ({"kind": "C", "old": {**OLD, "path": "x"}}, 'path is "x", which does not begin with "/"'),
    ({"kind": "C", "old": {**OLD, "since": "ever"}}, 'since is "ever", not one of same, touched, '),
    ({"kind": "C", "old": {**OLD, "since": "gone"}}, "kind C with since gone"),
    ({"old": OLD}, "kind A with since same"),
    ({"old": {"path": "/x", "since": "gone"}}, 'old has the path "/x", expected "/etc/new"'),
    ({"kind": "D", "old": OLD}, 'old has the path "/etc/old", expected "/etc/new"'),
    ({"kind": "R", "from": "/b", "old": OLD}, 'old has the path "/etc/old", expected "/b"'),
    ({"kind": "C", "old": {**OLD, "layer": -1}}, "layer is -1, not an integer"),
    ({"kind": "C", "old": {**OLD, "mode": 1 << 16}}, "mode is 65536, not an integer"),
    ({"kind": "C", "old": {**OLD, "mtime": "now"}}, 'mtime is "now", not an integer'),
    ({"kind": "C", "old": {**OLD, "ctime": 10**40}}, "ctime is 1000"),
    ({"diff": "+a"}, 'diff is "+a", not a list'),
    ({"diff": [1]}, "diff has 1, not text"),
    ({"diff": [""]}, 'diff has "", not a line of a unified diff'),
    ({"diff": ["a"]}, 'diff has "a", not a line of a unified diff'),
    ({"diff": ["+a\n-b"]}, r'diff has "+a\n-b", not a line of a unified diff'),
    ({"contents": "odd"}, 'contents is "odd", not one of binary, large'),
    ({"diff": [], "contents": "large"}, "it has both diff and contents"),
]


@pytest.mark.parametrize(("fields", "message"), WRONG, ids=lambda value: ascii(value)[:40])
def test_a_wrong_field_is_an_error_that_names_line_and_field(fields: dict[str, Any], message: str) -> None:
    found = problem(printed([ROW, {**ROW, **fields}]))
    assert found.startswith(f"the list of changes is damaged: line 2: {message}")


@pytest.mark.parametrize("key", list(ROW))
def test_no_field_may_be_missing(key: str) -> None:
    row = {name: value for name, value in ROW.items() if name != key}
    assert problem(printed([row])) == f"the list of changes is damaged: line 1: {key} is missing"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"", "it is not JSON"),
        (b"\n", "it is not JSON"),
        (b"{", "it is not JSON"),
        (b"\xff", "it is not JSON"),
        (b"[" * 100_000, "it is not JSON"),
        (b'{"version": 1, "rows": ' + b"9" * 5000 + b"}", "it is not JSON"),
        (b"[]", "it is not a JSON object"),
        (b"null", "it is not a JSON object"),
        (b"{}", "kind is missing"),
        (b'{"version": 2, "rows": 0}', "version 2, expected 1"),
        (b'{"version": true, "rows": 0}', "version true, expected 1"),
        (b'{"version": 1}', "rows is missing"),
        (b'{"version": 1, "rows": 1}', "rows is 1, but there are 0"),
        (b'{"version": 1, "rows": NaN}', "rows is NaN, not an integer"),
    ],
    ids=lambda value: ascii(value)[:30],
)
def test_a_wrong_line_is_an_error(line: bytes, message: str) -> None:
    assert problem([line]).startswith(f"the list of changes is damaged: line 1: {message}")


def test_output_without_the_last_line_is_incomplete() -> None:
    assert problem(printed([ROW])[:-1]) == "the list of changes is incomplete: it ends after 1 row"
    assert problem([]) == "the list of changes is incomplete: it ends after 0 rows"


def test_output_that_was_cut_inside_a_line_is_damaged() -> None:
    lines = printed([ROW, ROW])
    assert problem([*lines[:1], lines[1][:-5]]) == "the list of changes is damaged: line 2: it is not JSON"


def test_nothing_may_follow_the_last_line() -> None:
    message = "the list of changes is damaged: line 2: it follows the last one"
    assert problem([*printed([]), *printed([ROW])]) == message


def test_a_message_shows_no_more_of_a_value_than_fits_and_no_control_characters() -> None:
    message = problem(printed([{**ROW, "kind": HOSTILE * 100}]))
    assert len(message) < 200
    assert message.isprintable()


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["/a", "A", "R"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*OLD, "x"]), inner),
    max_leaves=5,
)
KEYS = [*ROW, *FACTS, "from", "capabilities", "old", "diff", "contents", "version", "rows"]


@given(st.lists(st.binary(max_size=40)))
def test_bytes_without_meaning_are_an_error_and_nothing_else(lines: list[bytes]) -> None:
    problem(lines)


@given(st.lists(st.dictionaries(st.sampled_from(KEYS), values), max_size=3))
def test_any_fields_are_valid_or_an_error(rows: list[dict[str, Any]]) -> None:
    _parse_or_refuse(printed([{**ROW, **row} for row in rows]))


@given(st.sampled_from(KEYS), values, st.sampled_from("ACDR"))
def test_any_value_of_one_field_is_valid_or_an_error(key: str, value: object, kind: str) -> None:
    row = {**ROW, **FACTS, "kind": kind, "from": "/etc/old", "old": OLD, key: value}
    if row["kind"] != "R":
        del row["from"]
    _parse_or_refuse(printed([row]))


def _parse_or_refuse(lines: list[bytes]) -> None:
    try:
        changes = parse(lines)
    except SandboxError:
        return
    for change in changes:
        assert change.kind in {"A", "C", "D", "R"}
        assert (change.from_path is not None) == (change.kind == "R")
        for path in filter(None, (change.path, change.from_path, change.old and change.old.path)):
            assert path == b"/" or not {b"", b".", b".."} & set(path[1:].split(b"/"))
            assert path[:1] == b"/"
            assert b"\0" not in path
        assert type(change.size) is int
        assert json.loads(json.dumps(as_value(change)))["kind"] == change.kind


# -- the child process itself ----------------------------------------------------------------------


def _change_much(union: Union) -> None:
    union.create("new", b"text\n")
    union.create("binary", b"\0")
    union.mkdir("dir")
    union.symlink("link", "target")
    union.mknod("fifo", 0o010644)
    union.write("changed", b"X")
    union.chmod("mode", 0o4755)
    union.unlink("gone/a")
    union.unlink("gone/b")
    union.rmdir("gone")
    union.rename("tree", "moved")
    union.write("moved/inner", b"Y")
    union.unlink("other")
    union.create("other", b"no line end")


@pytest.mark.parametrize("options", [[], ["--facts"], ["--text"], ["--facts", "--text"]], ids=" ".join)
def test_the_output_of_the_command_is_valid(tmp_path: Path, options: list[str]) -> None:
    lower = {"changed": b"old\n", "mode": b"", "gone/a": b"a\n", "gone/b": b"b", "other": b"\0"}
    lower |= {"tree/inner": b"inner\n", "tree/\udcff": b"", "same": b""}
    union = Union(tmp_path, [lower], {}, whiteouts=WhiteoutFormat.AUFS)
    _change_much(union)
    union.close()
    changes = changes_of(union, *options)
    assert {(change.kind, change.path) for change in changes} == {
        *(("A", f"/{name}".encode()) for name in ("new", "binary", "dir", "link", "fifo")),
        *(("C", f"/{name}".encode()) for name in ("changed", "mode", "moved/inner", "other")),
        *(("D", f"/{name}".encode()) for name in ("gone", "gone/a", "gone/b")),
        ("R", b"/moved"),
    }
    by_path = {change.path: change for change in changes}
    assert (by_path[b"/moved/inner"].old is None) == ("--facts" not in options)
    if "--text" in options:
        assert by_path[b"/moved/inner"].diff == ("@@ -1 +1 @@", "-inner", "+Ynner")
        assert by_path[b"/gone/b"].diff == ("@@ -1 +0,0 @@", "-b", "\\ No newline at end of file")
        assert by_path[b"/other"].contents == "binary"
        assert by_path[b"/mode"].diff == ()
