"""Checks as values, and the summary sentence."""

from __future__ import annotations

import pytest

from sandbox.doctor.check import Check, Level, shown_checks, summary_line, would_work


def of_level(*levels: Level) -> list[Check]:
    return [Check(id=str(number), level=level, summary="s") for number, level in enumerate(levels)]


@pytest.mark.parametrize(
    ("levels", "file", "line"),
    [
        (["ok"], None, "`sandbox up` would work here: 1 ok"),
        (["ok", "ok", "note"], None, "`sandbox up` would work here: 1 note, 2 ok"),
        (["warning", "note", "note"], "a.toml", "`sandbox up a.toml` would work here: 1 warning, 2 notes"),
        (["failure", "warning", "warning"], None, "`sandbox up` would not work here: 1 failure, 2 warnings"),
        (["failure", "failure", "ok"], "a.toml", "`sandbox up a.toml` would not work here: 2 failures, 1 ok"),
    ],
)
def test_the_last_line_counts_the_levels_from_bad_to_good(levels, file, line):
    assert summary_line(of_level(*levels), file=file) == line


def test_only_a_failure_keeps_up_from_working():
    assert would_work(of_level("ok", "note", "warning"))
    assert not would_work(of_level("ok", "failure"))


def test_json_says_null_where_nothing_is_lacking():
    assert Check(id="a", level="ok", summary="fine", facts={"x": 1}).as_dict() == {
        "id": "a",
        "level": "ok",
        "summary": "fine",
        "cost": None,
        "remedy": None,
        "facts": {"x": 1},
        "explained_by": None,
    }


def test_of_what_one_cause_explains_only_the_cause_is_told_and_counted():
    cause, other = of_level("failure", "note")
    explained = Check(id="e", level="warning", summary="s", explained_by=cause.id)
    assert shown_checks([cause, explained, other]) == [cause, other]
    assert summary_line([cause, explained, other], file=None).endswith(
        " would not work here: 1 failure, 1 note"
    )
    assert explained.as_dict()["explained_by"] == cause.id
