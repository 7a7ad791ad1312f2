"""KEY=VALUE as it is written on a command line: what `--set` and `sandbox set` take.

The value is read as TOML where it is TOML (`true`, `8`, `["a", "b"]`), else it is the string itself, so that the
shell's quotes are enough: `limits.memory=1G`, `process.command=make`.
"""

from __future__ import annotations

from sandbox.spec.notation import KeyPath, parse_key_path, shown


def parse_assignment(text: str) -> tuple[KeyPath, object]:
    """Return the key path and the value of "KEY=VALUE". Raises ValueError, with a message for the user."""
    key, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"{shown(text)} is not KEY=VALUE")
    path = parse_key_path(key.strip())
    if not path:
        raise ValueError(f"{shown(text)} has no key before the =")
    return path, parse_value(value)


def parse_value(text: str) -> object:
    """Return what *text* is as a TOML value, or *text* itself."""
    import tomllib

    try:
        document = tomllib.loads(f"value = {text}\n")
    except (tomllib.TOMLDecodeError, ValueError, RecursionError):
        return text
    return document["value"] if document.keys() == {"value"} else text
