"""Test how tomlkit handles comments between tables: the reason why `sandbox.editing` chooses the place of a change itself.

If a test fails here, tomlkit has changed: check which parts of `sandbox.editing.arrays` and `sandbox.editing.insertion` are still needed.
"""

from __future__ import annotations

from typing import Any

import tomlkit

TEXT = """\
[process]
command = "true"

# How much it may use.
[limits]
pids = 5
"""


def document() -> Any:
    return tomlkit.parse(TEXT)


def test_a_new_key_goes_behind_the_comment_of_the_next_table() -> None:
    changed = document()
    changed["process"]["cwd"] = "/"
    assert tomlkit.dumps(changed) == TEXT.replace(
        "# How much it may use.\n", '# How much it may use.\ncwd = "/"\n'
    )


def test_removing_a_table_removes_the_comment_of_the_next_one() -> None:
    changed = document()
    del changed["process"]
    assert "# How much it may use." not in tomlkit.dumps(changed)


def test_a_new_table_of_an_array_goes_behind_the_comment_of_the_next_table() -> None:
    changed = tomlkit.parse(TEXT.replace("[process]", "[[volumes]]"))
    table = tomlkit.table()
    table["target"] = "/x"
    volumes: Any = changed["volumes"]
    volumes.append(table)
    lines = tomlkit.dumps(changed).splitlines()
    assert lines.index("# How much it may use.") < lines.index('target = "/x"') < lines.index("[limits]")
