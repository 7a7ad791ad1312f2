"""Parse values that container engines write as one word into tables of the language: "SRC:DST:ro" is a volume."""

from __future__ import annotations

from sandbox.spec.notation import shown
from sandbox.spec.settings import Invalid

_FORM = "write SRC:DST or SRC:DST:ro; SRC is a path (./src) or the name of a named volume, DST a path in the sandbox"
_FLAGS = ("noexec", "nosuid", "nodev")
_PROPAGATION = {"slave": "slave", "rslave": "slave", "private": "private", "rprivate": "private"}


def parse_volume(text: str) -> dict[str, object]:
    """Return the volume that *text* describes, as a table of [[volumes]]. Raises Invalid if it describes none.

    As with podman, a source without a slash is the name of a named volume, unless it is ".", ".." or "~".
    """
    source, *rest = text.split(":")
    if not source or not rest or len(rest) > 2 or not rest[0].startswith("/"):
        raise Invalid(f"{shown(text)} is not SRC:DST[:OPTIONS]", _FORM)
    named = "/" not in source and source not in (".", "..", "~")
    table: dict[str, object] = {
        "type": "named" if named else "bind",
        "source": source,
        "target": rest[0],
    }
    flags = []
    for option in rest[1].split(",") if len(rest) > 1 else ():
        if option in _PROPAGATION and not named:
            table["propagation"] = _PROPAGATION[option]
        elif option in _FLAGS:
            flags.append(option)
        elif option == "ro":
            table["read_only"] = True
        elif option != "rw":
            raise Invalid(
                f"unknown option {shown(option)} of a volume",
                f"known options: ro, rw, {', '.join((*_FLAGS, *_PROPAGATION))}",
                fragment=option or None,
            )
    return table | ({"options": flags} if flags else {})
