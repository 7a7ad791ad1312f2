"""Hook of mkdocs: add the files outside of docs/ that its pages link to, below `tree/` of the site.

A link in docs/ is written as the repository needs it (`../configs/REFERENCE.md`). mkdocs accepts targets in docs/ only. The hook
follows the links of the pages in docs/, and those of the Markdown files that it adds, and rewrites each to the place in the site.
A link to a directory leads to its README.md. A link to a file that does not exist stays as it is: `mkdocs build --strict` fails.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

_LINK = re.compile(r"(\]\()([^)\s#:]+)((?:#[^)\s]*)?\))")  # inline, with a relative target
_FENCE = re.compile(r"(^```.*?^```$)", re.DOTALL | re.MULTILINE)
_ROOM = "tree"


def slug(heading: str, separator: str) -> str:
    """Return the anchor of *heading* as GitHub writes it, so that anchors hold in both places."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", separator)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Use the anchors of GitHub."""
    config.mdx_configs["toc"] = {**config.mdx_configs.get("toc", {}), "slugify": slug}
    return config


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the files that pages link to, directly or through other added files."""
    from mkdocs.structure.files import File

    top = _top(config)
    pending = [f"docs/{file.src_uri}" for file in files.documentation_pages()]
    seen = set(pending)
    while pending:
        source = pending.pop()
        with open(os.path.join(top, source), encoding="utf-8") as file:
            text = file.read()
        for target in _targets(top, source, text):
            if target in seen or target.startswith("docs/"):
                continue
            seen.add(target)
            if target.endswith(".md"):
                pending.append(target)
            files.append(File.generated(config, f"{_ROOM}/{target}", abs_src_path=os.path.join(top, target)))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, **_: Any) -> str:
    """Rewrite the links of a page to the places of their targets in the site."""
    top = _top(config)
    uri = page.file.src_uri
    source = uri.removeprefix(f"{_ROOM}/") if uri.startswith(f"{_ROOM}/") else f"docs/{uri}"

    def rewrite(match: re.Match[str]) -> str:
        target = _resolve(top, source, match[2])
        if target is None:
            return match[0]
        there = target.removeprefix("docs/") if target.startswith("docs/") else f"{_ROOM}/{target}"
        return match[1] + posixpath.relpath(there, posixpath.dirname(uri) or ".") + match[3]

    return "".join(
        part if part.startswith("```") else _LINK.sub(rewrite, part) for part in _FENCE.split(markdown)
    )


def _targets(top: str, source: str, text: str) -> Iterator[str]:
    for part in _FENCE.split(text):
        if not part.startswith("```"):
            for match in _LINK.finditer(part):
                target = _resolve(top, source, match[2])
                if target is not None:
                    yield target


def _resolve(top: str, source: str, link: str) -> str | None:
    """Return the path in the repository that *link* of the file *source* leads to; None if it is no file of it."""
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source), link))
    if path.startswith("../"):
        return None
    if os.path.isdir(os.path.join(top, path)):
        path = posixpath.join(path, "README.md")
    return path if os.path.isfile(os.path.join(top, path)) else None


def _top(config: MkDocsConfig) -> str:
    return os.path.dirname(os.path.abspath(config.config_file_path))
