"""Find the list that a word such as "volume" names, parse its elements from command line words, and find elements by name.

The names are derived from the declarations of the language. A list is named by its whole key (`network.ports`) or the end
of its key (`ports`), in the plural or the singular. A list called `add` can also be named by its table: "capability" is
security.capabilities.add. A table whose keys the user chooses, such as process.env, counts as a list of its pairs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from sandbox.editing.document import Document
from sandbox.editing.placement import PROFILE, inside_profile
from sandbox.editing.values import MISSING, lookup, same, tree_with
from sandbox.errors import EditError
from sandbox.spec.assignments import parse_value
from sandbox.spec.codecs import TableOf, plural
from sandbox.spec.codecs.containers import APPEND, CHANGES
from sandbox.spec.decode import Record
from sandbox.spec.lookup import ANY_KEY, codec_at, declarations
from sandbox.spec.notation import (
    KeyPath,
    format_key,
    format_key_path,
    literal,
    nearest,
    parse_key_path,
    shown,
    shown_list,
)
from sandbox.spec.settings import Codec, Invalid, settings_of
from sandbox.spec.short_forms import parse_volume
from sandbox.spec.tables import Volume
from unionfs._stdlib.dataclasses import dataclass

_ADD = "add"
_VOLUMES = "volumes"
_VOLUME = Record(Volume)
VOLUME_TYPES = settings_of(Volume)["type"].codec.choices
_PLURAL_WITH_ES = ("s", "x", "z", "ch", "sh")
_NAMED_ELEMENT = re.compile(r"\[(?![0-9]+\])(?P<name>[^\[\]\"]+)\]")


@dataclass(frozen=True, slots=True)
class Collection:
    """A list, or a table whose keys the user chooses: its path, and its codec."""

    path: KeyPath
    codec: Codec[Any]
    #: The last word of the name under which the user referred to it.
    word: str = ""

    @property
    def key(self) -> str:
        """Return the path as text."""
        return format_key_path(self.path)

    @property
    def named(self) -> bool:
        """Tell whether its elements have names that the user chooses, instead of indexes."""
        return isinstance(self.codec, TableOf)


def collections() -> dict[str, Collection]:
    """Return all lists and tables of named elements that a file can have, by key, except those inside elements."""
    found = {}
    for key, setting in declarations():
        parts = key.split(".")
        codec = setting.codec
        is_list = "array" in codec.toml_types and codec.inside(0) is not None
        if ANY_KEY not in parts and "[]" not in key and (is_list or isinstance(codec, TableOf)):
            found[key] = Collection(tuple(parts), codec)
    return found


def find_collection(what: str) -> Collection:
    """Return the list that *what* names. Raises EditError when no list or several lists have that name."""
    try:
        path = parse_key_path(what)
    except ValueError as error:
        raise EditError(str(error), hint="write the key of a list, such as volume or root.layers") from None
    prefix, words = (path[:2], path[2:]) if path[:1] == (PROFILE,) else ((), path)
    if len(words) == 1 and words[0] in (*VOLUME_TYPES, "mount"):
        words = (_VOLUMES,)
    codec = codec_at(words)
    if codec is not None and (isinstance(codec, TableOf) or codec.inside(0) is not None):
        return Collection((*prefix, *words), codec, str(path[-1]))
    if not all(isinstance(word, str) for word in words) or not words:
        raise _unknown(what)
    known = collections()
    wanted = ".".join(map(str, words))
    plurals = (f"{wanted}es",) if wanted.endswith(_PLURAL_WITH_ES) else (plural(wanted),)
    for matches in (
        [one for name, one in _names(known) if name in plurals],
        [one for name, one in _names(known) if name.endswith("." + wanted)],
        [one for name, one in _names(known) if any(name.endswith("." + word) for word in plurals)],
    ):
        if len(matches) == 1:
            return Collection((*prefix, *matches[0].path), matches[0].codec)
        if matches:
            keys = " or ".join(one.key for one in matches)
            raise EditError(f"{shown(what)} names several lists", hint=f"write {keys}")
    raise _unknown(what)


def find_volume(what: str, words: Sequence[str]) -> list[str]:
    """Return the "KEY=VALUE" words of a volume. If *what* is a type of volume, such as `bind`, they begin with that type.

    A single word SRC:DST[:OPTIONS], as container engines write it, is converted to the equivalent words.
    """
    kind = what if what in VOLUME_TYPES else None
    if (
        len(words) == 1
        and ":" in words[0]
        and not _is_pair(_VOLUME, words[0])
        and kind in (None, "bind", "named")
    ):
        try:
            table = parse_volume(words[0])
        except Invalid as error:
            raise EditError(error.message, hint=error.hint) from None
        if kind is not None:
            table["type"] = kind
        return [f"{key}={literal(value)}" for key, value in table.items()]
    return [f"type={kind}", *words] if kind else list(words)


def _names(known: dict[str, Collection]) -> list[tuple[str, Collection]]:
    names = list(known.items())
    return names + [
        (key.removesuffix(f".{_ADD}"), one) for key, one in known.items() if key.endswith(f".{_ADD}")
    ]


def _unknown(what: str) -> EditError:
    words = sorted({name.rpartition(".")[2] for name, _ in _names(collections())} - {_ADD})
    meant = nearest(what, words)
    hint = (
        f"did you mean {meant}?" if meant else f"lists: {', '.join(words)}; or write the full key of a list"
    )
    return EditError(f"{shown(what)} is not a list of the language", hint=hint)


def add_elements(document: Document, collection: Collection, words: Sequence[str]) -> None:
    """Add the elements in *words* to *collection*. Raises EditError for an invalid element, or one that is there already.

    If an extended file, or the file around a profile, may set the list, the elements go to `{ append = [...] }`. This keeps
    that list.
    """
    if inside_profile(collection.path) == (_VOLUMES,):
        words = find_volume(collection.word, words)
    if collection.named:
        for name, value in _pairs(collection, words):
            path = (*collection.path, name)
            if document.get(path) is not MISSING:
                key = format_key_path(path)
                raise EditError(
                    f"{document.name}: {key} is set already",
                    hint=f"`sandbox set` changes it: sandbox set {document.name} {key}=...",
                )
            document.put(path, value)
        return
    path = collection.path
    present = document.get(path)
    changes = isinstance(present, dict) and not CHANGES.isdisjoint(present)
    over_another = present is MISSING and (path[0] == PROFILE or "extends" in document.tree)
    if changes or over_another:
        path = (*path, APPEND)
    for element in _elements(collection, words):
        present = document.get(path)
        if isinstance(present, list) and any(same(element, item) for item in present):
            raise EditError(f"{document.name}: {collection.key} has this element already")
        document.append(path, element)


def _elements(collection: Collection, words: Sequence[str]) -> list[object]:
    element = collection.codec.inside(0)
    assert element is not None
    path = (*collection.path, 0)
    if "table" in element.toml_types and (
        element.toml_types == ("table",) or all(_is_pair(element, word) for word in words)
    ):
        return [_table(collection.key, element, path, words)]
    return [parse_value(word, path) for word in words]


def _pairs(collection: Collection, words: Sequence[str]) -> list[tuple[str, object]]:
    """Return the names and values in *words*, for a table whose keys the user chooses."""
    assert isinstance(collection.codec, TableOf)
    element = collection.codec.codec
    if isinstance(element, Record):
        name, *rest = words
        return [(name, _table(collection.key, element, (*collection.path, name), rest))]
    pairs = []
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise EditError(
                f"{shown(word)} is not NAME=VALUE", hint=f"elements of {collection.key} are pairs"
            )
        pairs.append((name, parse_value(value, (*collection.path, name))))
    return pairs


def _table(key: str, codec: Codec[Any], path: KeyPath, words: Sequence[str]) -> dict[str, object]:
    """Return the table of "KEY=VALUE" words. A word without a key is the value of the key that identifies an element."""
    table: Any = {}
    for word in words:
        name, _, value = word.partition("=")
        identity = getattr(codec, "key", None)
        if _is_pair(codec, word):
            inside = parse_key_path(name)
            table = tree_with(table, inside, parse_value(value, (*path, *inside)))
        elif (
            identity is not None
            and identity not in table
            and not re.fullmatch(r"[a-z_]+=.*", word, re.DOTALL)
        ):
            table[identity] = parse_value(word, (*path, identity))
        else:
            raise _unknown_key(key, codec, word)
    return dict(table)


def _is_pair(codec: Codec[Any], word: str) -> bool:
    name, equals, _ = word.partition("=")
    try:
        path = parse_key_path(name)
    except ValueError:
        return False
    if not equals or not path or not all(isinstance(part, str) for part in path):
        return False
    return codec.inside(path[0]) is not None


def _unknown_key(key: str, codec: Codec[Any], word: str) -> EditError:
    name, equals, _ = word.partition("=")
    known = list(settings_of(codec.cls)) if isinstance(codec, Record) else []
    if not equals:
        return EditError(f"{shown(word)} is not KEY=VALUE", hint=f"keys of {key}: {', '.join(known)}")
    meant = nearest(name, known)
    hint = f"did you mean {meant}?" if meant else f"known keys: {', '.join(known)}"
    return EditError(f"{key} has no key {format_key(name)}", hint=hint)


def resolve_names(text: str, document: Document) -> str:
    """Return *text*, a key path, with names of elements replaced by their indexes: volumes[/src] becomes volumes[0].

    Raises EditError when no element of the list has the name.
    """
    while match := _NAMED_ELEMENT.search(text):
        name = match["name"]
        try:
            path = parse_key_path(text[: match.start()])
        except ValueError:
            return text  # inside a quoted key
        around = lookup(document.tree, path)
        codec = codec_at(inside_profile(path))
        element = codec.inside(0) if codec is not None else None
        if not isinstance(around, list) or element is None:
            raise EditError(f"{document.name}: {format_key_path(path)} has no element {shown(name)}")
        names = [[one for one in element.names(item) if isinstance(one, str)] for item in around]
        index = next((number for number, one in enumerate(names) if name in one), None)
        if index is None:
            short = [one[min(1, len(one) - 1)] for one in names if one]
            meant = nearest(name, short)
            hint = (
                f"did you mean [{meant}]?"
                if meant
                else f"the list has {shown_list(short)}"
                if short
                else "the list is empty"
            )
            raise EditError(
                f"{document.name}: {format_key_path(path)} has no element {shown(name)}", hint=hint
            )
        text = f"{text[: match.start()]}[{index}]{text[match.end() :]}"
    return text
