"""Texts that are planned, and the messages of those that are refused."""

from __future__ import annotations

import pytest

from sandbox.errors import SpecError
from tests.unit.sandbox.facts import plan

ROOT = '[root]\nlayers = ["dir:/"]\n'


def refusal(text: str, **others: object) -> str:
    """Return the message with which the plan of *text* is refused."""
    with pytest.raises(SpecError) as caught:
        plan(text, **others)  # type: ignore[arg-type]
    return str(caught.value)
