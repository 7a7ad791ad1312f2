"""Names of `typing`, without what importing that costs at each start, and its subscripts and named tuples with it.

Most are for type checkers alone, and stand for anything at run time: annotations are not evaluated (PEP 563), and nobody asks a class for
its parameters. Checkers see those of `typing` itself, and so does ruff (`typing-modules` in pyproject.toml).
"""

from __future__ import annotations

# A plain name instead of typing.TYPE_CHECKING, see above.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import (
        Any,
        BinaryIO,
        Generic,
        Literal,
        NamedTuple,
        NewType,
        NoReturn,
        Protocol,
        Self,
        TypeGuard,
        TypeVar,
        cast,
        overload,
    )

__all__ = [
    "Any",
    "BinaryIO",
    "Generic",
    "Literal",
    "NamedTuple",
    "NewType",
    "NoReturn",
    "Protocol",
    "Self",
    "TypeGuard",
    "TypeVar",
    "cast",
    "overload",
]

if not TYPE_CHECKING:
    from collections import namedtuple

    class _Base:
        """What `class C(Generic[T])` and `class C(Protocol)` inherit from; C[int] is C."""

        __slots__ = ()

        def __class_getitem__(cls, _parameters: object) -> type:
            return cls

    class _Word:
        """What stands in an annotation, or in the value of an alias that does."""

        def __call__(self, *_given: object, **_named: object) -> _Word:
            return self

        def __getitem__(self, _parameters: object) -> _Word:
            return self

        def __or__(self, _other: object) -> _Word:
            return self

        __ror__ = __or__

    class _NamedTupleMeta(type):
        """Makes of `class C(NamedTuple)` what `typing` does, and asks no annotation what it means."""

        def __new__(cls, name: str, bases: tuple[type, ...], names: dict[str, object]) -> type:
            if not bases:
                return super().__new__(cls, name, bases, names)
            fields = list(names["__annotations__"])
            defaults = [names.pop(field) for field in fields if field in names]
            made = namedtuple(name, fields, defaults=defaults)  # noqa: PYI024 - it is what typing makes, too
            for key, value in names.items():
                setattr(made, key, value)
            return made

    class NamedTuple(metaclass=_NamedTupleMeta):
        """What a named tuple is declared to inherit from; it inherits from tuple alone."""

    def NewType(_name: str, _of: object) -> object:  # noqa: N802 - its name in typing
        """Return what gives back what it is given."""
        return lambda value: value

    def cast(_kind: object, value: object) -> object:
        """Return *value*."""
        return value

    def overload(function: object) -> object:
        """Return *function*, which another of its name takes the place of."""
        return function

    Any = BinaryIO = Literal = NoReturn = Self = TypeGuard = TypeVar = _Word()
    Generic = Protocol = _Base
