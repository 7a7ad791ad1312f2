"""sandbox.toml(5): every key of the language, from its declaration."""

from __future__ import annotations

from typing import Any

from sandbox.manual.roff import Page, bold, escaped, inline
from sandbox.spec.codecs import ListOf, TableOf
from sandbox.spec.decode import Record
from sandbox.spec.lookup import ANY_KEY, declarations, is_enforced, path_of
from sandbox.spec.model import Spec
from sandbox.spec.notation import literal
from sandbox.spec.settings import NOT_ENFORCED, Codec, Setting, settings_of

DESCRIPTION = (
    "An environment file describes one sandbox in TOML (https://toml.io). Unknown keys are errors, and so is what a version "
    "cannot enforce. Strings expand `${env:NAME}`, `${env:NAME:-default}` and `${config_dir}`; relative paths start at the "
    f"directory of the file. Below, `[]` stands for each element of a list, and {ANY_KEY} for a name that you choose."
)


def language_page(*, version: str) -> str:
    """Return the page about environment files."""
    page = Page("sandbox.toml", 5, version=f"sandbox {version}", title="File Formats")
    page.section("NAME")
    page.paragraph(r"sandbox.toml \- environment file of sandbox(1)")
    page.section("DESCRIPTION")
    page.text(DESCRIPTION)
    for top, setting in settings_of(Spec).items():
        page.section(_heading(top, setting.codec))
        for key, declaration in declarations():
            said = [inline(_doc(key, declaration)), *_facts(key, declaration)]
            if key == top:
                for paragraph in said:
                    page.paragraph(paragraph)
            elif key.startswith((f"{top}.", f"{top}[")):
                page.tagged(bold(key), *said)
    page.section("SEE ALSO")
    page.paragraph(f"{bold('sandbox')}(1)")
    return page.render()


def _heading(key: str, codec: Codec[Any]) -> str:
    if isinstance(codec, ListOf) and isinstance(codec.codec, Record):
        return f"[[{key}]]"
    if isinstance(codec, TableOf):
        return f"[{key}.{ANY_KEY}]"
    return f"[{key}]" if isinstance(codec, Record) else key


def _doc(key: str, setting: Setting[Any]) -> str:
    return setting.doc if is_enforced(path_of(key)) else f"{setting.doc} {NOT_ENFORCED.capitalize()}."


def _facts(key: str, setting: Setting[Any]) -> list[str]:
    """Return the paragraph of what a value is; a table is what its keys are."""
    if isinstance(setting.codec, Record):
        return []
    kind = setting.codec.expects
    choices = [choice for choice in setting.codec.choices if choice not in kind]
    facts = [
        kind
        + (f", in {setting.unit}" if setting.unit and setting.unit not in kind else "")
        + (f": {', '.join(choices)}" if choices else "")
    ]
    if setting.required:
        facts.append("required")
    default = None if setting.default is None else setting.codec.encode(setting.default)
    if default not in (None, {}, []):
        facts.append(f"default {literal(default)}")
    example = f"{key.rpartition('.')[2]} = {literal(setting.example)}"
    text = "; ".join([*facts, "for example "])
    return [escaped(text[:1].upper() + text[1:]) + bold(example)]
