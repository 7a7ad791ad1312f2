"""A file is read, changed, checked and replaced: all of `sandbox set`, `unset` and `add`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from sandbox.editing.check import new_warnings
from sandbox.editing.document import Document
from sandbox.editing.replace import check_replaceable, read_original, replace
from sandbox.spec.diagnostic import Diagnostic


def change_file(
    name: str, change: Callable[[Document], None], environ: Mapping[str, str]
) -> list[Diagnostic]:
    """Do *change* to the file *name* and return warnings: what it newly asks for and this version does not enforce.

    A change that changes nothing writes nothing. Raises EditError when it cannot be done or the file not be written,
    SpecError when the file is not TOML or the change makes it wrong; the file is as it was then.
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
