"""Split the descriptions and epilogs of verbs into paragraphs, and find the preformatted ones."""

from __future__ import annotations

import re


def paragraphs(text: str) -> list[str]:
    """Return the paragraphs of *text*. One begins behind an empty line, or at a line that begins with "topic: " (1 or 2 words)."""
    return re.split(r"\n\s*\n|\n(?=[a-z]+(?: [a-z]+)?: )", text.strip("\n"))


def is_laid_out(paragraph: str) -> bool:
    """Tell whether *paragraph* is preformatted: a line begins with a space, or has two spaces in a row."""
    return re.search(r"^ |\S {2,}", paragraph, re.MULTILINE) is not None
