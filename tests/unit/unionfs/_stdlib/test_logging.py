"""Warnings of a server, even if it may no longer read the modules of `logging`."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import sys
from unionfs._stdlib.logging import LazyLogger
if {confined}: sys.meta_path.clear()
log = LazyLogger("unionfs.x")
log.warning("the kernel rejected a reply to %s: %s", 15, "gone")
try:
    {{}}["k"]
except KeyError:
    log.exception("request %s failed", "read")
"""


@pytest.mark.parametrize("confined", [False, True])
def test_a_complaint_is_a_line_with_our_name_and_a_failure_is_told(confined: bool) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(confined=confined)], capture_output=True, text=True, check=True
    )
    lines = done.stderr.splitlines()
    assert lines[0] == "unionfs: the kernel rejected a reply to 15: gone"
    assert lines[1].startswith("unionfs: request read failed")
    assert "KeyError" in lines[-1]
