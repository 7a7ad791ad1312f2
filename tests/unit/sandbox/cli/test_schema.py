"""`sandbox schema`: the command."""

from __future__ import annotations

import json

import pytest

from sandbox.cli.main import main
from sandbox.reference.schema import schema


def test_the_schema_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == json.loads(json.dumps(schema()))
    assert err == ""
