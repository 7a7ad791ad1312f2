"""Compile regular expressions when they are first used: one file needs few of those of the language."""

from __future__ import annotations

import re

from unionfs._stdlib.typing import Any


def pattern(text: str, flags: int = 0) -> re.Pattern[str]:
    """Return an object with the methods of `re.compile(text, flags)`, which compiles at the first call of one of them."""
    return _LazyPattern(text, flags)  # type: ignore[return-value]


class _LazyPattern:
    def __init__(self, text: str, flags: int) -> None:
        self._text = text
        self._flags = flags

    def __getattr__(self, name: str) -> Any:
        method = getattr(re.compile(self._text, self._flags), name)
        setattr(self, name, method)  # later look-ups find the attribute without __getattr__
        return method
