"""Return the templates: commented environment files in templates/. The first line of each is its description."""

from __future__ import annotations

import os

from sandbox.errors import EditError
from sandbox.spec.notation import nearest

_DIRECTORY = os.path.join(os.path.dirname(os.path.abspath(__file__)), "templates")
_SUFFIX = ".toml"


def templates() -> dict[str, str]:
    """Return the names of the templates with their descriptions, in the order of the names."""
    names = sorted(name.removesuffix(_SUFFIX) for name in os.listdir(_DIRECTORY) if name.endswith(_SUFFIX))
    return {name: template(name).decode().partition("\n")[0].lstrip("# ") for name in names}


def template(name: str) -> bytes:
    """Return the content of the template *name*. Raises EditError when no template has that name."""
    try:
        with open(os.path.join(_DIRECTORY, name + _SUFFIX), "rb") as file:
            return file.read()
    except (OSError, ValueError):
        known = [one.removesuffix(_SUFFIX) for one in os.listdir(_DIRECTORY) if one.endswith(_SUFFIX)]
        meant = nearest(name, known)
        hint = f"did you mean {meant}?" if meant else f"templates: {', '.join(sorted(known))}"
        raise EditError(f"there is no template {name!r}", hint=hint) from None
