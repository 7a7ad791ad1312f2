"""`dataclass`, `field`, `replace`, `fields` and `asdict` of the standard library, without their cost at each start.

The standard library writes the methods of each class as source code and compiles it. That takes a third of a
millisecond per class, and a start defines more than a hundred classes. The module also imports `inspect` and the
dependencies of `inspect`. The methods here are closures. The classes are otherwise the same, and the functions of
`dataclasses` itself accept them. Some features are missing because this project does not use them: classes without
`slots=True`, order, weak references, `InitVar`, `KW_ONLY`, and inherited fields that are declared again.
"""

from __future__ import annotations

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from dataclasses import asdict, dataclass, field, fields, replace
    from typing import Any

__all__ = ["asdict", "dataclass", "field", "fields", "replace"]

_NOTHING: Mapping[Any, Any] = {}


class _Field:
    """One field, with the arguments of `field`; `default` is Ellipsis if there is none."""

    __slots__ = (
        "compare",
        "default",
        "default_factory",
        "init",
        "kw_only",
        "metadata",
        "name",
        "repr",
        "type",
    )

    def __init__(
        self,
        *,
        default: Any = ...,
        default_factory: Callable[[], Any] | None = None,
        init: bool = True,
        repr: bool = True,  # noqa: A002 - its name in dataclasses
        compare: bool = True,
        metadata: Mapping[Any, Any] = _NOTHING,
        kw_only: bool | None = None,
    ) -> None:
        self.name = ""
        self.type: Any = None
        self.default = default
        self.default_factory = default_factory
        self.init = init
        self.repr = repr
        self.compare = compare
        self.metadata = metadata
        self.kw_only = kw_only

    @property
    def _field_type(self) -> object:
        """Return the marker by which `dataclasses` recognises a field."""
        import dataclasses

        return dataclasses._FIELD  # type: ignore[attr-defined]


def _dataclass(*, frozen: bool = False, slots: bool = False, kw_only: bool = False) -> Callable[[type], type]:
    if not slots:
        raise TypeError("the decorator requires slots: use @dataclass(slots=True)")
    return lambda cls: _made(cls, frozen=frozen, kw_only=kw_only)


def _fields(record: Any) -> tuple[_Field, ...]:
    return tuple(record.__dataclass_fields__.values())


def _replace(record: Any, /, **changes: Any) -> Any:
    for name, item in record.__dataclass_fields__.items():
        if item.init and name not in changes:
            changes[name] = getattr(record, name)
    return type(record)(**changes)


def _asdict(record: Any) -> dict[str, Any]:
    return {name: _plain(getattr(record, name)) for name in record.__dataclass_fields__}


def _plain(value: Any) -> Any:
    if hasattr(type(value), "__dataclass_fields__"):
        return _asdict(value)
    if isinstance(value, list | tuple):
        return type(value)(_plain(item) for item in value)
    if isinstance(value, dict):
        return {_plain(key): _plain(item) for key, item in value.items()}
    return value


def _made(cls: type, *, frozen: bool, kw_only: bool) -> type:
    known: dict[str, _Field] = {}
    for base in cls.__mro__[-1:0:-1]:
        known |= base.__dict__.get("__dataclass_fields__", {})
    inherited = len(known)
    names = dict(cls.__dict__)
    for name, kind in names.get("__annotations__", {}).items():
        item = names.pop(name, ...)
        if not isinstance(item, _Field):
            item = _Field(default=item)
        item.name, item.type = name, kind
        item.kw_only = kw_only if item.kw_only is None else item.kw_only
        known[name] = item
    every = list(known.values())
    names["__slots__"] = tuple(list(known)[inherited:])
    for name in ("__dict__", "__weakref__"):
        names.pop(name, None)
    names["__qualname__"] = cls.__qualname__
    setters: list[tuple[str, Callable[[Any, Any], None]]] = []
    given = {
        "__dataclass_fields__": known,
        "__match_args__": tuple([item.name for item in every if item.init and not item.kw_only]),
        "__init__": _initialiser(cls.__qualname__, every, setters, after=hasattr(cls, "__post_init__")),
        "__repr__": _shower([item.name for item in every if item.repr]),
        "__eq__": _comparer([item.name for item in every if item.compare]),
    }
    if frozen:
        given |= _FROZEN
    if names.get("__hash__") is None:  # also None if the class defines __eq__ itself
        names.pop("__hash__", None)
        given["__hash__"] = _hasher([item.name for item in every if item.compare]) if frozen else None
    # Slots can only be created together with the class, so the class is created again. All special methods are passed
    # at creation, because setting one on an existing class is slow.
    cls = type(cls)(cls.__name__, cls.__bases__, given | names)
    # The slot descriptors bypass the __setattr__ of a frozen class. Slots of a base class are found through the class.
    setters += [(item.name, getattr(cls, item.name).__set__) for item in every]
    return cls


def _initialiser(
    title: str, every: list[_Field], setters: list[tuple[str, Callable[[Any, Any], None]]], *, after: bool
) -> Callable[..., None]:
    """Return `__init__` of the class *title*. *setters* are those of *every* field; the caller fills the list after it
    has created the class.
    """
    taken = [item for item in every if item.init]
    positional = [item.name for item in taken if not item.kw_only]
    names = {item.name for item in taken}
    defaults = {item.name: item.default for item in every if item.default is not ...}
    factories = [(item.name, item.default_factory) for item in every if item.default_factory is not None]
    without = [item.name for item in every if not item.init and item.name not in defaults]

    def __init__(self: Any, /, *arguments: Any, **values: Any) -> None:  # noqa: N807
        if arguments:
            if len(arguments) > len(positional):
                raise TypeError(f"{title} takes {len(positional)} positional arguments, not {len(arguments)}")
            for name, value in zip(positional, arguments, strict=False):
                if name in values:
                    raise TypeError(f"{title} got multiple values for argument {name!r}")
                values[name] = value
        if not values.keys() <= names:
            raise TypeError(f"{title} got unexpected arguments {sorted(values.keys() - names)}")
        values = {**defaults, **values}
        for name, factory in factories:
            if name not in values:
                values[name] = factory()
        for name, put in setters:
            if name in values:
                put(self, values[name])
            elif name not in without:
                raise TypeError(f"{title} is missing the argument {name!r}")
        if after:
            self.__post_init__()

    return __init__


def _values(record: Any, names: list[str]) -> tuple[Any, ...]:
    return tuple([getattr(record, name) for name in names])


def _shower(names: list[str]) -> Callable[[Any], str]:
    def __repr__(self: Any) -> str:  # noqa: N807
        shown = ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
        return f"{type(self).__qualname__}({shown})"

    return __repr__


def _comparer(names: list[str]) -> Callable[[Any, object], bool]:
    def __eq__(self: Any, other: object) -> bool:  # noqa: N807
        if other.__class__ is not self.__class__:
            return NotImplemented
        return self is other or _values(self, names) == _values(other, names)

    return __eq__


def _hasher(names: list[str]) -> Callable[[Any], int]:
    def __hash__(self: Any) -> int:  # noqa: N807
        return hash(_values(self, names))

    return __hash__


def _refuse_setting(_record: Any, name: str, _value: Any) -> None:
    from dataclasses import FrozenInstanceError

    raise FrozenInstanceError(f"cannot assign to field {name!r}")


def _refuse_deleting(_record: Any, name: str) -> None:
    from dataclasses import FrozenInstanceError

    raise FrozenInstanceError(f"cannot delete field {name!r}")


def _get_state(self: Any) -> list[Any]:
    return [getattr(self, name) for name in self.__dataclass_fields__]


def _set_state(self: Any, state: list[Any]) -> None:
    for name, value in zip(self.__dataclass_fields__, state, strict=True):
        object.__setattr__(self, name, value)


_FROZEN = {
    "__setattr__": _refuse_setting,
    "__delattr__": _refuse_deleting,
    "__getstate__": _get_state,
    "__setstate__": _set_state,
}

if not TYPE_CHECKING:
    asdict, dataclass, field, fields, replace = _asdict, _dataclass, _Field, _fields, _replace
