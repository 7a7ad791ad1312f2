"""The replacement of `typing` at run time."""

from __future__ import annotations

import subprocess
import sys
import typing
from collections.abc import Mapping

import pytest

from tests.conftest import PROJECT
from unionfs._stdlib import typing as light


def test_a_named_tuple_is_what_typing_makes_of_it() -> None:
    def declare(base: typing.Any) -> typing.Any:
        class Row(base):  # type: ignore[misc]
            """An example."""

            name: bytes
            page: int = 0
            marks: tuple[int, ...] = ()

            @property
            def long(self) -> bool:
                return len(self.name) > 3

            @classmethod
            def of(cls, name: bytes) -> typing.Any:
                return cls(name, page=7)

        return Row

    ours, theirs = declare(light.NamedTuple), declare(typing.NamedTuple)
    assert ours.__bases__ == theirs.__bases__ == (tuple,)
    for name in (
        "__name__",
        "__qualname__",
        "__module__",
        "__doc__",
        "_fields",
        "_field_defaults",
        "__slots__",
    ):
        assert getattr(ours, name) == getattr(theirs, name)
    for row in (ours, theirs):
        assert row(b"a") == (b"a", 0, ())
        assert row.of(b"abcd").long
        assert row(b"a")._replace(page=3) == (b"a", 3, ())
        assert repr(row.of(b"b")).endswith("Row(name=b'b', page=7, marks=())")
        with pytest.raises(TypeError):
            row()


def test_a_generic_class_may_be_subscripted_and_inherited_from() -> None:
    T = light.TypeVar("T")

    class Box(light.Generic[T]):
        __slots__ = ("inside",)

    class Ints(Box[int]):
        pass

    class Pair(light.NamedTuple, light.Generic[T]):
        first: T
        second: T

    assert Box[Mapping[str, T]] is Box
    assert issubclass(Ints, Box)
    assert Pair(1, 2) == (1, 2)


def test_what_is_called_while_a_program_runs_gives_back_what_it_is_given() -> None:
    value = object()
    assert light.cast("int", value) is value
    assert light.NewType("Number", int)(7) == 7
    assert light.overload(len) is len


def test_it_has_a_name_for_nothing_that_typing_has_not() -> None:
    assert [name for name in light.__all__ if not hasattr(typing, name)] == []
    assert [name for name in light.__all__ if not hasattr(light, name)] == []


def test_it_imports_no_typing() -> None:
    script = "import unionfs._stdlib.typing; print('typing' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-S", "-P", "-c", f"import sys; sys.path.insert(0, {str(PROJECT)!r}); {script}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "False\n"
