"""Codecs of quantities: sizes, durations, permission bits, and limits that may be "unlimited"."""

from __future__ import annotations

import math

from sandbox.spec import units
from sandbox.spec.codecs.scalars import check_bounds, mismatch, text_schema
from sandbox.spec.notation import shown, type_name
from sandbox.spec.settings import Codec, Cursor, Invalid
from unionfs._stdlib.typing import Literal

Unlimited = Literal["unlimited"]

_SIZE_PATTERN = "^[0-9]+(\\.[0-9]+)? *[kKmMgGtTpPeE]?([iI]?[bB])?$"
_DURATION_PATTERN = "^([0-9]+(\\.[0-9]+)?(ms|[smhd]))+$"


class Size(Codec[int]):
    """A size in bytes: an integer, or a string with a unit."""

    expects = "size"
    toml_types = ("integer", "string")

    def __init__(self, minimum: int = 0) -> None:
        self.minimum = minimum

    def decode(self, value: object, _cursor: Cursor, /) -> int:
        if isinstance(value, str):
            try:
                size = units.parse_size(value)
            except ValueError as error:
                raise Invalid(
                    str(error), 'write bytes as a number, or a string such as "512M" or "1.5G"'
                ) from None
        elif type(value) is int:
            size = value
        else:
            raise mismatch(self, value)
        check_bounds(size, self.minimum, units.INT64_MAX, units.format_size)
        return size

    def encode(self, value: int, /) -> object:
        text = units.format_size(value)
        return value if text.isdecimal() else text

    def schema(self) -> dict[str, object]:
        return {"anyOf": [{"type": "integer", "minimum": self.minimum}, text_schema(_SIZE_PATTERN)]}

    def describe(self) -> str:
        least = f", at least {units.format_size(self.minimum)}" if self.minimum > 1 else ""
        return f"{self.expects}{least}"


class Duration(Codec[float]):
    """A duration in seconds: a number, or a string with units."""

    expects = "duration"
    toml_types = ("integer", "float", "string")
    _hint = 'write seconds as a number, or a string such as "30s" or "1h30m"'

    def __init__(self, minimum: float = 0.0) -> None:
        self.minimum = minimum

    def decode(self, value: object, _cursor: Cursor, /) -> float:
        if isinstance(value, str):
            try:
                seconds = units.parse_duration(value)
            except ValueError as error:
                raise Invalid(str(error), self._hint) from None
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            seconds = float(value)
        else:
            raise mismatch(self, value, self._hint)
        if not math.isfinite(seconds):
            raise Invalid(f"must be a finite number of seconds, found {seconds}", self._hint)
        check_bounds(seconds, self.minimum, units.DURATION_MAX, units.format_duration)
        return seconds

    def encode(self, value: float, /) -> object:
        text = units.format_duration(value)
        return text if units.parse_duration(text) == value else value

    def schema(self) -> dict[str, object]:
        return {"anyOf": [{"type": "number", "minimum": self.minimum}, text_schema(_DURATION_PATTERN)]}


class WholeSeconds(Codec[int]):
    """A duration that the kernel counts in whole seconds."""

    expects = "duration"
    toml_types = Duration.toml_types

    def __init__(self, minimum: int = 0) -> None:
        self._duration = Duration(minimum)

    def decode(self, value: object, cursor: Cursor, /) -> int:
        seconds = self._duration.decode(value, cursor)
        if seconds != int(seconds):
            raise Invalid(f"must be a whole number of seconds, found {seconds:g}")
        return int(seconds)

    def encode(self, value: int, /) -> object:
        return self._duration.encode(value)

    def schema(self) -> dict[str, object]:
        return self._duration.schema()

    def describe(self) -> str:
        return f"{self.expects} of whole seconds"


class Octal(Codec[int]):
    """Permission bits, written as a string so that 755 cannot be read as a decimal number."""

    expects = "string of octal digits"
    toml_types = ("string",)

    def __init__(self, maximum: int) -> None:
        self.maximum = maximum

    def decode(self, value: object, _cursor: Cursor, /) -> int:
        hint = 'write it as a string of octal digits, such as "0755"'
        if not isinstance(value, str):
            raise mismatch(self, value, hint)
        try:
            mode = units.parse_octal(value)
        except ValueError as error:
            raise Invalid(str(error), hint) from None
        check_bounds(mode, 0, self.maximum, units.format_octal)
        return mode

    def encode(self, value: int, /) -> object:
        return units.format_octal(value)

    def schema(self) -> dict[str, object]:
        return text_schema("^[0-7]{1,6}$")

    def describe(self) -> str:
        return f'string of octal digits, at most "{units.format_octal(self.maximum)}"'


class OrUnlimited(Codec["int | Unlimited"]):
    """A value of another codec, or the word "unlimited"."""

    choices = (units.UNLIMITED,)

    def __init__(self, codec: Codec[int]) -> None:
        self.codec = codec
        self.expects = f'{codec.expects} or "unlimited"'
        self.toml_types = (
            (*codec.toml_types, "string") if "string" not in codec.toml_types else codec.toml_types
        )

    def decode(self, value: object, cursor: Cursor, /) -> int | Unlimited:
        if value == units.UNLIMITED:
            return "unlimited"
        if isinstance(value, str) and "string" not in self.codec.toml_types:
            raise Invalid(f"expected {self.expects}, found {shown(value)}")
        if type_name(value) not in self.codec.toml_types:
            raise mismatch(self, value)
        return self.codec.decode(value, cursor)

    def encode(self, value: int | Unlimited, /) -> object:
        return value if isinstance(value, str) else self.codec.encode(value)

    def schema(self) -> dict[str, object]:
        return {"anyOf": [{"enum": [units.UNLIMITED]}, self.codec.schema()]}

    def describe(self) -> str:
        return f'{self.codec.describe()}, or "{units.UNLIMITED}"'
