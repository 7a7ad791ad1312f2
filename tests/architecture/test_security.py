"""SECURITY.md names at least one test for every promise, and the tests exist."""

from __future__ import annotations

import os
import re

PROJECT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def promises() -> dict[str, list[tuple[str, str]]]:
    """Return the tests, as (file, name), by promise."""
    with open(os.path.join(PROJECT, "SECURITY.md"), encoding="utf-8") as file:
        section = file.read().split("## What is promised")[1].split("\n## ")[0]
    found = {}
    for line in section.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) != 3 or cells[0] in ("promise", "---"):
            continue
        place, tests = "", []
        for word in re.findall(r"`([^`]+)`", cells[2]):
            if word.endswith(".py"):
                place = word if "/" in word else f"tests/e2e/{word}"
            else:
                tests.append((place, word))
        found[cells[0]] = tests
    return found


def test_every_promise_has_tests_that_exist() -> None:
    named = promises()
    assert len(named) > 10
    for promise, tests in named.items():
        assert tests, promise
        for place, name in tests:
            with open(os.path.join(PROJECT, place), encoding="utf-8") as file:
                assert f"\ndef {name}(" in file.read(), (place, name)
