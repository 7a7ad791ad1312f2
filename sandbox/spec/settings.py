"""The mechanism of the specification language: one declaration per setting.

A setting is a dataclass field made by `setting(codec, doc=..., example=...)`. Everything that is said about it - how a
TOML value becomes a Python value, what is allowed, default, unit, documentation - stands in that one call, and
decoding, messages, and whatever else describes the language are derived from it (`settings_of`).

A codec reports a mistake by raising `Invalid`; who called it knows the key path. A codec of a container goes on after
a mistake, so that all of them are found in one run.
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


class Invalid(Exception):
    """A value is not what its setting takes. *fragment* is the piece of a string that is wrong, if not all of it."""

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
        """Note *problem*, unless its key has one already: the first mistake of a value explains the next ones.

        That a value is not enforced explains no mistake, nor the other way round.
        """
        if (problem.path, problem.unenforced) not in self._seen:
            self._seen.add((problem.path, problem.unenforced))
            self.found.append(problem)
            if not problem.unenforced:
                self._above_mistakes.update(problem.path[:length] for length in range(len(problem.path) + 1))

    @property
    def mistakes(self) -> list[Problem]:
        """What is wrong whatever the version and the machine are."""
        return [problem for problem in self.found if not problem.unenforced]

    def touch(self, path: KeyPath) -> bool:
        """Return whether a mistake lies at *path*, below it, or in a table around it: its value means nothing then."""
        return path in self._above_mistakes or any(
            (path[:length], False) in self._seen for length in range(len(path))
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Context:
    """What the meaning of a value can depend on beside the value: where it was written, and the user's home."""

    origins: Origins
    home: str | None
    root: type | None = None  # the class of the whole language, to say where a misplaced key belongs


@dataclass(frozen=True, slots=True)
class Cursor:
    """The place in the document that is being decoded, and where to report what is wrong there."""

    context: Context
    problems: Problems
    path: KeyPath = ()

    def child(self, key: str | int) -> Cursor:
        """Return the cursor for the value *key* of the table or array here."""
        return Cursor(self.context, self.problems, (*self.path, key))

    def report(
        self, message: str, hint: str | None = None, *, part: Part = "value", fragment: str | None = None
    ) -> None:
        """Note a mistake here."""
        self.problems.add(Problem(path=self.path, message=message, hint=hint, part=part, fragment=fragment))

    def unenforced(
        self, what: str = "", hint: str | None = None, *, part: Part = "value", fragment: str | None = None
    ) -> None:
        """Note that this version would not do what is asked for here: all of it, or the value that *what* quotes."""
        message = f"{what} is {NOT_ENFORCED}" if what else NOT_ENFORCED
        self.problems.add(
            Problem(path=self.path, message=message, hint=hint, part=part, fragment=fragment, unenforced=True)
        )


def words(values: Iterable[str]) -> str:
    """Return *values* as TOML strings: `"a", "b" or "c"`."""
    return joined(map(quote, values))


class Codec(Generic[T]):
    """How the values of one kind are read.

    `expects` completes "expected ..." in messages, and names the type in the reference. `toml_types` are the TOML
    types that are taken, by their names in `notation.type_name`. `choices` lists all allowed values where they are few.
    """

    expects: str
    toml_types: tuple[str, ...]
    choices: tuple[str, ...] = ()

    def decode(self, value: object, cursor: Cursor, /) -> T:
        """Return the Python value for the TOML *value*; raise Invalid, or report below *cursor* and go on."""
        raise NotImplementedError

    def encode(self, value: T, /) -> object:
        """Return a TOML value that is decoded to *value*, whatever directory it is written in."""
        return value

    def schema(self) -> dict[str, object]:
        """Return the JSON Schema (draft 2020-12) of the TOML values that are taken.

        It takes whatever `decode` takes; what a schema cannot tell (that a path is absolute once its references are
        expanded, say) it takes, too.
        """
        raise NotImplementedError

    def describe(self) -> str:
        """Return what is taken, in the words of the reference."""
        return f"one of {words(self.choices)}" if len(self.choices) > 1 else self.expects

    def inside(self, _key: str | int, /) -> Codec[Any] | None:
        """Return the codec of the value *key* of a table or array that this codec reads; None where there is none."""
        return None

    def names(self, value: object, /) -> tuple[object, ...]:
        """Return what the TOML *value* may be called as an element of a list: itself, and what identifies it."""
        return (value,)


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting(Generic[T]):
    """All that is known about one key of the language.

    `example` is a value as tomllib would give it. A setting that is not `enforced` is part of the vocabulary, but
    setting it is an error: this version would not do what it says. `default` is None for what has none.
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
    """Declare a dataclass field to be a setting whose key is the name of the field.

    Give *default*, or *required*, or neither for a setting that is None when absent. *unit* names what a number counts.
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
            yield item.name, cast("Setting[Any]", declaration)
