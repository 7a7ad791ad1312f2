"""`sandbox.changes.render`: changes as lines, as a summary per directory and as a unified diff."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.changes.folding import Folding
from sandbox.changes.render import escaped, lines, shown, text, totals, tree
from sandbox.changes.rows import Change
from tests.unit.sandbox.changes.child import changes_of
from tests.unit.sandbox.changes.generated import HOSTILE, any_names, change, lists_of_changes
from tests.unit.unionfs.support import Union
from unionfs.formats.whiteout import WhiteoutFormat

COLORS = re.compile(r"\x1b\[(?:3[0-9])?m|\x1b\[0m")
ENTRIES = re.compile(r"\((?:.*, was a directory with )?([0-9]+) entr(?:y|ies)\)$")


def listed(*changes: Change) -> list[str]:
    """Return the lines of *changes*."""
    return list(lines(changes))


# -- one line per change ---------------------------------------------------------------------------


def test_a_line_has_kind_path_and_size() -> None:
    assert listed(
        change("A", "/new", size=1229), change("C", "/etc/passwd", size=3 << 20), change("D", "/gone", size=7)
    ) == ["A /new (1.2 KiB)", "C /etc/passwd (3.0 MiB)", "D /gone (7 B)"]


def test_a_line_of_a_moved_object_has_both_paths() -> None:
    assert listed(change("R", "/old/", to="/new"), change("R", "/a", to="/b", size=1)) == [
        "R /old/ -> /new/",
        "R /a -> /b (1 B)",
    ]


def test_a_line_of_another_object_has_its_type() -> None:
    assert listed(
        change("A", "/link", type="symlink", size=9),
        change("A", "/null", type="character-device"),
        change("C", "/"),
        change("A", "/dir/"),
    ) == ["A /link (symlink)", "A /null (character device)", "C /", "A /dir/"]


def test_a_deleted_directory_is_one_line_with_the_number_of_its_entries() -> None:
    assert listed(
        change("D", "/a/"),
        change("D", "/a-"),
        change("D", "/a/b/"),
        change("D", "/a/b/c"),
        change("D", "/a/d"),
        change("D", "/e/"),
        change("D", "/f/"),
        change("D", "/f/g"),
    ) == ["D /a/ (3 entries)", "D /a- (0 B)", "D /e/ (0 entries)", "D /f/ (1 entry)"]


def test_a_deleted_entry_of_a_directory_that_stays_has_its_line() -> None:
    assert listed(change("C", "/a/"), change("D", "/a/b"), change("D", "/ab/"), change("D", "/abc")) == [
        "C /a/",
        "D /a/b (0 B)",
        "D /ab/ (0 entries)",
        "D /abc (0 B)",
    ]


def test_a_directory_that_another_object_replaced_is_one_line() -> None:
    assert listed(
        change("C", "/a", size=1), change("D", "/a/b/"), change("D", "/a/b/c"), change("D", "/a/d")
    ) == ["C /a (1 B, was a directory with 3 entries)"]
    assert listed(change("R", "/x", to="/a", type="symlink"), change("D", "/a/b")) == [
        "R /x -> /a (symlink, was a directory with 1 entry)"
    ]


def test_a_replaced_directory_below_a_moved_one_is_found_at_its_old_path() -> None:
    assert listed(
        change("R", "/old/", to="/new"),
        change("R", "/old/in/", to="/new/to"),
        change("C", "/new/a"),
        change("D", "/old/a/b"),
        change("C", "/new/to/c"),
        change("D", "/old/in/c/d"),
    ) == [
        "R /old/ -> /new/",
        "R /old/in/ -> /new/to/",
        "C /new/a (0 B, was a directory with 1 entry)",
        "C /new/to/c (0 B, was a directory with 1 entry)",
    ]


def test_an_entry_deleted_in_a_moved_directory_is_not_one_of_what_is_at_the_old_path() -> None:
    assert listed(change("R", "/old/", to="/new"), change("A", "/old"), change("D", "/old/x")) == [
        "R /old/ -> /new/",
        "A /old (0 B)",
        "D /old/x (0 B)",
    ]
    assert listed(change("D", "/a/"), change("R", "/a/b/", to="/b"), change("D", "/a/b/c")) == [
        "D /a/ (0 entries)",
        "R /a/b/ -> /b/",
        "D /a/b/c (0 B)",
    ]


def test_the_letter_has_the_color_of_its_kind() -> None:
    changes = [change("A", "/a/"), change("C", "/c/"), change("D", "/d/"), change("R", "/r/", to="/s")]
    assert list(lines(changes, color=True)) == [
        "\x1b[32mA\x1b[0m /a/",
        "\x1b[33mC\x1b[0m /c/",
        "\x1b[31mD\x1b[0m /d/ (0 entries)",
        "\x1b[36mR\x1b[0m /r/ -> /s/",
    ]


# -- the summary per directory ---------------------------------------------------------------------

SUMMARY = [
    change("C", "/etc/", size=0),
    change("A", "/etc/new", size=2048),
    change("D", "/etc/old", size=99),
    change("D", "/opt/dir/"),
    change("D", "/opt/dir/sub/"),
    change("D", "/opt/dir/sub/file"),
    change("A", "/usr/local/lib/tool/one", size=4 << 20),
    change("A", "/usr/local/lib/tool/two", size=100 << 10),
    change("A", "/usr/local/lib/tool/doc/text", size=1),
    change("A", "/usr/local/lib/tool/link", type="symlink", size=4 << 20),
    change("R", "/var/a", to="/var/b"),
]


def test_a_summary_counts_for_each_directory_what_is_in_it_and_below() -> None:
    assert list(tree(SUMMARY)) == [
        "/                      A 5  C 1  D 4  R 1  4.1 MiB",
        "  etc/                 A 1       D 1       2.0 KiB",
        "  opt/                           D 3",
        "    dir/                         D 2",
        "  usr/local/lib/tool/  A 4                 4.1 MiB",
        "    doc/               A 1                     1 B",
        "  var/                                R 1",
        "5 added, 1 changed, 4 deleted, 1 moved, 4.1 MiB",
    ]


def test_a_summary_of_one_place_has_its_path_in_one_line() -> None:
    assert list(tree([change("A", "/usr/lib/a"), change("A", "/usr/lib/b")])) == [
        "/usr/lib/  A 2",
        "2 added, 0 B",
    ]
    assert list(tree([change("D", "/a")])) == ["/  D 1", "1 deleted"]


def test_a_summary_of_no_changes_is_one_line_that_says_so() -> None:
    assert list(tree([])) == ["nothing has changed"]
    assert totals([]) == "nothing has changed"


def test_a_replaced_directory_counts_where_its_row_is() -> None:
    changes = [change("R", "/old/", to="/new"), change("C", "/new/a"), change("D", "/old/a/b")]
    assert list(tree(changes)) == [
        "/       C 1  D 1  R 1",
        "  new/  C 1  D 1",
        "1 changed, 1 deleted, 1 moved",
    ]


@pytest.mark.parametrize(
    ("height", "directories"),
    [
        (9, ["/", "etc/", "opt/", "dir/", "usr/local/lib/tool/", "doc/", "var/"]),
        (8, ["/", "etc/", "opt/", "dir/", "usr/local/lib/tool/", "doc/", "var/"]),
        (7, ["/", "etc/", "opt/", "usr/local/lib/tool/", "var/", "... 2 more directories"]),
        (6, ["/", "etc/", "opt/", "usr/local/lib/tool/", "... 3 more directories"]),
        (4, ["/", "usr/local/lib/tool/", "... 5 more directories"]),
        (3, ["/", "... 6 more directories"]),
        (0, ["/", "... 6 more directories"]),
    ],
)
def test_a_small_screen_gets_the_upper_and_the_largest_directories(
    height: int, directories: list[str]
) -> None:
    *found, last = tree(SUMMARY, height=height)
    assert [re.sub(r"  +.*", "", line.strip()) for line in found] == directories
    assert last == totals(SUMMARY)


def test_of_a_level_that_does_not_fit_the_largest_directories_are_shown() -> None:
    changes = [
        change("A", f"/{name}/file", size=size) for name, size in zip("abcde", [1, 5, 3, 4, 2], strict=True)
    ]
    changes += [change("D", "/f/x"), change("D", "/f/y"), change("D", "/g/x")]
    found = list(tree(changes, height=6))
    assert [line.split("/")[0].strip() for line in found[1:4]] == ["b", "c", "d"]
    assert found[4] == "... 4 more directories"
    found = list(tree([*changes[5:], change("D", "/h/x")], height=4))
    assert [line.split("/")[0].strip() for line in found[1:2]] == ["f"]
    assert found[2] == "... 2 more directories"
    assert list(tree([change("D", "/a"), change("D", "/f/x")], height=2))[1] == "... 1 more directory"


def test_names_are_shortened_to_the_width_of_the_screen_from_their_beginning() -> None:
    changes = [change("A", "/usr/share/doc/package/file", size=5)]
    assert next(tree(changes, width=30)) == "...hare/doc/package/  A 1  5 B"
    assert next(tree(changes, width=33)) == "/usr/share/doc/package/  A 1  5 B"


def test_wide_characters_take_two_columns_and_combining_ones_none() -> None:
    changes = [change("A", "/\u65e5\u672c/a"), change("A", "/e\u0301/a"), change("A", "/ascii/a")]
    assert list(tree(changes))[:4] == [
        "/         A 3",
        "  ascii/  A 1",
        "  e\u0301/      A 1",
        "  \u65e5\u672c/   A 1",
    ]
    assert list(tree([changes[0], change("A", "/\u65e5\u672c\u8a9e" * 2 + "/a")], width=17))[2].startswith(
        ".../\u65e5\u672c\u8a9e/"
    )


def test_lines_and_summary_of_a_union_agree_with_what_was_done(tmp_path: Path) -> None:
    lower = {
        f"{top}/{name}": b"1" for top in ("gone", "replaced", "tree/gone", "tree/replaced") for name in "ab"
    }
    union = Union(tmp_path, [lower], {}, whiteouts=WhiteoutFormat.AUFS)
    union.rename("tree", "moved")
    for top in ("gone", "replaced", "moved/gone", "moved/replaced"):
        for name in "ab":
            union.unlink(f"{top}/{name}")
        union.rmdir(top)
        if top.endswith("replaced"):
            union.create(top, b"22")
    union.mkdir("tree")
    union.close()
    changes = changes_of(union)
    assert list(lines(changes)) == [
        "D /gone/ (2 entries)",
        "R /tree/ -> /moved/",
        "C /moved/replaced (2 B, was a directory with 2 entries)",
        "C /replaced (2 B, was a directory with 2 entries)",
        "A /tree/",
        "D /tree/gone/ (2 entries)",
    ]
    assert list(tree(changes)) == [
        "/          A 1  C 2  D 10  R 1",
        "  gone/              D  2",
        "  moved/        C 1  D  2",
        "  tree/              D  3",
        "    gone/            D  2",
        "1 added, 2 changed, 10 deleted, 1 moved, 0 B",
    ]


# -- unified diff ----------------------------------------------------------------------------------


def test_a_text_is_a_unified_diff_with_both_paths() -> None:
    changed, old, new = ("@@ -1 +1 @@", "-a", "+b"), ("@@ -1 +0,0 @@", "-a"), ("@@ -0,0 +1 @@", "+b")
    assert list(
        text([change("C", "/c", diff=changed), change("D", "/d", diff=old), change("A", "/n", diff=new)])
    ) == [
        *("--- a/c", "+++ b/c", *changed),
        *("--- a/d", "+++ /dev/null", *old),
        *("--- /dev/null", "+++ b/n", *new),
    ]


def test_the_old_path_of_what_moved_is_that_in_the_layers_below() -> None:
    changes = [
        change("R", "/a/", to="/b"),
        change("C", "/b/x", diff=(" c",)),
        change("R", "/f", to="/g"),
        change("C", "/g", diff=(" c",)),
    ]
    assert [line for line in text(changes) if line[:3] in {"---", "+++"}] == [
        *("--- a/a/x", "+++ b/b/x"),
        *("--- a/f", "+++ b/g"),
    ]


def test_what_has_no_text_is_one_line() -> None:
    assert list(
        text(
            [
                change("A", "/binary", contents="binary"),
                change("C", "/large", contents="large"),
                change("C", "/mode", diff=()),
                change("C", "/zero"),
                change("A", "/empty", diff=()),
                change("C", "/dir/"),
                change("R", "/a", to="/b"),
                change("A", "/link", type="symlink"),
            ]
        )
    ) == [
        "Binary file /binary differs",
        "File /large is larger than 1 MiB",
        "C /mode (metadata)",
        "C /zero (metadata)",
        "A /empty (0 B)",
        "C /dir/",
        "R /a -> /b (0 B)",
        "A /link (symlink)",
    ]


def test_a_deleted_directory_is_one_line_and_the_texts_that_were_in_it() -> None:
    changes = [
        change("D", "/a/"),
        change("D", "/a/b/"),
        change("D", "/a/b/c", diff=("-x",)),
        change("D", "/a/d"),
    ]
    assert list(text(changes)) == ["D /a/ (3 entries)", "--- a/a/b/c", "+++ /dev/null", "-x"]
    replaced = [change("C", "/a", diff=()), change("D", "/a/b")]
    assert list(text(replaced)) == ["C /a (0 B, was a directory with 1 entry)"]


def test_lines_of_a_diff_are_colored_by_what_they_are() -> None:
    diff = ("@@ -1 +1 @@", " same", "-a", "+b", "\\ No newline at end of file")
    assert list(text([change("C", "/c", diff=diff)], color=True)) == [
        *("--- a/c", "+++ b/c"),
        "\x1b[36m@@ -1 +1 @@\x1b[0m",
        " same",
        "\x1b[31m-a\x1b[0m",
        "\x1b[32m+b\x1b[0m",
        "\\ No newline at end of file",
    ]


def test_text_that_a_terminal_would_interpret_is_escaped() -> None:
    assert escaped(HOSTILE) == r"\u001B[31mE\u000AFAKE: line\u000D\u0009\u202E\u009B\u2028\xFF"
    assert shown(b"/\xff\xc3\xa9\x80") == "/\\xFF\u00e9\\x80"
    assert escaped("\ud800\udc7f\udd00\ue000") == r"\uD800\uDC7F\uDD00\uE000"
    assert list(text([change("C", "/a\x1b", diff=("+\tx\r",))])) == [
        r"--- a/a\u001B",
        r"+++ b/a\u001B",
        r"+\tx\u000D",
    ]


# -- properties ------------------------------------------------------------------------------------

SHOWN: list[Callable[[list[Change]], Iterable[str]]] = [
    lines,
    text,
    tree,
    lambda changes: tree(changes, height=6, width=30),
    lambda changes: lines(changes, color=True),
    lambda changes: text(changes, color=True),
    lambda changes: tree(changes, color=True),
]


@given(lists_of_changes(any_names), st.sampled_from(SHOWN))
def test_no_line_has_a_control_character_except_for_colors(
    changes: list[Change], show: Callable[[list[Change]], Iterable[str]]
) -> None:
    for line in show(changes):
        assert COLORS.sub("", line).isprintable()


@given(lists_of_changes())
def test_without_color_no_line_has_an_escape_sequence(changes: list[Change]) -> None:
    for show in SHOWN[:4]:
        assert all(line.isprintable() for line in show(changes))


@given(lists_of_changes())
def test_colors_change_nothing_else(changes: list[Change]) -> None:
    for plain, colored in zip(SHOWN[:3], SHOWN[4:], strict=True):
        if plain is not tree:
            assert [COLORS.sub("", line) for line in colored(changes)] == list(plain(changes))
    assert [COLORS.sub("", line).rstrip() for line in tree(changes, color=True)] == list(tree(changes))


@given(lists_of_changes())
def test_each_deleted_row_is_a_line_or_counted_in_one(changes: list[Change]) -> None:
    shown_lines = list(lines(changes))
    counted = sum(int(found[1]) for line in shown_lines if (found := ENTRIES.search(line)))
    of_kind = Counter(line[0] for line in shown_lines)
    expected = Counter(one.kind for one in changes)
    assert of_kind["D"] + counted == expected["D"]
    assert {kind: of_kind[kind] for kind in "ACR"} == {kind: expected[kind] for kind in "ACR"}


@given(lists_of_changes())
def test_a_hidden_row_is_below_a_deleted_directory_or_a_replaced_one(changes: list[Change]) -> None:
    folding = Folding(changes)
    for index, position in folding.hidden.items():
        row, top = changes[index], changes[position]
        assert row.kind == "D"
        assert position not in folding.hidden
        if top.kind == "D":
            assert top.type == "directory"
            assert row.path.startswith(top.path + b"/")
        else:
            assert top.type != "directory"


@given(lists_of_changes())
def test_no_row_below_a_line_of_a_deleted_directory_has_a_line(changes: list[Change]) -> None:
    """The oracle has no moves, which may be between the directory and its entry."""
    changes = [one for one in changes if one.kind != "R"]
    visible = [one for index, one in enumerate(changes) if index not in Folding(changes).hidden]
    deleted = [one for one in changes if one.kind == "D"]
    gone = [one.path + b"/" for one in deleted if one.type == "directory"]
    gone += [one.path + b"/" for one in changes if one.kind != "D" and one.type != "directory"]
    assert [one for one in visible if one.kind == "D"] == [
        one for one in deleted if not one.path.startswith(tuple(gone))
    ]


def directories_of(shown_lines: list[str]) -> Iterator[tuple[str, dict[str, int]]]:
    """Yield path and counts of each line of a summary without its last line."""
    above: list[str] = []
    for line in shown_lines:
        found = re.fullmatch(r"((?:  )*)(\S+/|/)((?:  +[ACDR] +[0-9]+)*)(?:  +[0-9.]+ [KMGT]?i?B)?", line)
        assert found is not None, line
        above[len(found[1]) // 2 :] = [found[2]]
        counts = {kind: int(count) for kind, count in re.findall(r"([ACDR]) +([0-9]+)", found[3])}
        yield "".join(above), counts


@given(lists_of_changes())
def test_the_counts_of_a_directory_are_those_of_the_rows_below(changes: list[Change]) -> None:
    *found, last = tree(changes)
    assert last == totals(changes)
    folding = Folding(changes)
    # A hidden row counts where the row of its directory does.
    rows = [
        (one.kind, changes[folding.hidden[index]].path if index in folding.hidden else one.path)
        for index, one in enumerate(changes)
    ]
    inside = {changes[position].path: [] for position in folding.hidden.values()}
    for index, position in folding.hidden.items():
        if changes[position].kind == "D":
            inside[changes[position].path].append(changes[index].kind)
    if changes:
        for path, counts in directories_of(found):
            name = path.encode()
            expected = Counter(kind for kind, at in rows if at.startswith(name) or at == b"/")
            expected += Counter(inside.get(name.rstrip(b"/"), []))
            assert counts == dict(expected), path


@given(lists_of_changes(any_names), st.integers(0, 12), st.integers(60, 90))
def test_a_summary_fits_on_the_screen(changes: list[Change], height: int, width: int) -> None:
    found = list(tree(changes, height=height, width=width))
    assert len(found) <= max(height, 3)
    assert found[-1] == totals(changes)
    if all(one.path.isascii() for one in changes):
        assert all(len(line) <= width for line in found[:-1])
    if len(changes) == 0:
        return
    whole = list(tree(changes))
    left_out = re.fullmatch(r"\.\.\. ([0-9]+) more director(?:y|ies)", found[-2])
    hidden = int(left_out[1]) + len(found) - 2 if left_out else len(found) - 1
    assert hidden == len(whole) - 1
