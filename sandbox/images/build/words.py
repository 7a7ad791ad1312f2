"""Split the arguments of an instruction into flags, words and JSON arrays, each with its place in the line."""

from __future__ import annotations

import re

from sandbox.images.build.source_text import BLANKS
from unionfs._stdlib.dataclasses import dataclass

_BLANKS = re.compile(rf"[{BLANKS}]+")


class NotStringsError(ValueError):
    """A JSON array has an element that is not a string."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a line: its text, and where it starts and ends, exclusive. Quotes and escapes are part of the text."""

    text: str
    start: int
    end: int


def keyword(line: str) -> tuple[Piece, Piece]:
    """Return the first word of *line*, and the rest without the blanks around it."""
    start = len(line) - len(line.lstrip(BLANKS))
    match = _BLANKS.search(line, start)
    end = match.start() if match else len(line)
    return Piece(line[start:end], start, end), stripped(line, end, len(line))


def stripped(line: str, start: int, end: int) -> Piece:
    """Return the characters of *line* from *start* to *end* without blanks at both ends."""
    text = line[start:end]
    left = start + len(text) - len(text.lstrip(BLANKS))
    right = max(start + len(text.rstrip(BLANKS)), left)
    return Piece(line[left:right], left, right)


def flags(line: str, arguments: Piece, escape: str) -> tuple[list[Piece], Piece]:
    """Return the flags at the beginning of *arguments*, without their quotes, and what follows them.

    The word "--" ends the flags.
    """
    found: list[Piece] = []
    at, end = arguments.start, arguments.end
    while line.startswith("--", at, end):
        word_end = _end_of_word(line, at, end, escape)
        word = line[at:word_end]
        start, at = at, _next_word(line, word_end, end)
        if word == "--":
            break
        found.append(Piece(_unquoted(word, escape), start, word_end))
    return found, Piece(line[at:end], at, end)


def words(line: str, part: Piece, escape: str) -> list[Piece]:
    """Return the words of *part*. Blanks in quotes, and those behind an escape character, do not separate words."""
    found: list[Piece] = []
    at = part.start
    while at < part.end:
        word_end = _end_of_word(line, at, part.end, escape)
        found.append(Piece(line[at:word_end], at, word_end))
        at = _next_word(line, word_end, part.end)
    return found


def fields(part: Piece) -> list[Piece]:
    """Return the parts of *part* between blanks. Quotes have no meaning: so have FROM, COPY, ADD, EXPOSE and VOLUME."""
    found = []
    at = 0
    for match in _BLANKS.finditer(part.text):
        if match.start() > at:
            found.append(Piece(part.text[at : match.start()], part.start + at, part.start + match.start()))
        at = match.end()
    if at < len(part.text):
        found.append(Piece(part.text[at:], part.start + at, part.end))
    return found


def json_array(text: str) -> tuple[str, ...] | None:
    """Return the strings of the JSON array that *text* is; None if it is no JSON array.

    Raises:
        NotStringsError: it is one, but not all of its elements are strings.
    """
    if not text.startswith("["):
        return None
    import json

    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not all(isinstance(item, str) for item in found):
        raise NotStringsError
    # A lone surrogate ("\ud800") is no character and cannot be encoded; encoding/json of Go replaces it, too.
    return tuple(item.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for item in found)


def _next_word(line: str, at: int, end: int) -> int:
    """Return where the blanks at *at* end, at most *end*."""
    match = _BLANKS.match(line, at, end)
    return match.end() if match else at


def _end_of_word(line: str, start: int, end: int, escape: str) -> int:
    """Return where the word that begins at *start* ends, at most *end*. A quote that is not closed ends at *end*."""
    quote = ""
    at = start
    while at < end:
        char = line[at]
        if char == escape and quote != "'":
            at += 2
            continue
        if quote:
            quote = "" if char == quote else quote
        elif char in BLANKS:
            return at
        elif char in "'\"":
            quote = char
        at += 1
    return end


def _unquoted(word: str, escape: str) -> str:
    """Return the flag *word* without quotes and escape characters. In both kinds of quotes, the escape character escapes."""
    result = []
    quote = ""
    characters = iter(word)
    for char in characters:
        if char == escape:
            result.append(next(characters, ""))
        elif quote and char == quote:
            quote = ""
        elif not quote and char in "'\"":
            quote = char
        else:
            result.append(char)
    return "".join(result)
