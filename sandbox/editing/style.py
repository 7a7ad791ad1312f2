"""Give a file the usual layout, for `sandbox fmt`. Nothing is moved, and the meaning of the file stays the same.

* One blank line before a table and the comment directly above it; elsewhere at most one; none at the ends of the file.
* No indentation, no blanks at the ends of lines, `key = value`, `[a.b]`; at least one blank before a comment.
* A key is bare where TOML allows it, else in double quotes. A 'string' that needs no escapes gets double quotes.
* `[1, 2]` and `{ a = 1, b = 2 }`. An array stays on one line if it is on one, fits, and has no comment; else it has one
  element to a line, indented by four blanks, each followed by a comma.
* The order of keys and tables, numbers, dates, all other strings and the text of comments stay as they are written.
* All lines, including the last one, have the line end that is most frequent in the file.

Positions come from `sandbox.spec.locate`. As a check, tomllib reads the result, and its values and comments are compared
with those of the original.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sandbox.editing.arrays import elements_of, in_lines
from sandbox.editing.document import Document
from sandbox.editing.layout import comments, top_statements
from sandbox.editing.values import same, unexpected_result
from sandbox.spec.locate import Entry, Located, Span, Statement, locate
from sandbox.spec.notation import INDENT, LONGEST_LINE, KeyPath, format_key_path

_PLAIN_LITERAL = re.compile(r"'(?!'')([^'\"\\\n]*)'")


def formatted(data: bytes, name: str) -> bytes:
    """Return the content *data* of the file *name* in the usual layout.

    Raises SpecError when it is not TOML, and EditError when the result would differ in values or comments.
    """
    document = Document(data, name)
    text = _Formatter(document.text, document.tree).text()
    import tomllib

    try:
        found: object = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        raise unexpected_result(name) from None
    if not same(found, document.tree) or comments(text) != comments(document.text):
        raise unexpected_result(name)
    windows = data.count(b"\r\n")
    return (text.replace("\n", "\r\n") if windows * 2 > data.count(b"\n") else text).encode()


class _Formatter:
    def __init__(self, text: str, tree: Mapping[str, Any]) -> None:
        self.source = text
        self.tree = tree
        self.located: Located = locate(text)
        self.lines: list[str] = []
        self._inside: dict[KeyPath, list[tuple[KeyPath, Entry]]] = {}
        for path, entry in self.located.entries.items():
            if entry.literal and (holder := self._holder(path, entry)) is not None:
                self._inside.setdefault(holder, []).append((path, entry))

    def text(self) -> str:
        table: KeyPath = ()
        position = 0
        for statement in top_statements(self.located):
            start = self.source.rfind("\n", 0, statement.key.start) + 1
            self._between(position, start)
            end = self.source.find("\n", statement.end)
            position = len(self.source) if end < 0 else end + 1
            comment = self.source[statement.end : position].rstrip()
            comment = f" {comment}" if comment.startswith("#") else comment
            if statement.header:
                table = statement.path
                self._header(statement, comment)
            else:
                key = format_key_path(statement.path[len(table) :])
                value = self._value(statement.path, len(key) + 3, indent="")
                self.lines.append(f"{key} = {value}{comment}")
        self._between(position, len(self.source))
        while self.lines and not self.lines[-1]:
            self.lines.pop()
        return "".join(f"{line}\n" for line in self.lines)

    def _between(self, start: int, end: int) -> None:
        """Copy the blank lines and comments between two statements."""
        if start == end:
            return
        for line in self.source[start:end].removesuffix("\n").split("\n"):
            stripped = line.strip(" \t")
            if stripped or (self.lines and self.lines[-1]):
                self.lines.append(stripped)

    def _header(self, statement: Statement, comment: str) -> None:
        names = tuple(part for part in statement.path if isinstance(part, str))
        array = isinstance(statement.path[-1], int)
        name = f"[[{format_key_path(names)}]]" if array else f"[{format_key_path(names)}]"
        first = len(self.lines)
        while first > 0 and self.lines[first - 1].startswith("#"):
            first -= 1
        # A comment that begins on the first line belongs to the file.
        if first > 0 and self.lines[first - 1]:
            self.lines.insert(first, "")
        self.lines.append(name + comment)

    def _holder(self, path: KeyPath, entry: Entry) -> KeyPath | None:
        """Return the path of the innermost array or inline table that contains the text of the value at *path*, or None."""
        for length in range(len(path) - 1, 0, -1):
            around = self.located.entries.get(path[:length])
            if around is not None and around.literal:
                inside = around.value.start < entry.value.start and entry.value.end < around.value.end
                return path[:length] if inside else None
        return None

    # --- values ---

    def _value(self, path: KeyPath, before: int, indent: str, *, breakable: bool = True) -> str:
        """Return the value at *path* in the usual layout. *before* characters precede it on a line indented by *indent*."""
        span = self.located.entries[path].value
        text = self.source[span.start : span.end]
        if text.startswith("["):
            return self._array(path, span, before, indent, breakable=breakable)
        if text.startswith("{"):
            pairs = [
                f"{key} = {self._value(inner, before, indent, breakable=False)}"
                for inner, _ in self._inside.get(path, [])
                for key in (format_key_path(inner[len(path) :]),)
            ]
            return f"{{ {', '.join(pairs)} }}" if pairs else "{}"
        plain = _PLAIN_LITERAL.fullmatch(text)
        return f'"{plain[1]}"' if plain and plain[1].isprintable() else text

    def _array(self, path: KeyPath, span: Span, before: int, indent: str, *, breakable: bool) -> str:
        inside = self._inside.get(path, [])
        elements, several_lines = elements_of(self.source, [entry.value for _, entry in inside], span)
        texts = [self._value(inner, before, indent, breakable=False) for inner, _ in inside]
        nested = any(
            "\n" in text and element.text[0] in "[{" for text, element in zip(texts, elements, strict=False)
        )
        if not several_lines and not nested:
            line = f"[{', '.join(texts)}]"
            if not breakable or before + len(line) <= LONGEST_LINE or not inside:
                return line
        deeper = indent + INDENT
        for (inner, _), element in zip(inside, elements, strict=False):
            element.text = self._value(inner, len(deeper), deeper)
        return in_lines(elements, indent)
