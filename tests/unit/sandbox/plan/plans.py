"""Helpers: plan an environment file given as text, and return the message if it is refused."""

from __future__ import annotations

import pytest

from sandbox.errors import SpecError
from tests.unit.sandbox.facts import plan

ROOT = '[root]\nlayers = ["dir:/"]\n'


def refusal(text: str, **others: object) -> str:
    """Plan *text*, which must be refused, and return the message."""
    with pytest.raises(SpecError) as caught:
        plan(text, **others)  # type: ignore[arg-type]
    return str(caught.value)
