"""Codecs of arrays and of tables whose keys the user chooses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from sandbox.spec.codecs.scalars import mismatch
from sandbox.spec.notation import shown
from sandbox.spec.settings import Codec, Cursor, Invalid
from unionfs._stdlib.typing import Any, TypeVar, cast

T = TypeVar("T")

APPEND, REMOVE = "append", "remove"
CHANGES = frozenset((APPEND, REMOVE))
"""The keys of a table that is written in place of a list, and changes the list of the extended file."""


class ListOf(Codec[tuple[T, ...]]):
    """An array of at least *minimum* elements of one kind. With *distinct*, each element may occur only once."""

    toml_types = ("array",)

    def __init__(self, codec: Codec[T], *, minimum: int = 0, distinct: bool = False) -> None:
        self.codec = codec
        self.minimum = minimum
        self.distinct = distinct
        self.expects = f"array of {plural(codec.expects)}"

    def decode(self, value: object, cursor: Cursor, /) -> tuple[T, ...]:
        if not isinstance(value, list):
            raise mismatch(self, value, self._hint(value, cursor))
        if len(value) < self.minimum:
            least = f"hold at least {self.minimum} elements" if self.minimum > 1 else "not be empty"
            raise Invalid(f"must {least}")
        items: list[T] = []
        seen: set[T] = set()
        for index, element in enumerate(value):
            here = cursor.child(index)
            try:
                item = self.codec.decode(element, here)
            except Invalid as error:
                here.report(error.message, error.hint, fragment=error.fragment)
                # Keeps the positions of the later elements. A specification with a problem is never returned.
                items.append(cast("T", None))
                continue
            items.append(item)
            if self.distinct:
                if item in seen:
                    here.report(f"{shown(str(element))} is listed twice", "remove one of them")
                seen.add(item)
        return tuple(items)

    def encode(self, value: tuple[T, ...], /) -> object:
        return [self.codec.encode(item) for item in value]

    def schema(self) -> dict[str, object]:
        array: dict[str, object] = {"type": "array", "items": self.codec.schema()}
        whole = array | ({"minItems": self.minimum} if self.minimum else {})
        return {"anyOf": [whole, _change_schema(array)]}

    def inside(self, key: str | int, /) -> Codec[Any] | None:
        return self.codec if isinstance(key, int) else None

    def describe(self) -> str:
        element = self.codec.describe()
        return self.expects if element == self.codec.expects else f"array, each: {element}"

    def _hint(self, value: object, cursor: Cursor) -> str | None:
        if isinstance(value, dict) and self.codec.toml_types == ("table",):
            return f"write [[{cursor.path[-1]}]], with two brackets"
        if isinstance(value, str) and "string" in self.codec.toml_types:
            if value.startswith("[") and value.endswith("]"):  # the shell turns `--set KEY=["a"]` into [a]
                inside = ", ".join(shown(part.strip()) for part in value[1:-1].split(","))
                return f"put each element in quotes: [{inside}]; in a shell: '[{inside}]'"
            return f"put it in brackets: [{shown(value)}]"
        return None


class TableOf(Codec[Mapping[str, T]]):
    """A table whose keys the user chooses and whose values are of one kind. *check_key* raises Invalid for a bad key."""

    toml_types = ("table",)

    def __init__(self, codec: Codec[T], check_key: Callable[[str], object] | None = None) -> None:
        self.codec = codec
        self.check_key = check_key
        self.expects = f"table of {plural(codec.expects)}"

    def decode(self, value: object, cursor: Cursor, /) -> Mapping[str, T]:
        if not isinstance(value, dict):
            raise mismatch(self, value)
        items: dict[str, T] = {}
        for key, element in value.items():
            here = cursor.child(key)
            try:
                if self.check_key is not None:
                    self.check_key(key)
            except Invalid as error:
                here.report(error.message, error.hint, part="key")
            try:
                items[key] = self.codec.decode(element, here)
            except Invalid as error:
                hint = error.hint or _hint_for_misplaced_key(key, element, cursor)
                here.report(error.message, hint, fragment=error.fragment)
        return MappingProxyType(items)

    def encode(self, value: Mapping[str, T], /) -> object:
        return {key: self.codec.encode(item) for key, item in value.items()}

    def schema(self) -> dict[str, object]:
        return {"type": "object", "additionalProperties": self.codec.schema()}

    def inside(self, key: str | int, /) -> Codec[Any] | None:
        return self.codec if isinstance(key, str) else None

    def describe(self) -> str:
        element = self.codec.describe()
        return self.expects if element == self.codec.expects else f"table of names, each: {element}"


def _hint_for_misplaced_key(key: str, value: object, cursor: Cursor) -> str | None:
    """Return the hint for a value that the table cannot take, if *key* belongs at the top of the file; else None."""
    if cursor.context.root is None:
        return None
    from sandbox.spec import other_engines  # imported only after a mistake

    return other_engines.hint_for_misplaced_key(key, value, cursor.path, cursor.context.root)


def _change_schema(array: dict[str, object]) -> dict[str, object]:
    """Return the JSON Schema of a table that changes a list of another file or profile."""
    return {
        "type": "object",
        "description": "Changes the list of the file that this one extends; see the reference, Composition.",
        "properties": {APPEND: array, REMOVE: {"type": "array"}},
        "minProperties": 1,
        "additionalProperties": False,
    }


def plural(noun: str) -> str:
    """Return the plural of *noun*, which is a phrase such as `Codec.expects`."""
    head, of, rest = noun.partition(" of ")
    if head.endswith("y") and head[-2:-1] not in "aeiou":
        head = head[:-1] + "i"
    head += "es" if head.endswith(("s", "i")) else "s"
    return head + of + rest
