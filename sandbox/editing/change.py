"""Read, change, check and replace an environment file, for `sandbox set`, `unset` and `add`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from sandbox.editing.check import new_warnings
from sandbox.editing.document import Document
from sandbox.editing.replace import check_replaceable, read_original, replace
from sandbox.spec.diagnostic import Diagnostic


def change_file(
    name: str, change: Callable[[Document], None], environ: Mapping[str, str]
) -> list[Diagnostic]:
    """Apply *change* to the file *name*, and return the warnings that the change adds (see `new_warnings`).

    If the content stays the same, nothing is written. Raises EditError when the change is impossible or the file cannot be
    written, and SpecError when the file is not TOML or the change adds a mistake. The file is unchanged then.
    """
    original = read_original(name)
    check_replaceable(original)
    document = Document(original.data, name)
    change(document)
    data = document.encode()
    if data == original.data:
        return []
    warnings = new_warnings(name, original.data, data, environ)
    replace(original, data)
    return warnings
