"""Make sandbox.toml(5), with every key of the language, from the entries of the reference."""

from __future__ import annotations

from sandbox.manual.markdown import add_markdown
from sandbox.manual.roff import Page, bold, escaped, inline
from sandbox.reference.entries import Entry, entries, tables
from sandbox.reference.prose import ALTERNATIVES, COMPOSITION, LANGUAGE, VALUES


def language_page(*, version: str) -> str:
    """Return the page about environment files."""
    page = Page("sandbox.toml", 5, version=f"sandbox {version}", title="File Formats")
    page.section("NAME")
    page.paragraph(r"sandbox.toml \- environment file of sandbox(1)")
    for heading, prose in (("DESCRIPTION", LANGUAGE), ("VALUES", VALUES), ("COMPOSITION", COMPOSITION)):
        page.section(heading)
        add_markdown(page, prose)
    for header, owner, inside in tables(entries()):
        page.section(header or "AT THE TOP OF THE FILE")
        if owner is not None:
            page.paragraph(inline(_meaning(owner)))
        elif header in ALTERNATIVES:
            page.paragraph(inline(ALTERNATIVES[header]))
        for entry in inside:
            page.tagged(
                bold(entry.key), inline(_meaning(entry)), *([] if entry.is_table else [_facts(entry)])
            )
    page.section("SEE ALSO")
    page.paragraph(f"{bold('sandbox')}(1)")
    return page.render()


def _meaning(entry: Entry) -> str:
    return " ".join(filter(None, [entry.doc, entry.note]))


def _facts(entry: Entry) -> str:
    default = "required" if entry.required else f"default {entry.default}" if entry.default else ""
    facts = "; ".join(filter(None, [entry.value, default, "for example "]))
    return escaped(facts[:1].upper() + facts[1:]) + bold(entry.example)
