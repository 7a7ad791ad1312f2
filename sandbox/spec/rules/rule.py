"""Define what a rule is, and iterate over the elements of a list that could be decoded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from sandbox.spec.model import Spec
from sandbox.spec.origin import Problem
from unionfs._stdlib.dataclasses import dataclass
from unionfs._stdlib.typing import TypeVar

Check = Callable[[Spec], Iterator[Problem]]

E = TypeVar("E")


@dataclass(frozen=True, slots=True)
class Rule:
    """A check, and the keys that it reads: the check runs only if their values are valid."""

    reads: tuple[str, ...]
    check: Check


def elements(items: Sequence[E]) -> Iterator[tuple[int, E]]:
    """Yield the elements with their positions, except those that could not be decoded: these are reported already."""
    elements: Sequence[E | None] = items
    for index, item in enumerate(elements):
        if item is not None:
            yield index, item
