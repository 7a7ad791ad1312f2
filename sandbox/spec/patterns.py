"""Regular expressions that are compiled when they are first used: most of the language's are not used by one file."""

from __future__ import annotations

import re

from unionfs._stdlib.typing import Any


def pattern(text: str, flags: int = 0) -> re.Pattern[str]:
    """Return what `re.compile` does, to call its methods."""
    return _Late(text, flags)  # type: ignore[return-value]


class _Late:
    def __init__(self, text: str, flags: int) -> None:
        self._text = text
        self._flags = flags

    def __getattr__(self, name: str) -> Any:
        method = getattr(re.compile(self._text, self._flags), name)
        setattr(self, name, method)  # from now on found without coming here
        return method
