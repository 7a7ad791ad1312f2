"""The mechanism of the specification language: one declaration per setting.

A setting is a dataclass field made by `setting(codec, doc=..., example=...)`. That one call defines everything about it:
how a TOML value becomes a Python value, the allowed values, default, unit and documentation. Decoding, messages, and all
other descriptions of the language are derived from it (`settings_of`).

A codec reports a mistake by raising `Invalid`; its caller adds the key path. A codec of a container continues after a
mistake, so that one run finds all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from sandbox.spec.notation import KeyPath, joined, quote
from sandbox.spec.origin import Origins, Part, Problem
from unionfs._stdlib import dataclasses
from unionfs._stdlib.dataclasses import dataclass, field
from unionfs._stdlib.typing import Any, Generic, Literal, TypeVar, cast, overload

T = TypeVar("T")

NOT_ENFORCED = "not enforced by this version"

_METADATA_KEY = "sandbox.spec.setting"

_KEYWORDS = frozenset({"from"})


class Invalid(Exception):
    """A value that its setting does not accept. *fragment* is the wrong part of a string, if only a part is wrong."""

    def __init__(self, message: str, hint: str | None = None, *, fragment: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.fragment = fragment


class Problems:
    """The mistakes found so far."""

    def __init__(self) -> None:
        self.found: list[Problem] = []
        self._seen: set[tuple[KeyPath, bool]] = set()
        self._above_mistakes: set[KeyPath] = set()

    def add(self, problem: Problem) -> None:
        """Add *problem*, unless its key already has one: the first mistake of a value explains later ones.

        An unenforced value explains no mistake, and a mistake does not explain that a value is unenforced.
        """
        if (problem.path, problem.unenforced) not in self._seen:
            self._seen.add((problem.path, problem.unenforced))
            self.found.append(problem)
            if not problem.unenforced:
                self._above_mistakes.update(problem.path[:length] for length in range(len(problem.path) + 1))

    @property
    def mistakes(self) -> list[Problem]:
        """The problems that are mistakes in every version and on every machine."""
        return [problem for problem in self.found if not problem.unenforced]

    def affects(self, path: KeyPath) -> bool:
        """Return whether a mistake is at *path*, below it, or in a table around it; its value is then invalid."""
        return path in self._above_mistakes or any(
            (path[:length], False) in self._seen for length in range(len(path))
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Context:
    """The context that decoding a value may depend on: the origin of the value, and the user's home directory."""

    origins: Origins
    home: str | None
    root: type | None = None  # the class of the whole language, to find the table of a misplaced key


@dataclass(frozen=True, slots=True)
class Cursor:
    """A position in the document that is being decoded; collects the mistakes found there."""

    context: Context
    problems: Problems
    path: KeyPath = ()

    def child(self, key: str | int) -> Cursor:
        """Return the cursor for the value *key* of the table or array here."""
        return Cursor(self.context, self.problems, (*self.path, key))

    def report(
        self, message: str, hint: str | None = None, *, part: Part = "value", fragment: str | None = None
    ) -> None:
        """Report a mistake at this position."""
        self.problems.add(Problem(path=self.path, message=message, hint=hint, part=part, fragment=fragment))

    def unenforced(
        self, what: str = "", hint: str | None = None, *, part: Part = "value", fragment: str | None = None
    ) -> None:
        """Report that this version does not enforce the value here, or the part of it that *what* quotes."""
        message = f"{what} is {NOT_ENFORCED}" if what else NOT_ENFORCED
        self.problems.add(
            Problem(path=self.path, message=message, hint=hint, part=part, fragment=fragment, unenforced=True)
        )


def words(values: Iterable[str]) -> str:
    """Return *values* as TOML strings: `"a", "b" or "c"`."""
    return joined(map(quote, values))


class Codec(Generic[T]):
    """Reads and writes the values of one kind.

    `expects` completes "expected ..." in messages, and names the type in the reference. `toml_types` are the accepted TOML
    types, by their names in `notation.type_name`. `choices` lists all allowed values if they are few.
    """

    expects: str
    toml_types: tuple[str, ...]
    choices: tuple[str, ...] = ()

    def decode(self, value: object, cursor: Cursor, /) -> T:
        """Return the Python value for the TOML *value*; raise Invalid, or report below *cursor* and continue."""
        raise NotImplementedError

    def encode(self, value: T, /) -> object:
        """Return a TOML value that decodes to *value* in a file of any directory."""
        return value

    def schema(self) -> dict[str, object]:
        """Return the JSON Schema (draft 2020-12) of the accepted TOML values.

        The schema accepts every value that `decode` accepts. It also accepts values that a schema cannot check, such as a
        path that must be absolute after its references are expanded.
        """
        raise NotImplementedError

    def describe(self) -> str:
        """Return the accepted values, in the words of the reference."""
        return f"one of {words(self.choices)}" if len(self.choices) > 1 else self.expects

    def inside(self, _key: str | int, /) -> Codec[Any] | None:
        """Return the codec of the value *key* of a table or array that this codec reads; None if it has no such value."""
        return None

    def names(self, value: object, /) -> tuple[object, ...]:
        """Return the values that identify *value* as an element of a list: itself, and the value of its identifying key."""
        return (value,)


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting(Generic[T]):
    """The declaration of one key of the language.

    `example` is a value as tomllib would return it. A setting that is not `enforced` is part of the vocabulary, but
    setting it is an error, because this version would not enforce it. `default` is None for a setting without one.
    """

    codec: Codec[T]
    doc: str
    example: object
    default: T | None
    required: bool
    unit: str | None
    enforced: bool


@overload
def setting(
    codec: Codec[T], *, doc: str, example: object, default: T, unit: str | None = None, enforced: bool = True
) -> T: ...


@overload
def setting(
    codec: Codec[T], *, doc: str, example: object, required: Literal[True], unit: str | None = None
) -> T: ...


@overload
def setting(
    codec: Codec[T], *, doc: str, example: object, unit: str | None = None, enforced: bool = True
) -> T | None: ...


def setting(
    codec: Codec[Any],
    *,
    doc: str,
    example: object,
    default: object = None,
    required: bool = False,
    unit: str | None = None,
    enforced: bool = True,
) -> Any:
    """Declare a dataclass field to be a setting whose key is the name of the field, without an underscore at its end.

    Pass *default* or *required*, or neither for a setting that is None when absent. *unit* names what a number counts.
    """
    declaration = Setting(
        codec=codec,
        doc=doc,
        example=example,
        default=default,
        required=required,
        unit=unit,
        enforced=enforced,
    )
    metadata = {_METADATA_KEY: declaration}
    if required:
        return field(metadata=metadata)
    if default is not None and type(default).__hash__ is None:
        return field(default_factory=lambda: default, metadata=metadata)
    return field(default=default, metadata=metadata)


def settings_of(cls: type) -> Mapping[str, Setting[Any]]:
    """Return the settings that *cls* declares, by key, in the order of declaration."""
    return dict(_declared(cls))


def _declared(cls: type) -> Iterator[tuple[str, Setting[Any]]]:
    for item in dataclasses.fields(cls):
        declaration = item.metadata.get(_METADATA_KEY)
        if declaration is not None:
            yield item.name.removesuffix("_"), cast("Setting[Any]", declaration)


def attribute_of(key: str) -> str:
    """Return the name of the field of the setting *key*: `from_` for `from`, which is a keyword of Python."""
    return f"{key}_" if key in _KEYWORDS else key
