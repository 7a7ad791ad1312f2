"""Text as descriptions and epilogs of verbs have it: paragraphs between empty lines, and some of them are laid out."""

from __future__ import annotations

import re


def paragraphs(text: str) -> list[str]:
    """Return the paragraphs of *text*: what stands between empty lines, and what begins with its topic, of one word or two."""
    return re.split(r"\n\s*\n|\n(?=[a-z]+(?: [a-z]+)?: )", text.strip("\n"))


def is_laid_out(paragraph: str) -> bool:
    """Tell whether the lines of *paragraph* are to stay as they are: one begins with a space, or has two together."""
    return re.search(r"^ |\S {2,}", paragraph, re.MULTILINE) is not None
