"""Make the reference for a terminal: an overview of all keys, or the details of a table or a key."""

from __future__ import annotations

import textwrap

from sandbox.errors import SandboxError
from sandbox.reference.entries import Entry, entries, tables
from sandbox.reference.prose import ALTERNATIVES, TOPICS
from sandbox.spec.notation import nearest
from sandbox.spec.settings import NOT_ENFORCED

_WIDTH = 100


def find(names: list[str]) -> list[Entry]:
    """Return the entries of the keys in *names*. The name of a table selects all keys in it; no names select all keys.

    A key may contain indexes and names that the user chooses: "volumes[0].target". The last part of a key selects all keys
    that end in it, unless it is itself a key. Raises SandboxError for an unknown key.
    """
    found = entries()
    if not names:
        return found
    chosen: list[Entry] = []
    for name in names:
        wanted = _general(name)
        matching = [entry for entry in found if wanted in (entry.key, _general(entry.key))]
        matching = matching or [entry for entry in found if entry.name == name]
        if not matching:
            raise _unknown(name, found)
        above = _general(matching[0].key)
        matching += [entry for entry in found if _general(entry.key).startswith(f"{above}.")]
        chosen += [entry for entry in matching if entry not in chosen]
    return chosen


def _general(key: str) -> str:
    """Return *key* without brackets, indexes, and names that the user chooses."""
    import re

    parts = re.sub(r"\[[^\]]*\]", "", key.strip("[]")).split(".")
    if parts[0] in ("networks", "sandboxes") and len(parts) > 2:
        del parts[1]
    if parts[0] == "profile" and len(parts) > 2:
        del parts[:2]
    return ".".join(parts)


def _unknown(name: str, found: list[Entry]) -> SandboxError:
    keys = {_general(entry.key) for entry in found} | set(TOPICS)
    last = {key.rpartition(".")[2]: key for key in keys}
    meant = nearest(name, keys) or last.get(nearest(name, last) or "")
    hint = f"did you mean {meant}?" if meant else "`sandbox reference` lists all keys"
    return SandboxError(f"{name} is not a key of the language", hint=hint)


def overview() -> str:
    """Return all keys, one line each."""
    lines = []
    for header, owner, inside in tables(entries()):
        about = owner.doc if owner else ALTERNATIVES.get(header, "").replace("`", "")
        title = f"{header or 'at the top of the file'}{f'  {about}' if about else ''}"
        lines.append(title if len(title) <= _WIDTH else f"{title[: _WIDTH - 2].rpartition(' ')[0]} …")
        width = max(len(entry.name) for entry in inside)
        for entry in inside:
            doc = entry.doc if entry.enforced else f"(not yet) {entry.doc}"
            text = textwrap.shorten(doc, _WIDTH - width - 4, placeholder=" …")
            lines.append(f"  {entry.name:{width}}  {text}")
        lines.append("")
    lines.append(f"(not yet): {NOT_ENFORCED}")
    lines.append("`sandbox reference KEY` prints the details of a key; topics: " + ", ".join(TOPICS))
    return "\n".join(lines) + "\n"


def detail(entry: Entry) -> str:
    """Return the details of one key."""
    facts = [
        ("value", entry.value),
        ("default", "required" if entry.required else entry.default or ("" if entry.is_table else "not set")),
        (
            "example",
            f"{entry.table}\n{entry.example}" if entry.table and not entry.is_table else entry.example,
        ),
    ]
    lines = [entry.key, textwrap.fill(entry.doc, _WIDTH, initial_indent="  ", subsequent_indent="  ")]
    for name, text in facts:
        if text:
            first, *rest = text.splitlines()
            lines += [f"  {name + ':':9} {first}", *(f"  {'':9} {line}" for line in rest)]
    if entry.note:
        lines.append(f"  {entry.note}")
    return "\n".join(lines) + "\n"
