"""The terminal and the standard input of the program in the plan, in the foreground and in the background."""

from __future__ import annotations

import pytest

from sandbox.plan import describe
from tests.unit.sandbox.facts import host, plan

ROOT = '[root]\nlayers = ["dir:/"]\n'


@pytest.mark.parametrize(
    ("setting", "terminal", "background", "own", "empty"),
    [
        ("", True, False, True, False),
        ("", True, True, False, True),
        ("", False, False, False, False),
        ("", False, True, False, True),
        ("terminal = false\n", True, False, False, False),
        ("terminal = false\n", True, True, False, True),
        ("terminal = true\n", True, True, True, False),
        ("terminal = true\n", False, False, True, False),
    ],
)
def test_a_start_in_the_background_takes_no_input_that_the_user_types_for_the_shell(
    setting: str, terminal: bool, background: bool, own: bool, empty: bool
) -> None:
    made = plan(ROOT + "[process]\n" + setting, host(terminal=terminal, background=background))
    assert (made.process.terminal, made.process.empty_input) == (own, empty)
    assert ("standard input /dev/null" in describe(made)) == empty
    told = [text for text in made.warnings if "an empty standard input (/dev/null)" in text]
    assert len(told) == empty
    assert all(("no terminal" in text) == (terminal and not setting) for text in told)
