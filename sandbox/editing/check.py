"""Find the mistakes and warnings that a change adds to an environment file.

Mistakes that the file had before are ignored, so that a user can repair a file step by step.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import cast

from sandbox.errors import SpecError, printable
from sandbox.spec.diagnostic import Diagnostic
from sandbox.spec.load import parse
from sandbox.spec.settings import NOT_ENFORCED
from unionfs._stdlib import dataclasses

_INDEX = re.compile(r"\[\d+\]")


class Refused(SpecError):
    """A change would add mistakes to a file. The diagnostics are those of the new text, which was not written."""

    def __init__(self, name: str, diagnostics: Sequence[Diagnostic]) -> None:
        super().__init__(diagnostics)
        self.name = name

    def render(self, *, color: bool = False) -> str:
        """Return all diagnostics as text, and a line that the file is unchanged."""
        return f"{super().render(color=color)}\n{printable(self.name)} is unchanged"


def new_warnings(name: str, before: bytes, after: bytes, environ: Mapping[str, str]) -> list[Diagnostic]:
    """Return the warnings that the change of the file *name* from *before* to *after* adds.

    There is a warning for each setting that this version does not enforce, and for each value that is probably unintended.
    Raises Refused when *after* has a mistake that *before* does not have.
    """
    old_mistakes, old_unenforced = _found(name, before, environ)
    mistakes, unenforced = _found(name, after, environ)
    if new := _without(mistakes, old_mistakes):
        raise Refused(name, new)
    return _without(unenforced, old_unenforced)


def all_warnings(name: str, content: bytes, environ: Mapping[str, str]) -> list[Diagnostic]:
    """Return the warnings of *content*: settings that this version does not enforce, and values that are probably unintended.

    Raises SpecError when it has mistakes.
    """
    mistakes, unenforced = _found(name, content, environ)
    if mistakes:
        raise SpecError(mistakes)
    return unenforced


def _found(
    name: str, content: bytes, environ: Mapping[str, str]
) -> tuple[list[Diagnostic], list[Diagnostic]]:
    """Return the mistakes of *content*, and its warnings: unenforced settings and probably unintended values."""
    try:
        # All unenforced settings are kept, because the file may be meant for a later version.
        spec = parse(content, path=name, environ=environ, unenforced="keep")
        found, suspicious = list(spec.unenforced), list(spec.warnings)
    except SpecError as error:
        found, suspicious = cast("list[Diagnostic]", error.diagnostics), []
    mistakes = [one for one in found if not one.message.endswith(NOT_ENFORCED)]
    unenforced = [
        dataclasses.replace(one, severity="warning") for one in found if one.message.endswith(NOT_ENFORCED)
    ]
    return mistakes, unenforced + suspicious


def _without(found: list[Diagnostic], known: list[Diagnostic]) -> list[Diagnostic]:
    """Return the diagnostics in *found* that are not in *known*, ignoring indexes, which shift when elements are removed."""
    left = Counter(map(_identity, known))
    new = []
    for one in found:
        identity = _identity(one)
        if left[identity]:
            left[identity] -= 1
        else:
            new.append(one)
    return new


def _identity(one: Diagnostic) -> tuple[str, str, str]:
    return (one.file, _INDEX.sub("[]", one.key), one.message)
