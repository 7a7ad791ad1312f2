"""Read untrusted JSON documents of images in bounded time and memory, and write documents in canonical form. Pure.

`parse` returns the object of a document as `Fields`, which read each value with its type. `canonical` writes an object so that
equal objects give equal bytes.
"""

from __future__ import annotations

import json
import math
import re

from sandbox.errors import ImageError
from sandbox.images.names import printable
from unionfs._stdlib.typing import Any, NoReturn

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

DOCUMENT_LIMIT = 4 << 20
"""The most bytes of one document: the limit that the distribution specification recommends for manifests."""

NESTING_LIMIT = 64
"""The most arrays and objects inside each other. A configuration with all fields of the specification has five."""

INTEGER_LIMIT = (1 << 63) - 1
"""The largest size in bytes: a descriptor's size is an int64 (image-spec, descriptor.md)."""

DAMAGED = "get the image again from its source, or have the tool that made it write it again"

_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*+"', re.DOTALL)
_BRACKETS = b"[]{}"
_NOT_BRACKETS = bytes(byte for byte in range(256) if byte not in _BRACKETS)


def parse(content: bytes, name: str) -> Fields:
    """Return the fields of the JSON object in *content*; *name* is for messages.

    Refused are, beside what is no JSON in UTF-8 (RFC 8259): duplicate keys, which two readers may understand differently, numbers
    that are not finite, and unpaired surrogates.

    Raises:
        ImageError: *content* is larger than DOCUMENT_LIMIT, nested deeper than NESTING_LIMIT, or no JSON object.
    """
    if len(content) > DOCUMENT_LIMIT:
        raise ImageError(f"{name}: more than {DOCUMENT_LIMIT} bytes of JSON", hint=DAMAGED)
    if _is_nested_too_deeply(content):
        raise ImageError(f"{name}: JSON nested more than {NESTING_LIMIT} deep", hint=DAMAGED)
    try:
        text = content.decode()
        value = json.loads(
            text, object_pairs_hook=_unique, parse_constant=_refuse_constant, parse_float=_finite
        )
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()  # fails for unpaired surrogates
    except UnicodeError:
        raise ImageError(f"{name}: JSON with text that is not UTF-8", hint=DAMAGED) from None
    except ValueError as error:
        raise ImageError(f"{name}: not valid JSON: {_shown(str(error))}", hint=DAMAGED) from None
    if not isinstance(value, dict):
        raise ImageError(f"{name}: JSON that is not an object", hint=DAMAGED)
    return Fields(name, "", value)


def canonical(document: Mapping[str, Any] | Sequence[Any]) -> bytes:
    """Return *document* as JSON in UTF-8, with sorted keys and without white space; equal documents give equal bytes."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


class Fields:
    """The fields of one JSON object. Each method reads one field, of which `null` is as good as nothing.

    All methods raise an ImageError that names the document and the field if the value is of another type.
    """

    __slots__ = ("_path", "_values", "name")

    def __init__(self, name: str, path: str, values: dict[str, Any]) -> None:
        """Read *values*, which are at *path* of the document *name*; the path is empty for the document itself."""
        self.name = name
        self._path = path
        self._values = values

    def __contains__(self, key: str) -> bool:
        """Return whether the field *key* has a value."""
        return self._values.get(key) is not None

    def text(self, key: str) -> str:
        """Return a text that must not be empty."""
        return self.optional_text(key) or self.refuse(key, "is missing or empty")

    def optional_text(self, key: str) -> str:
        """Return a text; "" if there is none."""
        value = self._values.get(key)
        return "" if value is None else self._text(key, value)

    def integer(self, key: str) -> int:
        """Return an integer of at least 0 and at most INTEGER_LIMIT."""
        value = self._values.get(key)
        if type(value) is not int or not 0 <= value <= INTEGER_LIMIT:  # a bool is an int, too
            self.refuse(key, "is not an integer of at least 0")
        return value

    def boolean(self, key: str) -> bool:
        """Return a truth value; False if there is none."""
        value = self._values.get(key)
        return (
            bool(value) if value is None or isinstance(value, bool) else self.refuse(key, "is not a boolean")
        )

    def inner(self, key: str) -> Fields:
        """Return an object; one without fields if there is none."""
        value = self._values.get(key)
        return Fields(self.name, self._at(key), {} if value is None else self._object(key, value))

    def objects(self, key: str) -> list[Fields]:
        """Return an array of objects; an empty one if there is none."""
        return [
            Fields(self.name, f"{self._at(key)}[{index}]", self._object(f"{key}[{index}]", value))
            for index, value in enumerate(self._array(key))
        ]

    def texts(self, key: str) -> tuple[str, ...]:
        """Return an array of texts; an empty one if there is none."""
        return tuple(self._text(f"{key}[{index}]", value) for index, value in enumerate(self._array(key)))

    def text_map(self, key: str) -> dict[str, str]:
        """Return an object whose values are texts; an empty one if there is none."""
        values = self.inner(key)._values
        return {self._text(key, name): self._text(f"{key}.{name}", value) for name, value in values.items()}

    def keys(self, key: str) -> tuple[str, ...]:
        """Return the sorted keys of an object that stands for a set: its values are empty objects."""
        return tuple(sorted(self._text(key, name) for name in self.inner(key)._values))

    def rest(self, known: Collection[str]) -> dict[str, Any]:
        """Return the fields that are not *known*, as they are."""
        return {key: value for key, value in self._values.items() if key not in known and value is not None}

    def refuse(self, key: str, reason: str) -> NoReturn:
        """Refuse the document because of the field *key*; *reason* follows its name.

        Raises:
            ImageError: always.
        """
        raise ImageError(f"{self.name}: {_shown(self._at(key))} {reason}", hint=DAMAGED)

    def _at(self, key: str) -> str:
        return f"{self._path}.{key}" if self._path else key

    def _array(self, key: str) -> list[Any]:
        value = self._values.get(key)
        if value is None:
            return []
        return value if isinstance(value, list) else self.refuse(key, "is not an array")

    def _object(self, key: str, value: object) -> dict[str, Any]:
        return value if isinstance(value, dict) else self.refuse(key, "is not an object")

    def _text(self, key: str, value: object) -> str:
        if not isinstance(value, str):
            self.refuse(key, "is not a text")
        if "\0" in value:  # no argument, variable or path of Linux can contain one
            self.refuse(key, "contains a zero byte")
        return value


def _is_nested_too_deeply(content: bytes) -> bool:
    """Return whether arrays and objects are nested more than NESTING_LIMIT deep; the parser would need a stack for them."""
    if content.count(b"[") + content.count(b"{") <= NESTING_LIMIT:
        return False
    depth = 0
    for byte in _STRINGS.sub(b"", content).translate(None, _NOT_BRACKETS):
        depth += 1 if byte in b"[{" else -1
        if depth > NESTING_LIMIT:
            return True
    return False


def _unique(items: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(items)
    if len(found) != len(items):
        seen: set[str] = set()
        twice = next(key for key, _ in items if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice!r} occurs twice in an object")
    return found


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:20]} is too large")
    return value


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a number of JSON")


def _shown(text: str) -> str:
    return printable(text.encode("utf-8", "backslashreplace"))
