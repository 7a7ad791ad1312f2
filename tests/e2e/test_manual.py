"""The manual pages are complete, and man(1) shows them without warnings."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys

import pytest

from sandbox.cli.parser import whole
from sandbox.cli.verbs import GROUPS, VERBS
from sandbox.manual.roff import Page, escaped
from sandbox.reference.entries import entries, tables
from sandbox.reference.prose import COMPOSITION, LANGUAGE, VALUES
from tests.conftest import PROJECT
from unionfs.options import DECLARED

pytestmark = pytest.mark.man

PAGES = ["sandbox", "sandbox.toml", "unionfs"]


def printed(*arguments: str) -> str:
    """Return the output of `sandbox man`."""
    command = [sys.executable, "-m", "sandbox", "man", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=PROJECT, timeout=60).stdout


def shown(page: str, *, width: int = 400) -> str:
    """Return the text that man(1) makes of *page*, without line breaks in paragraphs; assert that it warns of nothing."""
    environ = {
        **os.environ,
        "MANWIDTH": str(width),
        "MAN_KEEP_FORMATTING": "",
        "LC_ALL": "C.UTF-8",
        "MANROFFOPT": "-ww",
    }
    done = subprocess.run(
        ["man", "--warnings=w", "-E", "utf8", "-P", "cat", "-l", "-"],
        input=page,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env=environ,
    )
    assert done.stderr == ""
    return re.sub(r"\x1b\[[0-9;]*m|.\x08", "", done.stdout)


def sections(text: str) -> dict[str, str]:
    """Return the sections of a shown page by their headings."""
    parts = re.split(r"^(\S.*)\n", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def words(text: str) -> str:
    return " ".join(text.replace("`", "").split())


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("width", [80, 60])
def test_page_is_shown_without_a_warning(name: str, width: int) -> None:
    assert shown(printed(name), width=width).startswith(f"{name.upper()}(")


def with_actions(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    """Return *parser* and those of its actions."""
    found = [parser]
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found += action.choices.values()
    return found


def test_command_page_has_every_verb_with_all_its_arguments() -> None:
    found = sections(shown(printed()))
    verbs = next(a.choices for a in whole()._actions if isinstance(a, argparse._SubParsersAction))
    shared = words(found["OPTIONS"])
    for group, names in GROUPS.items():
        text = found[f"COMMANDS TO {group.upper()}"]
        parts = re.split(r"^   sandbox ([a-z]+)\n", text, flags=re.MULTILINE)
        of_verbs = dict(zip(parts[1::2], parts[2::2], strict=True))
        assert list(of_verbs) == list(names)
        for verb in names:
            said = words(of_verbs[verb])
            assert words(verbs[verb].description or "") in said
            assert words(verbs[verb].epilog or "") in said
            for parser in with_actions(verbs[verb]):
                assert words(parser.description or "") in said
                for action in parser._actions:
                    for option in action.option_strings:
                        assert re.search(rf"(^| ){option}\b", f"{said} {shared}"), (verb, option)
                    if not isinstance(action, argparse._SubParsersAction):
                        assert words(parser._get_formatter()._expand_help(action)) in f"{said} {shared}"


def test_command_page_describes_each_verb_and_its_exit_status() -> None:
    found = sections(shown(printed("sandbox")))
    assert all(summary in words(found["DESCRIPTION"]) for summary in VERBS.values())
    assert words(found["EXIT STATUS"]).startswith("the program's own, 128+N if signal N ended it, 124 after")
    assert words(found["NAME"]).startswith("sandbox - run programs in sandboxes that one TOML file describes")


def test_language_page_has_every_key_under_its_table_with_its_meaning() -> None:
    found = sections(shown(printed("sandbox.toml")))
    for header, owner, inside in tables(entries()):
        section = found[header or "AT THE TOP OF THE FILE"]
        assert owner is None or words(f"{owner.doc} {owner.note}") in words(section)
        keys = re.split(r"^ {7}([\w.\[\]]+)(?:\n| {2,})", section, flags=re.MULTILINE)
        said = dict(zip(keys[1::2], keys[2::2], strict=True))
        assert list(said) == [entry.key for entry in inside]
        for entry in inside:
            assert words(said[entry.key]).startswith(words(f"{entry.doc} {entry.note}"))
            if not entry.is_table:
                assert words(said[entry.key]).endswith(words(f"; for example {entry.example}"))
                assert ("; required;" in said[entry.key]) == entry.required


@pytest.mark.parametrize(
    ("key", "facts"),
    [
        (
            "volumes[].target",
            'Sandbox path, not / nor under /proc, /sys or /dev; required; for example target = "/src"',
        ),
        (
            "process.stop_signal",
            'String: a name such as "SIGTERM" or "SIGRTMIN+3"; default "SIGTERM"; for example stop_signal = "SIGINT"',
        ),
        ("limits.memory", 'Size, at least 4M; for example memory = "512M"'),
    ],
)
def test_language_page_describes_the_values(key: str, facts: str) -> None:
    entry = re.search(rf"^ +{re.escape(key)}\n.*\n\n +(.*)$", shown(printed("sandbox.toml")), re.MULTILINE)
    assert entry is not None
    assert entry[1] == facts


@pytest.mark.parametrize("prose", [LANGUAGE, VALUES, COMPOSITION])
def test_language_page_has_the_prose_of_the_reference(prose: str) -> None:
    def plain(text: str) -> str:
        return " ".join(re.findall(r"\w+", text))

    marks = r"^(\| kind .*|\| reference .*|\|---.*|```.*)$"  # headings of tables, ends of blocks
    assert plain(re.sub(marks, "", prose, flags=re.MULTILINE)) in plain(shown(printed("sandbox.toml")))


@pytest.mark.parametrize(
    "text",
    [
        ".SH is no heading here",
        "'quoted' and \"twice\"",
        r"a back\slash and \fBno bold\fR",
        "--minus - and ~home ^caret",
        "a lone ` backtick",
        "Größe → 漢字",
    ],
)
def test_text_with_special_characters_is_shown_unchanged(text: str) -> None:
    page = Page("x", 1, version="1", title="T")
    page.section("S")
    page.text(text)
    page.tagged(escaped(text), escaped(text))
    assert [line.strip() for line in shown(page.render()).splitlines()].count(text) == 3


def test_preformatted_text_keeps_its_lines() -> None:
    page = Page("x", 1, version="1", title="T")
    page.section("S")
    page.text("one\ntwo\n\nin a file:    here\n.and:          there")
    lines = [line.strip() for line in shown(page.render()).splitlines()]
    assert "one two" in lines
    assert lines[lines.index("in a file:    here") + 1] == ".and:          there"


def test_page_of_unionfs_has_every_option_that_it_declares() -> None:
    text = words(shown(printed("unionfs")))
    assert "unionfs - mount a copy-on-write union" in text
    for one in DECLARED:
        assert f"{one.usage} {one.help}" in text
    assert "unionfs changes -o OPTION,..." in text
    assert "--archive layer|trees|members write a tar archive" in text
