"""Hold a TOML text and its tree, and accept only changes after which tomllib reads the expected tree."""

from __future__ import annotations

from typing import Any

from sandbox.editing.layout import Layout, normalised, read_layout, with_line_ends_of
from sandbox.editing.values import lookup, same, unexpected_result
from sandbox.errors import EditError
from sandbox.spec.document import parse_document
from sandbox.spec.locate import MAX_DEPTH
from sandbox.spec.notation import KeyPath


class VerifiedText:
    """The text of an environment file, its tree and its layout. `name` is the file's name for messages.

    `Document` creates it; `insertion`, `replacement` and `removal` change it, each through `accept`.
    """

    def __init__(self, data: bytes, name: str) -> None:
        """Read *data*. Raises SpecError unless it is TOML."""
        import os

        self.name = name
        self.tree: dict[str, Any]
        self.tree, origins = parse_document(data, file=name, directory=os.path.dirname(os.path.abspath(name)))
        self._original = data.decode()
        self.text = origins.main.text
        self._known: Layout | None = None

    def encode(self) -> bytes:
        """Return the content for the file, with the line ends that it had."""
        return with_line_ends_of(self._original, self.text).encode()

    def layout(self) -> Layout:
        """Return the layout of the text, which is read once per change."""
        if self._known is None or self._known.text is not self.text:
            self._known = read_layout(self.text)
        return self._known

    def accept(self, text: str, tree: dict[str, Any]) -> None:
        """Make *text* the text if tomllib reads *tree* from it. Raises EditError otherwise."""
        import tomllib

        try:
            found: object = tomllib.loads(text)
        except (tomllib.TOMLDecodeError, ValueError, RecursionError):
            raise unexpected_result(self.name) from None
        if not same(found, tree):
            raise unexpected_result(self.name)
        layout = read_layout(normalised(text))
        if layout.located.stopped is not None:
            raise EditError(
                f"{self.name}: the value is nested more than {MAX_DEPTH} levels deep",
                hint="use fewer levels of nesting",
            )
        self.text, self.tree, self._known = layout.text, tree, layout

    def is_made_of_headers(self, path: KeyPath) -> bool:
        """Tell whether the value at *path* is a list of `[[tables]]`."""
        value = lookup(self.tree, path)
        return isinstance(value, list) and not self.is_literal(path)

    def is_literal(self, path: KeyPath) -> bool:
        """Tell whether the value at *path* is written in one piece."""
        return self.layout().located.entries[path].literal

    def is_explicit(self, layout: Layout, path: KeyPath) -> bool:
        """Tell whether *path* is written itself, and not only defined by the keys inside it."""
        entry = layout.located.entries.get(path)
        return layout.section(path) is not None or (entry is not None and entry.literal)

    def innermost_inline(self, layout: Layout, path: KeyPath) -> KeyPath | None:
        """Return the inline table that contains *path*, None if *path* has lines of its own."""
        for length in range(len(path) - 1, 0, -1):
            entry = layout.located.entries.get(path[:length])
            if entry is not None and entry.literal and isinstance(lookup(self.tree, path[:length]), dict):
                return path[:length]
        return None
