"""Runs `unionfs changes` on a union of a test, as the launcher does, but without a request."""

from __future__ import annotations

import subprocess
import sys

from sandbox.changes.rows import Change, parse
from tests.conftest import PROJECT
from tests.unit.unionfs.support import Union


def changes_of(union: Union, *options: str) -> list[Change]:
    """Return the changes of *union*, which is closed."""
    layers = f"lowerdir={':'.join(map(str, union.lowers))},upperdir={union.upper},workdir={union.work}"
    command = [sys.executable, "-P", "-m", "unionfs", "changes", "-o", layers, "--json", *options]
    environ = {"PYTHONPATH": PROJECT, "PATH": "/bin"}
    done = subprocess.run(command, capture_output=True, check=True, timeout=60, env=environ)
    return parse(done.stdout.splitlines(keepends=True))
