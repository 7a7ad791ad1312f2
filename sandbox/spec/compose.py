"""Merge several texts into one tree: files that extend others, profiles, and values from the command line.

The order of application; each step changes the result of the steps before it:

    the files that `extends` names, in their order, each merged with the files that it extends itself
    the file
    the requested profiles: [profile.NAME], as merged from these files
    the assignments of the command line

Tables merge key by key. Every other value, lists too, replaces the earlier one. `key = { append = [...] }` adds elements
at the end of a list. `{ remove = [...] }` removes elements, by their value or by the setting that identifies them (the target
of a volume, the host port of a port). With both, removal comes first. While the tables of profiles are merged, such
changes are kept as they are until the profile is applied.

Each node of the trees carries its origin, so that diagnostics about the merged tree point into the original files. This
module does no input or output: the caller passes a function that reads files.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from sandbox.errors import SpecError
from sandbox.spec.assignments import SET, VARIABLE, Option, parse_option
from sandbox.spec.codecs.containers import APPEND, CHANGES, REMOVE
from sandbox.spec.decode import check_partial, is_change
from sandbox.spec.diagnostic import Diagnostic
from sandbox.spec.expand import expand
from sandbox.spec.locate import Entry, Span
from sandbox.spec.lookup import codec_at
from sandbox.spec.model import Spec
from sandbox.spec.notation import KeyPath, format_key_path, literal, nearest, quote, shown, type_name
from sandbox.spec.origin import MAX_DIAGNOSTICS, Origin, Origins, Source
from sandbox.spec.settings import Codec, Context, Cursor, Invalid, Problems
from unionfs._stdlib.dataclasses import dataclass, field
from unionfs._stdlib.typing import Any, cast

MAX_FILES = 64
"""How many files one specification may consist of; a file that is read twice counts twice."""

MAX_ENTRIES = 1 << 16
"""How many keys and values one specification may have; a file that is read twice counts twice. Checking so many takes seconds."""

_TOO_MANY = "move data into a separate file, and use that file as a volume, a layer or process.env_file"

_LISTED = 100
"""Number of list elements up to which a hint lists or compares them."""

Read = Callable[[str], "Document"]
"""Reads and parses a file; raises SpecError."""


@dataclass(frozen=True, slots=True)
class Document:
    """One parsed text: the tree from tomllib, and the position of every value in it. `identity` distinguishes files."""

    tree: Mapping[str, Any]
    origins: Origins
    identity: object = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Composition:
    """The result: one tree, the origin of each of its values, and the files that were merged, the main one last."""

    tree: dict[str, Any]
    origins: Origins
    files: tuple[str, ...]


@dataclass(slots=True)
class _Node:
    """A value and its origin. The values of tables and lists are nodes, too."""

    value: Any
    origin: Origin | None


@dataclass(slots=True)
class _Composer:
    environ: Mapping[str, str]
    home: str | None
    read: Read
    files: list[str] = field(default_factory=list)
    entries: int = 0
    found: list[Diagnostic] = field(default_factory=list)

    @property
    def is_full(self) -> bool:
        """Whether the limit of reported mistakes is reached."""
        return len(self.found) >= MAX_DIAGNOSTICS

    def report(
        self, origin: Origin | None, path: KeyPath, message: str, hint: str | None, *, key: bool = False
    ) -> None:
        """Add a diagnostic at *origin*, unless the limit is reached."""
        if self.is_full:
            return
        assert origin is not None  # only the root of a tree has no origin, and no mistake is reported there
        span = origin.entry.key if key else origin.entry.value
        self.found.append(origin.source.diagnostic(span, message, hint, key=format_key_path(path)))


def compose(
    main: Document,
    *,
    read: Read,
    environ: Mapping[str, str],
    profiles: Sequence[str] = (),
    assignments: Sequence[Option] = (),
    directory: str = "/",
) -> Composition:
    """Return *main* merged with all files that it extends, with *profiles* and *assignments* applied.

    *environ* gives the values of references in `extends`; relative paths in assignments are relative to *directory*.
    Raises SpecError with all mistakes that prevent merging.
    """
    composer = _Composer(environ, environ.get("HOME"), read)
    whole = _extended(main, composer, ())
    _apply_profiles(whole, profiles, main.origins.main, composer)
    for option, text in assignments:
        _assign(whole, option, text, directory, composer)
    _apply_remaining_changes(whole, (), composer)
    if composer.found:
        # A file that several files extend is merged several times; report its mistakes once.
        found = list(dict.fromkeys(composer.found))
        found.sort(key=Diagnostic.sort_key)
        raise SpecError(found)
    by_path: dict[KeyPath, Origin] = {}
    tree = _flatten(whole, (), by_path)
    return Composition(
        tree=cast("dict[str, Any]", tree),
        origins=Origins(main.origins.main, by_path),
        files=tuple(dict.fromkeys(composer.files)),
    )


# --- extends ---


def _extended(document: Document, composer: _Composer, chain: tuple[Document, ...]) -> _Node:
    """Return the tree of *document* merged over the files that it extends. *chain* leads from the main file to it."""
    composer.entries += len(document.origins.by_path)
    if composer.entries > MAX_ENTRIES:
        message = f"more than {MAX_ENTRIES} keys and values, including those of extended files"
        raise SpecError([(*chain, document)[0].origins.main.diagnostic(None, message, _TOO_MANY)])
    node = _annotate(document)
    whole = _Node({}, None)
    if "extends" in node.value:
        if chain:
            _check_extends(document, composer)
        for reference, path in _references(node.value["extends"]):
            if composer.is_full:
                break
            base = _open_base(reference, path, composer, (*chain, document))
            if base is not None:
                _merge(whole, _extended(base, composer, (*chain, document)), (), composer)
    composer.files.append(document.origins.main.file)
    _merge(whole, node, (), composer)
    return whole


def _check_extends(document: Document, composer: _Composer) -> None:
    """Report mistakes in `extends` of an extended file; later only `extends` of the main file is decoded."""
    problems = Problems()
    cursor = Cursor(Context(origins=document.origins, home=composer.home), problems)
    check_partial(Spec, {"extends": document.tree["extends"]}, cursor)
    composer.found += document.origins.diagnose_all(problems.found)


def _references(node: _Node) -> Iterator[tuple[_Node, KeyPath]]:
    """Yield the paths that `extends` names; values that are no strings are reported elsewhere."""
    if isinstance(node.value, str):
        yield node, ("extends",)
    elif isinstance(node.value, list):
        for index, item in enumerate(node.value):
            if isinstance(item.value, str):
                yield item, ("extends", index)


def _open_base(
    reference: _Node, path: KeyPath, composer: _Composer, chain: tuple[Document, ...]
) -> Document | None:
    assert reference.origin is not None
    source = reference.origin.source
    try:
        name = expand(reference.value, composer.environ, source.directory)
    except Invalid as error:
        composer.report(reference.origin, path, error.message, error.hint)
        return None
    if not name or "\0" in name:
        return None  # reported by the codec of `extends`
    if len(composer.files) + len(chain) >= MAX_FILES:
        composer.report(reference.origin, path, f"more than {MAX_FILES} files", "extend fewer files")
        return None
    if name.startswith("~/") and composer.home:
        name = composer.home + name[1:]
    # Keep the user's spelling: relative to the directory of the main file as it was named, absolute if that was absolute.
    file = posixpath.normpath(posixpath.join(posixpath.dirname(source.file), name))
    try:
        base = composer.read(file)
    except SpecError as error:
        alone = cast("list[Diagnostic]", error.diagnostics)
        if len(alone) == 1 and alone[0].line is None:
            # The mistake concerns the file as a whole: report it where the file is named.
            composer.report(reference.origin, path, f"{file}: {alone[0].message}", alone[0].hint)
        else:
            composer.found += alone
        return None
    for position, document in enumerate(chain):
        if document.identity == base.identity:
            circle = [one.origins.main.file for one in chain[position:]] + [file]
            composer.report(
                reference.origin,
                path,
                f"extends itself: {' -> '.join(circle)}",
                "remove one of these references",
            )
            return None
    return base


# --- merging ---


def _merge(under: _Node, over: _Node, path: KeyPath, composer: _Composer) -> None:
    """Merge the table *over* into the table *under*, in place."""
    for key, node in over.value.items():
        here = (*path, key)
        present = under.value.get(key)
        if present is None:
            under.value[key] = node
        elif isinstance(present.value, dict) and isinstance(node.value, dict):
            if _changes_list(node, here):
                under.value[key] = _combined_change(present, node)
            elif _changes_list(present, here):
                under.value[key] = node
            else:
                present.origin = node.origin
                _merge(present, node, here, composer)
        elif isinstance(present.value, list) and _changes_list(node, here):
            under.value[key] = _with_change(present, node, here, composer)
        elif isinstance(node.value, dict) and _changes_list(node, here):
            found = type_name(present.value)
            composer.report(
                node.origin,
                here,
                f"cannot append to or remove from {_with_article(found)}",
                "write the whole value",
                key=True,
            )
        else:
            under.value[key] = node


def _changes_list(node: _Node, path: KeyPath) -> bool:
    codec = _codec(path)
    return codec is not None and is_change(codec, node.value)


def _codec(path: KeyPath) -> Codec[Any] | None:
    """Return the codec at *path*; below [profile.NAME] the keys are those of the file itself."""
    return codec_at(path[2:] if path[:1] == ("profile",) else path)


def _combined_change(first: _Node, second: _Node) -> _Node:
    """Return one change equal to *first* followed by *second*, for a list that is not known yet."""
    merged = dict(first.value)
    for key in (REMOVE, APPEND):
        node = second.value.get(key)
        if node is None:
            continue
        before = merged.get(key)
        both = isinstance(before, _Node) and isinstance(before.value, list) and isinstance(node.value, list)
        merged[key] = (
            _Node([*before.value, *node.value], node.origin) if both and before is not None else node
        )
    return _Node(merged, second.origin)


def _with_change(present: _Node, change: _Node, path: KeyPath, composer: _Composer) -> _Node:
    """Return the list *present* without the elements that *change* removes, followed by those that it appends."""
    codec = _codec(path)
    assert codec is not None
    element = codec.inside(0)
    items: list[_Node] = list(present.value)
    for key in change.value.keys() - CHANGES:
        node = change.value[key]
        composer.report(
            node.origin, (*path, key), "unknown key", f"known keys: {', '.join(sorted(CHANGES))}", key=True
        )
    by_name: dict[object, list[int]] = {}
    for index, item in enumerate(items):
        for name in element.names(_plain(item)) if element else (_plain(item),):
            by_name.setdefault(_hashable(name), []).append(index)
    removed: set[int] = set()
    for unwanted, where in _parts(change, REMOVE, path, composer):
        wanted = _plain(unwanted)
        found = by_name.pop(_hashable(wanted), [])
        if removed.issuperset(found) and not composer.is_full:
            message = f"{_literal(wanted)} is not in the list"
            composer.report(unwanted.origin, where, message, _available(items, removed, wanted, element))
        removed.update(found)
    items = [item for index, item in enumerate(items) if index not in removed]
    items += [node for node, _ in _parts(change, APPEND, path, composer)]
    return _Node(items, change.origin)


def _parts(change: _Node, key: str, path: KeyPath, composer: _Composer) -> Iterator[tuple[_Node, KeyPath]]:
    node = change.value.get(key)
    if node is None:
        return
    if not isinstance(node.value, list):
        composer.report(
            node.origin, (*path, key), f"expected array, found {type_name(node.value)}", "put it in brackets"
        )
        return
    for index, item in enumerate(node.value):
        yield item, (*path, key, index)


def _hashable(name: object) -> object:
    """Return *name*, an identifying value of a list element, as a hashable key; 1, 1.0 and true stay distinct."""
    if isinstance(name, dict):
        return frozenset((key, _hashable(item)) for key, item in name.items())
    return tuple(map(_hashable, name)) if isinstance(name, list) else (type(name), name)


def _available(
    items: Sequence[_Node], removed: Collection[int], wanted: object, element: Codec[Any] | None
) -> str:
    """Return the hint for *wanted*, which is not among *items* (those at *removed* are no longer in the list)."""
    if len(items) - len(removed) > _LISTED:
        return f"the list has {len(items) - len(removed)} other elements"
    items = [item for index, item in enumerate(items) if index not in removed]
    # The first name is the whole element; the last is the value that identifies it.
    names = [(element.names(_plain(item)) if element else (_plain(item),)) for item in items]
    known = [name for one in names for name in one if isinstance(name, str)]
    meant = nearest(wanted, known) if isinstance(wanted, str) else None
    if meant is not None:
        return f"did you mean {quote(meant)}?"
    short = [name if isinstance(name := one[min(1, len(one) - 1)], str) else literal(name) for one in names]
    return f"the list has {', '.join(map(shown, short))}" if short else "the list is empty"


def _apply_remaining_changes(node: _Node, path: KeyPath, composer: _Composer) -> None:
    """Apply changes below *node* that found no list to change, to an empty list. Profiles are not touched."""
    for key, child in node.value.items():
        here = (*path, key)
        if here == ("profile",) or not isinstance(child.value, dict):
            continue
        if _changes_list(child, here):
            node.value[key] = _with_change(_Node([], child.origin), child, here, composer)
        else:
            _apply_remaining_changes(child, here, composer)


# --- profiles and assignments ---


def _apply_profiles(whole: _Node, names: Sequence[str], main: Source, composer: _Composer) -> None:
    table = whole.value.get("profile")
    known = table.value if table is not None and isinstance(table.value, dict) else {}
    for name in names:
        node = known.get(name)
        if node is None:
            meant = nearest(name, known)
            hint = (
                f"did you mean {meant}?"
                if meant
                else f"profiles: {', '.join(known)}"
                if known
                else "the file has no profiles"
            )
            composer.found.append(main.diagnostic(None, f"no profile {shown(name)}", hint))
        elif isinstance(node.value, dict):
            _merge(whole, _copy(node), (), composer)


_FORMS = {
    SET: "write --set KEY=VALUE, such as --set limits.memory=1G",
    VARIABLE: "write -e NAME=VALUE, or -e NAME to pass on the value from your environment",
}


def _assign(whole: _Node, option: str, text: str, directory: str, composer: _Composer) -> None:
    """Apply an option of the command line, such as --set KEY=VALUE; its diagnostics point into the text of the option."""
    source = Source(file=option, directory=directory, text=text)
    everything = Span(0, len(text))
    try:
        assigned = parse_option(option, text, composer.environ)
    except ValueError as error:
        composer.found.append(source.diagnostic(everything, str(error), _FORMS[option]))
        return
    except Invalid as error:
        composer.found.append(source.diagnostic(everything, error.message, error.hint))
        return
    if assigned is None:
        return
    path, value = assigned
    start = text.index("=") + 1 if option == SET else 0
    origin = Origin(
        source, Entry(Span(0, start - 1) if start else everything, Span(start, len(text)), literal=True)
    )
    node = _annotate_value(value, lambda _: origin, ())
    if path[0] in ("extends", "profile"):
        composer.report(origin, path, "cannot be set on the command line", "write it in the file", key=True)
        return
    parent = whole
    for depth, part in enumerate(path[:-1]):
        if isinstance(part, int):
            child = _element(parent, part, path[:depth], origin, composer)
        else:
            following = path[depth + 1]
            child = parent.value.setdefault(part, _Node([] if isinstance(following, int) else {}, origin))
            if not isinstance(child.value, list if isinstance(following, int) else dict):
                found = _with_article(type_name(child.value))
                composer.report(
                    origin,
                    path[: depth + 1],
                    f"has no {quote(str(following))}: it is {found}",
                    None,
                    key=True,
                )
                return
        if child is None:
            return
        parent = child
    last = path[-1]
    if isinstance(last, int):
        if _element(parent, last, path[:-1], origin, composer) is not None:
            parent.value[last] = node
    elif isinstance(parent.value, dict):
        change = _Node({last: node}, origin)
        _merge(parent, change, path[:-1], composer)


def _element(parent: _Node, index: int, path: KeyPath, origin: Origin, composer: _Composer) -> _Node | None:
    if isinstance(parent.value, list) and index < len(parent.value):
        element: _Node = parent.value[index]
        return element
    length = len(parent.value) if isinstance(parent.value, list) else 0
    composer.report(
        origin, (*path, index), f"there is no element {index}: the list has {length}", None, key=True
    )
    return None


# --- trees ---


def _annotate(document: Document) -> _Node:
    return _annotate_value(document.tree, document.origins.find, ())


def _annotate_value(value: object, find: Callable[[KeyPath], Origin | None], path: KeyPath) -> _Node:
    # Recursion is as deep as the document, which locate.MAX_DEPTH bounds.
    if isinstance(value, Mapping):
        inside: Any = {key: _annotate_value(item, find, (*path, key)) for key, item in value.items()}
    elif isinstance(value, list):
        inside = [_annotate_value(item, find, (*path, index)) for index, item in enumerate(value)]
    else:
        inside = value
    return _Node(inside, find(path))


def _copy(node: _Node) -> _Node:
    value = node.value
    if isinstance(value, dict):
        return _Node({key: _copy(item) for key, item in value.items()}, node.origin)
    return (
        _Node([_copy(item) for item in value], node.origin)
        if isinstance(value, list)
        else _Node(value, node.origin)
    )


def _flatten(node: _Node, path: KeyPath, by_path: dict[KeyPath, Origin]) -> object:
    if node.origin is not None:
        by_path[path] = node.origin
    if isinstance(node.value, dict):
        return {key: _flatten(item, (*path, key), by_path) for key, item in node.value.items()}
    if isinstance(node.value, list):
        return [_flatten(item, (*path, index), by_path) for index, item in enumerate(node.value)]
    return node.value


def _plain(node: _Node) -> object:
    return _flatten(node, (), {})


def _literal(value: object) -> str:
    text = literal(value)
    return text if len(text) <= 60 else text[:60] + "…"


def _with_article(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"
