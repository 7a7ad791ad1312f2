"""Convert the Markdown of the reference's prose to roff: paragraphs, lists, tables of two columns, and code blocks."""

from __future__ import annotations

import re
from itertools import groupby

from sandbox.manual.roff import Page, inline

_ITEM = re.compile(r"(?:\*|(\d+\.)) ")


def add_markdown(page: Page, text: str) -> None:
    """Add *text* to *page*. The rows of a table become tagged paragraphs, and its head is left out."""
    for index, part in enumerate(re.split(r"^```\w*\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)):
        if index % 2:
            page.verbatim(part.rstrip("\n"))
            continue
        for paragraph in filter(None, re.split(r"\n\s*\n", part.strip("\n"))):
            _add_paragraph(page, paragraph)


def _add_paragraph(page: Page, paragraph: str) -> None:
    lines = paragraph.splitlines()
    if paragraph.startswith("|"):
        for line in lines[2:]:
            tag, content = line.strip("| ").split(" | ", 1)
            page.tagged(inline(tag), inline(content))
        return
    # A list may directly follow the line that introduces it. A line without a list mark continues the item before it.
    numbers: list[int] = []
    for line in lines:
        numbers.append((numbers[-1] if numbers else 0) + (1 if _ITEM.match(line) else 0))
    for _, group in groupby(zip(numbers, lines, strict=True), key=lambda pair: pair[0]):
        content = " ".join(line.strip() for _, line in group)
        item = _ITEM.match(content)
        if item:
            page.tagged(inline(item[1] or "*"), inline(content[item.end() :]))
        else:
            page.paragraph(inline(content))
