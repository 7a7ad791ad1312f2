"""Names of `typing`, including subscripts and named tuples, without the time that importing it takes at each start.

Most of these names matter to type checkers alone and are placeholders at run time. Annotations are not evaluated (PEP
563), and no code reads the type parameters of a class. Type checkers see the names of `typing` itself, and so does ruff
(`typing-modules` in pyproject.toml).
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
        """The base of `class C(Generic[T])` and `class C(Protocol)`; C[int] is C."""

        __slots__ = ()

        def __class_getitem__(cls, _parameters: object) -> type:
            return cls

    class _Word:
        """A placeholder for names in annotations and in the values of type aliases."""

        def __call__(self, *_given: object, **_named: object) -> _Word:
            return self

        def __getitem__(self, _parameters: object) -> _Word:
            return self

        def __or__(self, _other: object) -> _Word:
            return self

        __ror__ = __or__

    class _NamedTupleMeta(type):
        """Turns `class C(NamedTuple)` into a named tuple, as `typing` does, but without evaluating annotations."""

        def __new__(cls, name: str, bases: tuple[type, ...], names: dict[str, object]) -> type:
            if not bases:
                return super().__new__(cls, name, bases, names)
            fields = list(names["__annotations__"])
            defaults = [names.pop(field) for field in fields if field in names]
            made = namedtuple(name, fields, defaults=defaults)  # noqa: PYI024 - `typing` uses it, too
            for key, value in names.items():
                setattr(made, key, value)
            return made

    class NamedTuple(metaclass=_NamedTupleMeta):
        """The declared base of a named tuple; the resulting class inherits from tuple alone."""

    def NewType(_name: str, _of: object) -> object:  # noqa: N802 - its name in typing
        """Return a function that returns its argument."""
        return lambda value: value

    def cast(_kind: object, value: object) -> object:
        """Return *value*."""
        return value

    def overload(function: object) -> object:
        """Return *function*; a later function of the same name replaces it."""
        return function

    Any = BinaryIO = Literal = NoReturn = Self = TypeGuard = TypeVar = _Word()
    Generic = Protocol = _Base
