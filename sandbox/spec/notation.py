"""Format and parse keys and values for messages and files: key paths, strings, TOML literals, names of TOML types.

Messages quote text of the user, so every function here makes control characters visible instead of sending them to a
terminal. The functions are pure and do not know files or positions.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from itertools import islice

from sandbox.spec.patterns import pattern

KeyPath = tuple[str | int, ...]
"""The path of a value: table keys as strings, array positions as integers, e.g. ("root", "layers", 1)."""

LONGEST_LINE = 100
"""Characters. An array that would make its line longer is written on several lines."""

INDENT = "    "
"""The indentation of each element of an array that is written on several lines."""

_BARE_KEY = pattern(r"[A-Za-z0-9_-]+")
_PATH_PART = pattern(
    r"""\[(?P<index>[0-9]+)\]
      | (?:^|\.)(?:(?P<bare>[A-Za-z0-9_-]+)|(?P<quoted>"(?:[^"\\]|\\.)*"))""",
    re.VERBOSE,
)
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r", "\b": "\\b", "\f": "\\f"}
_MESSAGE_LIMIT = 60


def format_key_path(path: KeyPath) -> str:
    """Return *path* as text: `root.layers[1]`, `process.env."odd key"`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += ("." if text else "") + format_key(part)
    return text


def format_key(key: str) -> str:
    """Return *key* bare where TOML allows it, else quoted."""
    return key if _BARE_KEY.fullmatch(key) else quote(key)


def parse_key_path(text: str) -> KeyPath:
    """Return the path that `format_key_path` writes as *text*.

    Raises ValueError when *text* is not such a path.
    """
    parts: list[str | int] = []
    position = 0
    while position < len(text):
        match = _PATH_PART.match(text, position)
        if match is None or text.startswith("."):
            raise ValueError(f"{quote(text)} is not a key path")
        if match["index"] is not None:
            parts.append(int(match["index"]))
        elif match["bare"] is not None:
            parts.append(match["bare"])
        else:
            parts.append(unquote(match["quoted"]))
        position = match.end()
    return tuple(parts)


def quote(text: str, *, limit: int = 0) -> str:
    """Return *text* as a TOML basic string; with *limit*, cut after that many characters."""
    shown = text if not limit or len(text) <= limit else text[:limit] + "…"
    return '"' + "".join(_ESCAPES.get(char) or visible(char) for char in shown) + '"'


def visible(char: str) -> str:
    """Return *char*, or its TOML escape if it is not printable."""
    if char.isprintable():
        return char
    number = ord(char)
    return f"\\u{number:04X}" if number < 0x10000 else f"\\U{number:08X}"


def is_unicode(text: str) -> bool:
    """Return whether *text* has no lone surrogates, which represent bytes that are not UTF-8 (os.fsdecode)."""
    return text.isascii() or not any("\ud800" <= char <= "\udfff" for char in text)


def shown(text: str) -> str:
    """Return *text* quoted and shortened, for a message."""
    return quote(text, limit=_MESSAGE_LIMIT)


def joined(values: Iterable[str]) -> str:
    """Return "a, b or c"; *values* must not be empty."""
    *first, last = values
    return f"{', '.join(first)} or {last}" if first else last


def shown_list(values: Iterable[str]) -> str:
    """Return *values* quoted and separated by commas, for lists of allowed values."""
    return ", ".join(quote(value) for value in values)


def unquote(literal: str) -> str:
    """Return the value of a quoted TOML key or single-line string.

    Raises ValueError when *literal* is not one.
    """
    if "\\" not in literal:
        return literal[1:-1]
    import tomllib

    value = tomllib.loads(f"k={literal}")["k"]
    return str(value)


def literal(value: object, *, string: Callable[[str], str] = quote) -> str:
    """Return *value*, made of types that tomllib returns, as TOML: on one line, if *string* returns single lines."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return string(value)
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(literal(item, string=string) for item in value) + "]"
    if isinstance(value, Mapping):
        pairs = (f"{format_key(key)} = {literal(item, string=string)}" for key, item in value.items())
        return "{ " + ", ".join(pairs) + " }" if value else "{}"
    if isinstance(value, int):
        return str(value)
    import tomli_w  # formats floating-point numbers and dates

    return tomli_w.dumps({"k": value}).removeprefix("k = ").rstrip("\n")


def text_literal(text: str) -> str:
    """Return *text* as a readable TOML string: on several lines if it has several.

    Text with unprintable characters stays on one line: its lines could be mistaken for those of the surrounding file.
    """
    if "\n" not in text.rstrip("\n") or not all(char in "\n\t" or char.isprintable() for char in text):
        return quote(text)
    # Between three single quotes TOML has no escapes, and needs none.
    if "'''" not in text and not text.endswith("'"):
        return f"'''\n{text}'''"
    return '"""\n' + "\n".join(quote(line)[1:-1] for line in text.split("\n")) + '"""'


def type_name(value: object) -> str:
    """Return the TOML name of the type of *value*, as messages and the reference show it."""
    # By name: importing the date types takes time, and bool is a subclass of int but a separate TOML type.
    return _TYPE_NAMES.get(type(value).__name__, type(value).__name__)


_TYPE_NAMES = {
    "bool": "boolean",
    "int": "integer",
    "float": "float",
    "str": "string",
    "list": "array",
    "dict": "table",
    "datetime": "date-time",
    "date": "date",
    "time": "time",
}


_GUESSES = 20
"""Number of wrong names per list for which a correction is searched."""

_CANDIDATES = 1000
"""Number of names that a wrong name is compared with, at some 20 us each."""


def guesses() -> Callable[[str, Iterable[str]], str | None]:
    """Return a variant of :func:`nearest` for one list: after 20 wrong names it returns None, because searching is slow."""
    left = iter(range(_GUESSES))
    return lambda name, candidates: None if next(left, None) is None else nearest(name, candidates)


def nearest(name: str, candidates: Iterable[str]) -> str | None:
    """Return the candidate that *name* was probably meant to be, or None if none is close.

    Only the first 1000 candidates are compared.
    """
    if len(name) > _MESSAGE_LIMIT:
        return None
    candidates = islice(candidates, _CANDIDATES)
    from difflib import get_close_matches  # slow to import, and only needed when there is a mistake

    by_folded = {candidate.replace("-", "_").casefold(): candidate for candidate in candidates}
    folded = name.replace("-", "_").casefold()
    close = get_close_matches(folded, by_folded, n=1, cutoff=0.8)
    if not close:
        # No measure of similarity maps "cmd" to "command" where "cwd" exists, or "ro" to any word.
        short = [candidate for candidate in by_folded if _is_abbreviation(folded, candidate)]
        close = short if len(short) == 1 else get_close_matches(folded, by_folded, n=1, cutoff=0.6)
    return by_folded[close[0]] if close else None


def _is_abbreviation(short: str, word: str) -> bool:
    """Return whether *short* starts like *word* and has letters of *word* in their order, at most half of them."""
    if len(short) < 2 or len(short) * 2 > len(word) or short[0] != word[0]:
        return False
    rest = iter(word)
    return all(letter in rest for letter in short)
