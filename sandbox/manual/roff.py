"""How a manual page is written: groff_man(7), escapes of groff_char(7)."""

from __future__ import annotations

import re

from sandbox.manual.paragraphs import is_laid_out, paragraphs

_ESCAPES = {
    "\\": r"\e",
    "-": r"\-",  # a plain one is a hyphen, which no shell takes for the minus of an option
    "'": r"\(aq",
    "`": r"\(ga",
    "^": r"\(ha",
    "~": r"\(ti",
    '"': r"\(dq",
}


def escaped(text: str) -> str:
    """Return *text* such that roff prints it as it is, wherever it stands in a line but for its first column."""
    return "".join(
        _ESCAPES.get(character, character if character.isascii() else f"\\[u{ord(character):04X}]")
        for character in text
    )


def bold(text: str) -> str:
    """Return *text*, which is to be typed as it is, in bold."""
    return rf"\fB{escaped(text)}\fR" if text else ""


def italic(text: str) -> str:
    """Return *text*, which stands for something else, in italics."""
    return rf"\fI{escaped(text)}\fR" if text else ""


def inline(text: str) -> str:
    """Return running text; what it has in `backticks` is bold."""
    pieces = re.split(r"`([^`]+)`", " ".join(text.split()))
    return "".join(bold(piece) if index % 2 else escaped(piece) for index, piece in enumerate(pieces))


def usage(text: str) -> str:
    """Return a line of usage: words in capitals stand for something else, the others are typed as they are."""
    return "".join(
        italic(piece)
        if piece.isupper()
        else bold(piece)
        if piece[0].isalnum() or piece[0] == "-"
        else escaped(piece)
        for piece in re.findall(r"[A-Z]+(?=[^a-z]|$)|-*[\w.-]+|\W", text)
    )


class Page:
    """A manual page that is being written."""

    def __init__(self, name: str, section: int, *, version: str, title: str) -> None:
        """Begin the page NAME(SECTION) of the manual *title*."""
        # No date: the same version gives the same page.
        head = " ".join(f'"{escaped(part)}"' for part in (name.upper(), str(section), "", version, title))
        # Keys and options are long words: lines are not filled with spaces to make up for them.
        self._lines = [".ds AD l", f".TH {head}", ".nh"]

    def section(self, title: str) -> None:
        """Begin a section."""
        self._lines.append(f'.SH "{escaped(title)}"')

    def subsection(self, title: str) -> None:
        """Begin a subsection."""
        self._lines.append(f'.SS "{escaped(title)}"')

    def tagged(self, tag: str, *paragraphs: str) -> None:
        """Add *paragraphs* that say what *tag* is; all of them are roff."""
        self._lines += [".TP", _line(tag)]
        for index, paragraph in enumerate(paragraphs):
            self._lines += [*([".IP"] if index else []), _line(paragraph)]

    def paragraph(self, roff: str) -> None:
        """Add a paragraph of roff."""
        self._lines += [".PP", _line(roff)]

    def verbatim(self, text: str) -> None:
        """Add *text* with its lines and spaces as they are."""
        self._lines += [".PP", ".EX", *map(_line, map(escaped, text.splitlines())), ".EE"]

    def text(self, text: str) -> None:
        """Add *text* as help has it: a paragraph that is laid out stays so."""
        for part in paragraphs(text):
            if is_laid_out(part):
                self.verbatim(part)
            else:
                self.paragraph(inline(part))

    def render(self) -> str:
        """Return the page."""
        return "\n".join(self._lines) + "\n"


def _line(roff: str) -> str:
    """Return a line of text, which a dot or a quote in the first column would make a request."""
    return rf"\&{roff}" if roff.startswith((".", "'")) else roff
