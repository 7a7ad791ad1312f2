"""Test `sandbox.spec.diagnostic`: rendering as text and for JSON."""

from __future__ import annotations

import json

from sandbox.spec.diagnostic import Diagnostic


def at(source: str, start: int, end: int, *, hint: str | None = "do it") -> Diagnostic:
    return Diagnostic(
        file="f.toml",
        key="a.b",
        message="is wrong",
        hint=hint,
        line=7,
        column=start + 1,
        end_line=7,
        end_column=end + 1,
        source_line=source,
    )


def test_the_caret_line_marks_the_span_and_carries_the_hint() -> None:
    assert at("b = 12", 4, 6).render() == "f.toml:7:5: a.b: is wrong\n    7 | b = 12\n      |     ^~ do it"


def test_without_hint_the_caret_line_ends_with_the_mark() -> None:
    assert at("b = 12", 4, 6, hint=None).render().endswith("\n      |     ^~")


def test_a_diagnostic_without_place_is_message_and_hint() -> None:
    diagnostic = Diagnostic(file="f.toml", message="no such file", hint="give one")
    assert diagnostic.render() == "f.toml: no such file\n      hint: give one"
    assert Diagnostic(file="f.toml", message="no such file").render() == "f.toml: no such file"


def test_tabs_stay_tabs_so_that_the_caret_lines_up_at_any_tab_width() -> None:
    assert at("\tb =\t1", 5, 6).render().splitlines()[2] == "      | \t   \t^ do it"


def test_wide_characters_take_two_cells_and_combining_ones_none() -> None:
    assert at("日本 = 1", 5, 6).render().splitlines()[2] == "      | " + " " * 7 + "^ do it"
    assert at("e\u0301 = 1", 5, 6).render().splitlines()[2] == "      | " + " " * 4 + "^ do it"
    assert at("日本 = 1", 0, 2).render().splitlines()[2] == "      | ^~~~ do it"


def test_a_span_of_several_lines_is_marked_to_the_end_of_its_first() -> None:
    diagnostic = Diagnostic(
        file="f", message="m", line=1, column=5, end_line=3, end_column=2, source_line="a = [1, 2,"
    )
    assert diagnostic.render().splitlines()[2] == "      |     ^~~~~~"


def test_a_mark_at_the_end_of_the_line_is_one_caret() -> None:
    assert at("b =", 3, 4).render().splitlines()[2] == "      |    ^ do it"


def test_control_characters_of_the_file_do_not_reach_the_terminal() -> None:
    text = at('b = "\x1b[31m\u202e"', 4, 12).render()
    assert text.replace("\n", "").isprintable()
    assert text.splitlines()[2] == "      |     ^~~~~~~~ do it"


def test_a_file_name_with_control_characters_does_not_reach_the_terminal() -> None:
    assert Diagnostic(file="a\x1bb\n", message="m").render() == "a\ufffdb\ufffd: m"


def test_a_long_line_is_cut_around_the_mark() -> None:
    source = "x" * 1000 + "HERE" + "y" * 1000
    lines = at(source, 1000, 1004).render().splitlines()
    shown = lines[1].partition(" | ")[2]
    assert len(shown) == 202
    assert shown[0] == shown[-1] == "…"
    mark = lines[2].partition(" | ")[2].removesuffix(" do it")
    assert shown[mark.index("^") : len(mark)] == "HERE"


def test_a_mark_at_either_end_of_a_long_line_is_shown() -> None:
    source = "x" * 1000
    first = at(source, 0, 3, hint=None).render().splitlines()[2]
    last = at(source, 999, 1000, hint=None).render().splitlines()
    assert first == "      | ^~~"
    assert len(last[1]) == len(last[2]) == len("      | …") + 200
    whole = at(source, 0, 1000, hint=None).render().splitlines()
    assert len(whole[2]) == len(whole[1]) - 1


def test_color_is_only_added() -> None:
    import re

    diagnostic = at("b = 12", 4, 6)
    colored = diagnostic.render(color=True)
    assert "\x1b[" in colored
    assert re.sub(r"\x1b\[\d*m", "", colored) == diagnostic.render()


def test_the_dictionary_holds_every_field_and_goes_through_json() -> None:
    assert json.loads(json.dumps(at("b = 12", 4, 6).as_dict())) == {
        "severity": "error",
        "file": "f.toml",
        "line": 7,
        "column": 5,
        "end_line": 7,
        "end_column": 7,
        "key": "a.b",
        "message": "is wrong",
        "hint": "do it",
        "source_line": "b = 12",
    }


def test_diagnostics_are_ordered_by_their_positions() -> None:
    nowhere = Diagnostic(file="f.toml", message="m")
    later = Diagnostic(file="f.toml", message="m", line=10, column=1)
    diagnostics = [later, at("b = 12", 4, 6), at("b = 12", 0, 1), nowhere]
    assert sorted(diagnostics, key=Diagnostic.sort_key) == [
        nowhere,
        at("b = 12", 0, 1),
        at("b = 12", 4, 6),
        later,
    ]
