"""Compare the report on each file in cases/ with the text and JSON beside it, so that reports are reviewed like code.

After an intended change, run this test with EXPLAIN_CASES=write, and review the difference before the commit.
"""

from __future__ import annotations

import json
import os

import pytest

from sandbox.explain import make_report, render
from sandbox.explain.report import SECTIONS
from sandbox.explain.text import WIDTH, visible_length
from tests.unit.sandbox.explain.machines import CASES, MACHINES, NAMES, case, case_of

ROOT = '[root]\nlayers = ["dir:/"]\n'


def by_the_line(report: dict[str, object]) -> str:
    """Return *report* as JSON with one line for each element of its arrays."""
    parts = []
    for key, value in report.items():
        text = json.dumps(value)
        if isinstance(value, list) and value:
            text = "[\n  " + ",\n  ".join(map(json.dumps, value)) + "\n]"
        parts.append(f"{json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


@pytest.mark.parametrize("name", NAMES)
def test_report_is_exactly_the_expected_text_and_json(name: str) -> None:
    report = make_report(case_of(name))
    found = {
        "short": render(report),
        "txt": render(report, everything=True),
        "json": by_the_line(report.as_dict()),
    }
    if os.environ.get("EXPLAIN_CASES") == "write":
        for suffix, text in found.items():
            (CASES / f"{name}.{suffix}").write_text(text, encoding="utf-8")
    expected = {suffix: (CASES / f"{name}.{suffix}").read_text(encoding="utf-8") for suffix in found}
    assert found == expected
    assert json.loads(expected["json"]) == report.as_dict()


def test_every_case_has_a_machine_and_every_expected_text_a_case() -> None:
    assert sorted(MACHINES) == NAMES
    assert sorted(path.stem for path in CASES.glob("*.txt")) == NAMES
    assert len(NAMES) >= 6


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize("everything", [False, True])
def test_text_fits_a_hundred_columns_and_is_plain_without_colour(
    name: str, *, colour: bool, everything: bool
) -> None:
    text = render(make_report(case_of(name)), colour=colour, everything=everything)
    assert [line for line in text.split("\n") if visible_length(line) > WIDTH] == []
    assert ("\x1b" in text) == colour


@pytest.mark.parametrize("name", NAMES)
def test_the_short_report_omits_only_facts_that_no_file_sets(name: str) -> None:
    report = make_report(case_of(name))
    short = render(report).split("\n")
    text = "".join("".join(short).split())
    for fact in report.facts():
        told = "".join(f"{fact.text}[{fact.origin.text()}]".split())
        if fact.origin.is_set:
            assert told in text
    for told in (
        *(risk.text for risk in report.risks),
        *(one.difference.reason for one in report.deviations),
    ):
        assert "".join(told.split()) in text
    left = sum(fact.origin.file is None for fact in report.facts())
    assert (
        short[-2]
        == f"{left} more facts are defaults or come from this machine: --all prints them, and the steps of the start."
    )


@pytest.mark.parametrize("name", NAMES)
def test_only_what_up_refuses_is_refused(name: str) -> None:
    subject = case_of(name)
    report = make_report(subject)
    assert report.refused == bool(subject.draft.host or subject.state or subject.draft.refusals)
    assert report.refused == (name == "refused")


def test_a_file_cannot_send_control_characters_to_the_terminal() -> None:
    text = ROOT + (
        '[process]\ncommand = ["a\\u001b[2J", "b\\u202e"]\n[process.env]\nA = "\\u0007\\nnew line"\n'
        '[sandbox]\ndescription = "\\u001b]0;title"\n[[volumes]]\ntype = "bind"\nsource = "/x\\u001b[1A\\nlie"\ntarget = "/v\\u001b[1A"\n'
    )
    shown = render(make_report(case(text, MACHINES["plain"])), everything=True)
    assert [char for char in shown if char != "\n" and not char.isprintable()] == []
    assert not any(line.lstrip().startswith("lie") for line in shown.split("\n"))


def test_inherited_values_are_in_neither_rendering() -> None:
    report = make_report(case_of("network"))
    assert "/run/agent" not in render(report, everything=True) + json.dumps(report.as_dict())


def test_sections_of_json_are_those_that_have_a_heading() -> None:
    report = make_report(case_of("plain"))
    assert list(report.sections) == list(SECTIONS)
    assert set(SECTIONS) < set(report.as_dict())


def test_machine_that_lacks_fuse_is_a_refusal_without_a_place() -> None:
    first = make_report(case_of("refused")).refusals[0]
    assert (first.line, first.message) == (
        None,
        "/dev/fuse is missing: the root file system is served through it",
    )
