"""Commented environment files to start from. Each is a file in templates/, and says in its first line what it is."""

from __future__ import annotations

import os

from sandbox.errors import EditError
from sandbox.spec.notation import nearest

_DIRECTORY = os.path.join(os.path.dirname(os.path.abspath(__file__)), "templates")
_SUFFIX = ".toml"


def templates() -> dict[str, str]:
    """Return the names of the templates with what each is, in the order of the names."""
    names = sorted(name.removesuffix(_SUFFIX) for name in os.listdir(_DIRECTORY) if name.endswith(_SUFFIX))
    return {name: template(name).decode().partition("\n")[0].lstrip("# ") for name in names}


def template(name: str) -> bytes:
    """Return the content of the template *name*. Raises EditError when there is none."""
    try:
        with open(os.path.join(_DIRECTORY, name + _SUFFIX), "rb") as file:
            return file.read()
    except (OSError, ValueError):
        known = [one.removesuffix(_SUFFIX) for one in os.listdir(_DIRECTORY) if one.endswith(_SUFFIX)]
        meant = nearest(name, known)
        hint = f"did you mean {meant}?" if meant else f"templates: {', '.join(sorted(known))}"
        raise EditError(f"there is no template {name!r}", hint=hint) from None
