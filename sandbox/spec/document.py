"""Parse bytes into a TOML document, or into diagnostics that point to the wrong character.

tomllib parses. This module rewords its messages. Where tomllib reports only the end of an unclosed string or array, the
scanner of `locate` supplies its beginning.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from sandbox.errors import SpecError
from sandbox.spec.diagnostic import Diagnostic
from sandbox.spec.locate import MAX_DEPTH, Located, Span, Statement, locate
from sandbox.spec.notation import KeyPath, format_key_path
from sandbox.spec.origin import Origins, Problem, Source
from sandbox.spec.patterns import pattern
from sandbox.spec.units import INT64_MAX
from unionfs._stdlib.typing import Any

_BYTE_ORDER_MARK = "\ufeff"
_PLACED = pattern(
    r"(?P<message>.*) \(at (?:line (?P<line>\d+), column (?P<column>\d+)|end of document)\)", re.DOTALL
)
_QUOTED_CHARACTER = pattern(r"(?:Illegal|Found invalid) character (?P<character>.+)", re.DOTALL)
_BARE_INTEGER = pattern(r"[+-]?[0-9_]+")
_LONGEST_INTEGER = 25  # digits and underscores of a 64-bit integer, with a margin

_TOO_LARGE = "the integer does not fit into 64 bits"
_NOT_A_VALUE = "not a value"
_UNCLOSED_ARRAY = 'expected "," or "]" in the array'
_TYPOGRAPHIC = tuple("“”„‟‘’‚‛«»´`")

# The start of a message of tomllib (tomllib/_parser.py, the same from 3.11 to 3.13), our message, and our hint.
_SYNTAX: tuple[tuple[str, str, str | None], ...] = (
    ("Invalid statement", "expected a key or a [table]", None),
    (
        "Invalid initial character for a key part",
        "not a key",
        'a key without quotes has only letters, digits, "_" and "-"; put other keys in quotes',
    ),
    ("Expected '=' after a key", 'expected "=" after the key', "write key = value"),
    ("Invalid value", _NOT_A_VALUE, "put text in quotes; write booleans as true or false"),
    (
        "Expected newline or end of document after a statement",
        "expected the end of the line",
        "put text and numbers with units in quotes; write one key per line",
    ),
    ("Expected ']' at the end of a table", 'expected "]" after the name of the table', None),
    ("Expected ']]' at the end of an array", 'expected "]]" after the name of the array', None),
    ("Unclosed array", _UNCLOSED_ARRAY, None),
    (
        "Unclosed inline table",
        'expected "," or "}" in the inline table',
        "write an inline table on one line",
    ),
    (
        "Unescaped '\\' in a string",
        "unknown escape in the string",
        "write \\\\ for a backslash, or use '...' quotes",
    ),
    ("Invalid hex value", "expected hexadecimal digits after \\u or \\U", None),
    ("Escaped character is not a Unicode scalar value", "the escape is not a Unicode character", None),
    ("Invalid date or datetime", "not a valid date or time", None),
)
_QUOTES = pattern(r"\"\"\"|\'\'\'|[\"\']")
_BARE_WORD = pattern(r"[^\s,\]}#=]+")
_NOT_CLOSED = "the string is not closed"


def parse_document(data: bytes, *, file: str, directory: str) -> tuple[dict[str, Any], Origins]:
    """Return the TOML tree in *data*, and the position of each of its values.

    *file* is the name of the document in messages; relative paths in it are relative to *directory*. Raises SpecError if
    *data* is not UTF-8, not TOML, nested too deeply, or holds an integer that does not fit into 64 bits.
    """
    source = Source(file=file, directory=directory, text=_decode(data, file, directory))
    if source.text.startswith(_BYTE_ORDER_MARK):
        hint = "save the file as UTF-8 without byte order mark"
        raise SpecError([source.diagnostic(Span(0, 1), "the file starts with a byte order mark", hint)])
    located = locate(source.text)
    if located.too_deep and located.stopped is not None:
        span = Span(located.stopped, located.stopped + 1)
        raise SpecError(
            [
                source.diagnostic(
                    span, f"nested more than {MAX_DEPTH} levels deep", "use fewer levels of nesting"
                )
            ]
        )
    tree = _parse(source, located)
    origins = Origins.of(source, located.entries)
    too_large = [
        Problem(path=path, message=_TOO_LARGE)
        for path, value in _scalars(tree)
        if isinstance(value, int) and not -INT64_MAX - 1 <= value <= INT64_MAX
    ]
    if too_large:
        raise SpecError(origins.diagnose_all(too_large))
    return tree, origins


def _decode(data: bytes, file: str, directory: str) -> str:
    """Return the text of *data*, with line ends normalized as tomllib does."""
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        good = data[: error.start].decode().replace("\r\n", "\n")
        rest = data[error.start :].decode(errors="replace").replace("\r\n", "\n")
        source = Source(file=file, directory=directory, text=good + rest)
        span = Span(len(good), len(good) + 1)
        message = f"the file is not UTF-8: byte 0x{data[error.start]:02x}"
        raise SpecError([source.diagnostic(span, message, "save it as UTF-8")]) from None
    return text.replace("\r\n", "\n")


def _parse(source: Source, located: Located) -> dict[str, Any]:
    import tomllib

    try:
        # tomllib replaces "\r\n" by "\n", as _decode() did. Undo that, or "\r\r\n" would become a line end here only.
        text = source.text
        return tomllib.loads(text.replace("\n", "\r\n") if "\r" in text else text)
    except tomllib.TOMLDecodeError as error:
        raise SpecError([_syntax_error(str(error), source, located)]) from None
    except ValueError:
        # int() refuses thousands of digits, see sys.set_int_max_str_digits().
        raise SpecError([_long_integer(source, located)]) from None
    except RecursionError:
        raise SpecError(
            [source.diagnostic(None, "nested too deeply", "use fewer levels of nesting")]
        ) from None


def _long_integer(source: Source, located: Located) -> Diagnostic:
    for path, entry in located.entries.items():
        span = entry.value
        if span.end - span.start > _LONGEST_INTEGER and _BARE_INTEGER.fullmatch(
            source.text, span.start, span.end
        ):
            return source.diagnostic(span, _TOO_LARGE, key=format_key_path(path))
    return source.diagnostic(None, "a number is too long")


def _syntax_error(text: str, source: Source, located: Located) -> Diagnostic:
    match = _PLACED.fullmatch(text)
    message = match["message"] if match else text
    at_end = match is None or match["line"] is None
    offset = (
        len(source.text)
        if match is None or at_end
        else source.offset(int(match["line"]), int(match["column"]))
    )
    if message.startswith(("Cannot ", "Duplicate ")):
        repeated = _repeated_definition(offset, source, located)
        if repeated is not None:
            return repeated
    message, hint, unclosed = _reworded(message)
    if message == _UNCLOSED_ARRAY:
        hint = _beginning(offset, located, source)
    elif message == _NOT_A_VALUE and source.text[offset : offset + 1] in _TYPOGRAPHIC:
        hint = "write straight quotes, \" or '"
    word = _BARE_WORD.match(source.text, offset)
    span = Span(offset, word.end() if word and message == _NOT_A_VALUE else offset + 1)
    if unclosed and located.stopped is not None:
        # tomllib reports where the string should have ended; the beginning is more useful.
        quotes = _QUOTES.match(source.text, located.stopped)
        hint = hint or (f"close it with {quotes[0]}" if quotes else None)
        line_end = source.text.find("\n", located.stopped)
        span = Span(located.stopped, len(source.text) if line_end < 0 else line_end)
    elif at_end:
        end = len(source.text.rstrip())
        span = Span(end, end + 1)
    return source.diagnostic(span, message, hint)


def _beginning(offset: int, located: Located, source: Source) -> str | None:
    """Return a hint with the line where the array that is not closed at *offset* begins; None if it is on the same line."""
    if located.inside is None or located.inside > offset:
        return None
    line = source.position(located.inside)[0]
    at = source.position(min(offset, len(source.text.rstrip())))[0]
    return f"the array begins on line {line}" if line != at else None


def _reworded(message: str) -> tuple[str, str | None, bool]:
    """Return message and hint for a *message* of tomllib, and whether it is about an unclosed string."""
    for prefix, ours, hint in _SYNTAX:
        if message.startswith(prefix):
            return ours, hint, False
    character = _QUOTED_CHARACTER.fullmatch(message)
    if character and character["character"] == "'\\n'":
        return f"{_NOT_CLOSED} on its line", "close it, or use three quotes for a text of several lines", True
    if character:
        return (
            "control characters are not allowed here",
            'write an escape such as \\t or \\u001B in a "..." string',
            False,
        )
    if message == "Unterminated string" or re.fullmatch(r"""Expected (["']).*\1""", message):
        return _NOT_CLOSED, None, True
    return message[:1].lower() + message[1:], None, False


def _repeated_definition(offset: int, source: Source, located: Located) -> Diagnostic | None:
    """Return the diagnostic for a key or table that the statement at *offset* defines a second time; else None."""
    statement = next((item for item in located.statements if _is_at(item, offset)), None)
    if statement is None:
        return None
    # [a] after [[a]] is located as the last element of the array, but the array is the earlier definition.
    path = statement.path[:-1] if isinstance(statement.path[-1], int) else statement.path
    for length in range(len(path), 0, -1):
        first = located.entries.get(path[:length])
        if first is not None and first.key.start < statement.key.start:
            line = source.position(first.key.start)[0]
            message = f"already defined on line {line}"
            name = format_key_path(path[:length])
            hint = "remove one of the two definitions, or merge them"
            tables = statement.header and length == len(path) and not first.literal
            if tables and (path != statement.path or _share_keys(statement, located)):
                hint = f"for a list of tables, write each as [[{name}]], with two brackets"
            return source.diagnostic(statement.key, message, hint, key=name)
    return None


def _share_keys(header: Statement, located: Located) -> bool:
    """Return whether *header*, a repeated table, and its earlier occurrence define a common key, so they cannot be merged."""
    keys: set[KeyPath] = set()
    below = False
    for statement in located.statements:
        if statement.header:
            below = statement.path == header.path
        elif below:
            if statement.key.start > header.key.start and statement.path in keys:
                return True
            keys.add(statement.path)
    return False


def _is_at(statement: Statement, offset: int) -> bool:
    """Return whether *offset* is a position where tomllib reports an error about *statement*."""
    return statement.end == offset or (statement.header and statement.key.end <= offset <= statement.end)


def _scalars(tree: dict[str, Any]) -> Iterator[tuple[KeyPath, object]]:
    """Yield every value of *tree* that is neither table nor array, with its path."""
    pending: list[tuple[KeyPath, object]] = [((), tree)]
    while pending:
        path, value = pending.pop()
        if isinstance(value, dict):
            pending.extend(((*path, key), item) for key, item in value.items())
        elif isinstance(value, list):
            pending.extend(((*path, index), item) for index, item in enumerate(value))
        else:
            yield path, value
