"""The dataclasses of `unionfs._stdlib` behave like those of the standard library."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import subprocess
import sys
from typing import Any

import pytest

from unionfs._stdlib import dataclasses as light


def classes(module: Any) -> list[type]:
    """Return the same classes, created with *module*."""
    field = module.field

    @module.dataclass(frozen=True, slots=True)
    class Base:
        """A base."""

        a: int
        b: str = "b"

    @module.dataclass(frozen=True, slots=True, kw_only=True)
    class Child(Base):
        """A child."""

        c: list[int] = field(default_factory=list, compare=False, metadata={"said": 1})
        d: object = field(default=None, repr=False)

        def double(self) -> int:
            return self.a * 2

    @module.dataclass(slots=True)
    class Late:
        """Defaults of arguments that are not given."""

        a: int
        rest: list[int] = field(init=False, repr=False)
        count: int = field(default=7, init=False)

        def __post_init__(self) -> None:
            self.rest = [self.a]

    @module.dataclass(frozen=True, slots=True)
    class PathRef:
        """A dataclass with methods."""

        a: int

        def __eq__(self, other: object) -> bool:
            return isinstance(other, PathRef) and self.a % 2 == other.a % 2

        def __hash__(self) -> int:
            return self.a % 2

        def __repr__(self) -> str:
            return f"<{self.a}>"

    return [Base, Child, Late, PathRef]


OURS = classes(light)
PAIRS = list(zip(OURS, classes(dataclasses), strict=True))
BASE, CHILD, LATE, NAMED = PAIRS


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair[0].__name__)
def test_a_class_says_the_same_of_itself(pair: tuple[type, type]) -> None:
    ours, theirs = pair
    assert ours.__match_args__ == theirs.__match_args__  # type: ignore[attr-defined]
    assert ours.__slots__ == theirs.__slots__  # type: ignore[attr-defined]
    assert ours.__doc__ == theirs.__doc__
    assert (ours.__hash__ is None) == (theirs.__hash__ is None)
    for told in (light.fields(ours), dataclasses.fields(ours)):  # type: ignore[arg-type]
        assert [
            (item.name, item.type, item.init, item.repr, item.compare, item.kw_only, dict(item.metadata))
            for item in told
        ] == [
            (item.name, item.type, item.init, item.repr, item.compare, item.kw_only, dict(item.metadata))
            for item in dataclasses.fields(theirs)  # type: ignore[arg-type]
        ]


@pytest.mark.parametrize(
    ("pair", "positional", "named"),
    [
        (BASE, (1,), {}),
        (BASE, (1, "x"), {}),
        (BASE, (), {"b": "x", "a": 1}),
        (CHILD, (1,), {"c": [1], "d": 5}),
        (CHILD, (1, "y"), {}),
        (LATE, (1,), {}),
        (NAMED, (3,), {}),
        # Rejected declarations:
        (BASE, (), {}),
        (BASE, (1, "x", 2), {}),
        (BASE, (1,), {"a": 1}),
        (BASE, (1,), {"z": 1}),
        (CHILD, (1, "y", [1]), {}),
        (LATE, (1,), {"rest": []}),
    ],
)
def test_an_instance_is_made_of_the_same_arguments(
    pair: tuple[Any, Any], positional: tuple[Any, ...], named: dict[str, Any]
) -> None:
    ours, theirs = pair
    try:
        expected = theirs(*positional, **named)
    except TypeError:
        with pytest.raises(TypeError):
            ours(*positional, **named)
        return
    made = ours(*positional, **named)
    assert repr(made).replace("classes.<locals>.", "") == repr(expected).replace("classes.<locals>.", "")
    assert light.asdict(made) == dataclasses.asdict(expected) == dataclasses.asdict(made)
    assert made == ours(*positional, **named)
    assert made != expected
    assert copy.deepcopy(made) == made
    for replace in (light.replace, dataclasses.replace):
        assert light.asdict(replace(made, a=9)) == dataclasses.asdict(dataclasses.replace(expected, a=9))


def test_what_is_left_out_of_comparing_makes_no_difference() -> None:
    ours = CHILD[0]
    assert ours(1, c=[1]) == ours(1, c=[2])
    assert hash(ours(1, c=[1])) == hash(ours(1, c=[2]))
    assert ours(1, d=1) != ours(1, d=2)
    assert ours(1) != BASE[0](1)
    assert ours(1).c is not ours(1).c
    assert NAMED[0](1) == NAMED[0](3)


def test_a_frozen_one_takes_no_change_and_has_no_other_attributes() -> None:
    made = CHILD[0](1)
    for change in (
        lambda: setattr(made, "a", 2),
        lambda: setattr(made, "z", 2),
        lambda: delattr(made, "a"),
    ):
        with pytest.raises(dataclasses.FrozenInstanceError):
            change()
    assert not hasattr(made, "__dict__")
    late = LATE[0](1)
    late.a = 5
    assert late.a == 5
    with pytest.raises(AttributeError):
        late.z = 1
    with pytest.raises(TypeError, match="requires slots"):
        light.dataclass(frozen=True)


def test_an_instance_survives_being_pickled() -> None:
    from sandbox.kernel.idmaps import IdMap

    made = IdMap(inside=0, outside=1000, count=1)
    assert pickle.loads(pickle.dumps(made)) == made


def test_the_module_imports_nothing() -> None:
    script = "import sys; before = set(sys.modules); import unionfs._stdlib.dataclasses; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) - {"__future__"} == {
        "unionfs",
        "unionfs._stdlib",
        "unionfs._stdlib.dataclasses",
    }
