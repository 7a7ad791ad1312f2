"""Test manual pages in roff, which depend only on the parsers and the version."""

from __future__ import annotations

import argparse

import pytest

from sandbox.cli.main import main
from sandbox.manual.command import command_page
from sandbox.manual.roff import bold, inline, usage


def test_options_of_all_verbs_are_described_once() -> None:
    parser = argparse.ArgumentParser(prog="tool")
    verbs = parser.add_subparsers()
    for verb in ("one", "two"):
        inner = verbs.add_parser(verb, description=f"Do {verb}.")
        inner.add_argument("--debug", action="store_true", help="show what is done")
        inner.add_argument("--level", metavar="N", help=f"level of {verb}")
        inner.add_argument("place", choices=("here", "there"), nargs="*", help="where; %(choices)s")
        inner.add_argument("--secret", help=argparse.SUPPRESS)
    page = command_page(
        parser,
        {"do": {"one": "do the first", "two": "do the second"}},
        version="1",
        description="Do things.",
        exit_status="0",
    )
    assert page.count("show what is done") == 1
    assert page.count(r"\fB\-\-level\fR \fIN\fR") == 2
    assert page.count("where; here, there") == 1 + 1
    assert r"\fBsandbox\fR \fBone\fR [\fIOPTION\fR ...] [\fBhere\fR|\fBthere\fR ...]" in page
    assert "secret" not in page


def test_the_actions_of_a_verb_are_described_with_their_arguments() -> None:
    parser = argparse.ArgumentParser(prog="tool")
    verb = parser.add_subparsers().add_parser("thing", description="Manage things.", epilog="examples: none")
    verb.add_argument("--debug", action="store_true", help="show what is done")
    actions = verb.add_subparsers(metavar="ACTION", help="one of:")
    for name in ("ls", "rm"):
        inner = actions.add_parser(name, description=f"Do {name}.")
        inner.add_argument("--debug", action="store_true", help="show what is done")
        inner.add_argument("--json", action="store_true", help=f"json of {name}")
        inner.add_argument("names", metavar="NAME", nargs="*", help=f"names for {name}")
    page = command_page(parser, {"do": {"thing": "manage"}}, version="1", description="Do.", exit_status="0")
    assert page.count("show what is done") == 1
    assert r"\fBsandbox\fR \fBthing\fR [\fIOPTION\fR ...] \fIACTION\fR [\fIARGUMENT\fR ...]" in page
    for name in ("ls", "rm"):
        assert rf"\fBsandbox\fR \fBthing\fR \fB{name}\fR [\fIOPTION\fR ...] [\fINAME\fR ...]" in page
        assert f"Do {name}." in page
        assert f"json of {name}" in page
        assert f"names for {name}" in page


@pytest.mark.parametrize("name", ["sandbox", "sandbox.toml"])
def test_page_depends_on_nothing_but_the_version(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["man", name]) == 0
    page = capsys.readouterr().out
    monkeypatch.setenv("COLUMNS", "30")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert main(["man", name]) == 0
    assert capsys.readouterr().out == page


def test_markup_of_running_text() -> None:
    assert inline("see `up --set`\n for   more") == r"see \fBup \-\-set\fR for more"
    assert bold("") == ""
    assert usage("sandbox up [OPTION ...] FILE -- COMMAND") == (
        r"\fBsandbox\fR \fBup\fR [\fIOPTION\fR ...] \fIFILE\fR \fB\-\-\fR \fICOMMAND\fR"
    )
