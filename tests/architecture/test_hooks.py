"""The hooks for pre-commit run commands that exist."""

from __future__ import annotations

import os
import re

from sandbox.cli.verbs import VERBS

PROJECT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def test_every_hook_runs_a_verb_on_files_with_names_of_environment_files() -> None:
    with open(os.path.join(PROJECT, ".pre-commit-hooks.yaml"), encoding="utf-8") as file:
        text = file.read()
    assert re.findall(r"^- id: (.*)$", text, re.MULTILINE) == ["sandbox-check", "sandbox-fmt"]
    entries = re.findall(r"^  entry: sandbox (.*)$", text, re.MULTILINE)
    assert entries == ["check", "fmt"]
    assert set(entries) <= set(VERBS)
    patterns = re.findall(r"^  files: (.*)$", text, re.MULTILINE)
    assert len(patterns) == len(entries)
    for pattern in patterns:
        assert re.search(pattern, "sandbox.toml")
        assert re.search(pattern, "configs/web.sandbox.toml")
        assert not re.search(pattern, "pyproject.toml")
        assert not re.search(pattern, "mysandbox.toml")
