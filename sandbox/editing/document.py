"""Change an environment file: set, add and remove values, with comments, order and layout kept.

Every change is made twice: to the text, and as a plain assignment or deletion to the tree that tomllib returned. Then
tomllib reads the new text, and the result must equal the new tree (`verified_text`). So a mistake in these modules, in
`locate` or in tomlkit ends in an error, and never in a file with a different meaning.

Where things go:

* A value is replaced in its place. A table that replaces a table, and an array that replaces an array, change only where
  they differ.
* A new key goes behind the last key of its table, in the form of that table: below its header, as a dotted key, or in the
  inline table. A new table gets a header behind the others, unless the file is written with dotted keys alone.
* A new element of `[[volumes]]` goes behind the last one. The comment directly above the next header stays above it.
* The comment on a removed line is removed with it, and so are the comments between the lines of a removed table. The
  comment directly above is removed, too, unless it introduces more (`Layout.with_comment`). A table that lost its last
  key is removed if that means the same.

The commands create a `Document` and write what `encode` returns.
"""

from __future__ import annotations

from typing import Any

from sandbox.editing.insertion import insert, insert_section
from sandbox.editing.layout import is_below
from sandbox.editing.placement import inside_profile, is_list_of_tables, is_tables
from sandbox.editing.removal import delete, remove
from sandbox.editing.replacement import replace_literal
from sandbox.editing.values import MISSING, lookup, same, texts, tree_with, unexpected_result
from sandbox.editing.verified_text import VerifiedText
from sandbox.errors import EditError
from sandbox.spec.notation import KeyPath, format_key, format_key_path, is_unicode, type_name


class Document:
    """An environment file that commands change. It owns the text, and raises EditError instead of writing a wrong one."""

    def __init__(self, data: bytes, name: str) -> None:
        """Read *data* of the file *name*. Raises SpecError unless it is TOML."""
        self._source = VerifiedText(data, name)

    @property
    def name(self) -> str:
        """The name of the file for messages."""
        return self._source.name

    @property
    def text(self) -> str:
        """The text, with \\n as line ends."""
        return self._source.text

    @property
    def tree(self) -> dict[str, Any]:
        """The tree of the text."""
        return self._source.tree

    def encode(self) -> bytes:
        """Return the content for the file, with the line ends that it had."""
        return self._source.encode()

    def get(self, path: KeyPath) -> Any:
        """Return the value at *path* in the file, or MISSING."""
        return lookup(self.tree, path)

    def put(self, path: KeyPath, value: object) -> None:
        """Set *path* to *value*. Raises EditError if a part of *path* is not a table."""
        self._check_place(path, value)
        wanted = tree_with(self.tree, path, value)
        self._put(path, value)
        if not same(self.tree, wanted):
            raise unexpected_result(self.name)

    def remove(self, *paths: KeyPath) -> None:
        """Remove the values at *paths*, with the current numbers of elements. Raises EditError if one is not set."""
        for path in paths:
            if lookup(self.tree, path) is MISSING:
                raise EditError(f"{self.name}: {format_key_path(path)} is not set", hint=self._nearest(path))
        outermost = {path for path in paths if not any(path != one and is_below(path, one) for one in paths)}
        # The last elements first, so that the others keep their numbers.
        for path in sorted(outermost, key=_by_number, reverse=True):
            remove(self._source, path)

    def append(self, path: KeyPath, value: object) -> None:
        """Add *value* to the list *path*, which is created if it is missing. Raises EditError if it is not a list."""
        self._check_place(path, value)
        present = lookup(self.tree, path)
        if present is MISSING:
            inline = self._source.innermost_inline(self._source.layout(), path) is not None
            if isinstance(value, dict) and is_list_of_tables(path) and not inline:
                insert_section(self._source, path, value, array=True)
            else:
                self._put(path, [value])
        elif not isinstance(present, list):
            raise EditError(f"{self.name}: {format_key_path(path)} is {_with_article(present)}, not a list")
        elif isinstance(value, dict) and self._source.is_made_of_headers(path):
            insert_section(self._source, path, value, array=True)
        else:
            self._put(path, [*present, value])

    # --- values that are present ---

    def _put(self, path: KeyPath, value: object) -> None:
        """Set *path* to *value*, with as few changes to the text as possible."""
        old = lookup(self.tree, path)
        if old is MISSING:
            insert(self._source, path, value)
        elif same(old, value):
            return
        elif (
            isinstance(old, dict) and isinstance(value, dict) and (value or not self._source.is_literal(path))
        ):
            for key, item in value.items():
                self._put((*path, key), item)
            for key in [key for key in old if key not in value]:
                delete(self._source, (*path, key))
            if lookup(self.tree, path) is MISSING:
                insert(self._source, path, {})
        elif self._source.is_literal(path):
            if not (
                isinstance(old, list) and isinstance(value, list) and self._replace_elements(path, old, value)
            ):
                replace_literal(self._source, path, old, value)
        elif is_tables(value) and self._source.is_made_of_headers(path):
            self._put_elements(path, old, value)
        elif isinstance(path[-1], int):
            # A table of [[a]] cannot be anything but a table: the list becomes an array.
            self._put(path[:-1], lookup(tree_with(self.tree, path, value), path[:-1]))
        else:
            delete(self._source, path)
            if lookup(self.tree, path) is MISSING:
                insert(self._source, path, value)
            else:
                self._put(path, value)  # an empty table remained, because it has a meaning

    def _replace_elements(self, path: KeyPath, old: list[Any], new: list[Any]) -> bool:
        """Change elements of an array in place if only few differ, and return whether that was possible."""
        differing = [index for index, pair in enumerate(zip(old, new, strict=False)) if not same(*pair)]
        if len(old) != len(new) or len(differing) > 1:
            return False
        for index in differing:
            self._put((*path, index), new[index])
        return True

    def _put_elements(self, path: KeyPath, old: list[Any], new: list[Any]) -> None:
        for index in range(len(old) - 1, len(new) - 1, -1):
            delete(self._source, (*path, index))
        for index, item in enumerate(new):
            if index < len(old):
                self._put((*path, index), item)
            else:
                insert_section(self._source, path, item, array=True)

    def _check_place(self, path: KeyPath, value: object) -> None:
        """Raise EditError unless *value* can be put at *path*."""
        if not all(map(is_unicode, texts((list(path), value)))):
            # Python represents bytes of a command line that are not UTF-8 as surrogates.
            raise EditError(f"{self.name}: the value is not UTF-8, which TOML requires")
        around: Any = self.tree
        for depth, part in enumerate(path):
            here = f"{self.name}: {format_key_path(path[:depth])}"
            if isinstance(part, int):
                if around is MISSING:
                    raise EditError(f"{here} is not set", hint="`sandbox add` adds an element to a list")
                if not isinstance(around, list):
                    raise EditError(f"{here} is {_with_article(around)}, and has no element {part}")
                if part >= len(around):
                    elements = "1 element" if len(around) == 1 else f"{len(around)} elements"
                    raise EditError(
                        f"{here} has no element {part}: it has {elements}, counted from 0",
                        hint="`sandbox add` adds one",
                    )
            elif around is not MISSING and not isinstance(around, dict):
                hint = "write the number of an element, such as [0]" if isinstance(around, list) else None
                raise EditError(
                    f"{here} is {_with_article(around)}, and has no key {format_key(part)}", hint=hint
                )
            around = MISSING if around is MISSING else lookup(around, (part,))

    def _nearest(self, path: KeyPath) -> str | None:
        from sandbox.spec.lookup import setting_at
        from sandbox.spec.notation import nearest

        if setting_at(inside_profile(path)) is not None:
            return None  # the key is spelt correctly, so a similar one would be a wrong hint
        known = [format_key_path(one) for one in self._source.layout().located.entries]
        meant = nearest(format_key_path(path), known)
        return f"did you mean {meant}?" if meant else None


def _by_number(path: KeyPath) -> list[tuple[str, int]]:
    """Return a sort key for *path* that can compare names with numbers."""
    return [(part, 0) if isinstance(part, str) else ("", part) for part in path]


def _with_article(value: object) -> str:
    noun = type_name(value)
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"
