"""Test the conversion of Markdown to roff."""

from __future__ import annotations

import pytest

from sandbox.manual.markdown import add_markdown
from sandbox.manual.roff import Page


@pytest.mark.parametrize(
    ("text", "roff"),
    [
        ("one\ntwo\n\nthree", [".PP", "one two", ".PP", "three"]),
        ("see `this`:\n* one\n  more\n* two", [".PP", r"see \fBthis\fR:", ".TP", "*", "one more", ".TP", "*", "two"]),
        ("1. first;\n2. second", [".TP", "1.", "first;", ".TP", "2.", "second"]),
        ("| a | b |\n|---|---|\n| `x` | y, or `z` |", [".TP", r"\fBx\fR", r"y, or \fBz\fR"]),
        ("before\n\n```toml\n[a]\n\n# `b`\n```\n\nafter", [
            ".PP", "before", ".PP", ".EX", "[a]", "", r"# \(gab\(ga", ".EE", ".PP", "after",
        ]),
    ],
)  # fmt: skip
def test_markdown_is_written_as_roff(text: str, roff: list[str]) -> None:
    page = Page("x", 1, version="1", title="T")
    head = page.render()
    add_markdown(page, text)
    assert page.render().removeprefix(head).splitlines() == roff
