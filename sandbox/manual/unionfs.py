"""Make unionfs(1) from the output of `unionfs --describe`, because the two programs share no command line code."""

from __future__ import annotations

from sandbox.manual.roff import Page, bold, inline, usage
from unionfs._stdlib.typing import Any


def unionfs_page(described: dict[str, Any]) -> str:
    """Return the page about the command *described*, the output of `unionfs --describe`."""
    page = Page("unionfs", 1, version=f"unionfs {described['version']}", title="User Commands")
    text = described["description"]
    page.section("NAME")
    page.paragraph(f"unionfs \\- {inline(text[:1].lower() + text[1:].rstrip('.'))}")
    page.section("SYNOPSIS")
    page.paragraph(usage(described["usage"]))
    changes = described["changes"]
    page.paragraph(usage(changes["usage"]))
    page.section("DESCRIPTION")
    page.paragraph(inline(text))
    page.section("OPTIONS")
    _arguments(page, described["arguments"])
    page.section("OPTIONS OF THE UNION AND THE MOUNT")
    for option in described["options"]:
        page.tagged(bold(option["usage"]), inline(option["help"]))
    page.section("CHANGES OF A WRITABLE LAYER")
    page.paragraph(inline(changes["description"]))
    _arguments(page, changes["arguments"])
    page.section("EXIT STATUS")
    page.paragraph(inline(described["exit_status"]))
    page.section("EXAMPLE")
    page.verbatim(described["example"])
    page.section("SEE ALSO")
    page.paragraph(f"{bold('sandbox')}(1), {bold('mount')}(8), {bold('fusermount3')}(1)")
    return page.render()


def _arguments(page: Page, arguments: list[dict[str, Any]]) -> None:
    for argument in arguments:
        value = f" {usage(argument['value'])}" if argument["value"] else ""
        page.tagged(bold(argument["names"]) + value, inline(argument["help"]))
