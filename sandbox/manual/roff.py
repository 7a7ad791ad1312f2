"""Write manual pages with the macros of groff_man(7) and the escapes of groff_char(7)."""

from __future__ import annotations

import re

from sandbox.manual.paragraphs import is_laid_out, paragraphs

_ESCAPES = {
    "\\": r"\e",
    "-": r"\-",  # roff prints a plain "-" as a hyphen, which shells do not accept in options
    "'": r"\(aq",
    "`": r"\(ga",
    "^": r"\(ha",
    "~": r"\(ti",
    '"': r"\(dq",
}


def escaped(text: str) -> str:
    """Return *text* escaped, so that roff prints it unchanged anywhere except in the first column of a line."""
    return "".join(
        _ESCAPES.get(character, character if character.isascii() else f"\\[u{ord(character):04X}]")
        for character in text
    )


def bold(text: str) -> str:
    """Return *text*, which the user types literally, in bold."""
    return rf"\fB{escaped(text)}\fR" if text else ""


def italic(text: str) -> str:
    """Return *text*, which is a placeholder, in italics."""
    return rf"\fI{escaped(text)}\fR" if text else ""


def inline(text: str) -> str:
    """Return *text* as running text in roff. Text in `backticks` becomes bold."""
    pieces = re.split(r"`([^`]+)`", " ".join(text.split()))
    return "".join(bold(piece) if index % 2 else escaped(piece) for index, piece in enumerate(pieces))


def usage(text: str) -> str:
    """Return a line of usage in roff: words in capitals are placeholders, in italics; the others are literal, in bold."""
    return "".join(
        italic(piece)
        if piece.isupper()
        else bold(piece)
        if piece[0].isalnum() or piece[0] == "-"
        else escaped(piece)
        for piece in re.findall(r"[A-Z]+(?=[^a-z]|$)|-*[\w.-]+|\W", text)
    )


class Page:
    """A manual page that is being written: its lines of roff. `render` returns the page."""

    def __init__(self, name: str, section: int, *, version: str, title: str) -> None:
        """Begin the page NAME(SECTION) of the manual *title*."""
        # No date, so that the page of a version is reproducible.
        head = " ".join(f'"{escaped(part)}"' for part in (name.upper(), str(section), "", version, title))
        # Keys and options are long words, so lines are neither justified with spaces nor hyphenated.
        self._lines = [".ds AD l", f".TH {head}", ".nh"]

    def section(self, title: str) -> None:
        """Begin a section."""
        self._lines.append(f'.SH "{escaped(title)}"')

    def subsection(self, title: str) -> None:
        """Begin a subsection."""
        self._lines.append(f'.SS "{escaped(title)}"')

    def tagged(self, tag: str, *paragraphs: str) -> None:
        """Add *paragraphs* that describe *tag*; all of them are roff."""
        self._lines += [".TP", _line(tag)]
        for index, paragraph in enumerate(paragraphs):
            self._lines += [*([".IP"] if index else []), _line(paragraph)]

    def paragraph(self, roff: str) -> None:
        """Add a paragraph of roff."""
        self._lines += [".PP", _line(roff)]

    def verbatim(self, text: str) -> None:
        """Add *text* with its lines and spaces unchanged."""
        self._lines += [".PP", ".EX", *map(_line, map(escaped, text.splitlines())), ".EE"]

    def text(self, text: str) -> None:
        """Add *text*, a description as in the help output. Preformatted paragraphs stay preformatted."""
        for part in paragraphs(text):
            if is_laid_out(part):
                self.verbatim(part)
            else:
                self.paragraph(inline(part))

    def render(self) -> str:
        """Return the page."""
        return "\n".join(self._lines) + "\n"


def _line(roff: str) -> str:
    """Return *roff* as a text line: `\\&` before a dot or quote in the first column prevents a roff request."""
    return rf"\&{roff}" if roff.startswith((".", "'")) else roff
