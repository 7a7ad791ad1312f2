"""Make configs/REFERENCE.md, with every key of the language on one page."""

from __future__ import annotations

from sandbox.reference.entries import Entry, entries, tables
from sandbox.reference.prose import ALTERNATIVES, COMPOSITION, LANGUAGE, VALUES

_INTRODUCTION = """\
# Reference of the environment file

`sandbox reference --markdown` generates this page from the declarations in `sandbox/spec/`; a test compares the two.
In a terminal: `sandbox reference`, `sandbox reference limits`, `sandbox reference limits.memory`. For an editor: `sandbox schema`."""


def markdown() -> str:
    """Return the whole reference as one document."""
    parts = [_INTRODUCTION, LANGUAGE, "## Values", VALUES, "## Composition", COMPOSITION]
    for header, owner, inside in tables(entries()):
        parts.append(f"## `{header}`" if header else "## At the top of the file")
        if owner is not None:
            parts.append(" ".join(filter(None, [owner.doc, owner.note])))
        elif header in ALTERNATIVES:
            parts.append(ALTERNATIVES[header])
        parts.append(_table(inside))
    return "\n\n".join(parts) + "\n"


def _table(inside: list[Entry]) -> str:
    rows = ["| key | value | default | meaning |", "|---|---|---|---|"]
    rows += [f"| {' | '.join(map(_cell, _row(entry)))} |" for entry in inside]
    return "\n".join(rows)


def _row(entry: Entry) -> tuple[str, str, str, str]:
    if entry.is_table:
        meaning = f"{entry.doc} See below."
    else:
        meaning = " ".join(filter(None, [entry.doc, entry.note, f"Example: `{_code(entry.example)}`"]))
    default = "required" if entry.required else f"`{entry.default}`" if entry.default else ""
    return f"`{entry.name}`", entry.value, default, meaning


def _code(text: str) -> str:
    return text.replace("`", "'")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
