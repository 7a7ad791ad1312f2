"""KEY=VALUE as it is written on a command line: what `--set` and `sandbox set` take.

The value is read as TOML where it is TOML (`true`, `8`, `["a", "b"]`), else it is the string itself, so that the
shell's quotes are enough: `limits.memory=1G`, `process.command=make`. Where only a string would do, it is the string,
too: `process.env.PORT=8080`, `process.umask=77`.
"""

from __future__ import annotations

from sandbox.spec.lookup import codec_at
from sandbox.spec.notation import KeyPath, parse_key_path, shown, type_name


def parse_assignment(text: str) -> tuple[KeyPath, object]:
    """Return the key path and the value of "KEY=VALUE". Raises ValueError, with a message for the user."""
    key, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"{shown(text)} is not KEY=VALUE")
    path = parse_key_path(key.strip())
    if not path:
        raise ValueError(f"{shown(text)} has no key before the =")
    return path, parse_value(value, path)


def parse_value(text: str, path: KeyPath) -> object:
    """Return what *text* is as the TOML value of *path*, or *text* itself."""
    import tomllib

    try:
        document = tomllib.loads(f"value = {text}\n")
    except (tomllib.TOMLDecodeError, ValueError, RecursionError):
        return text
    if document.keys() != {"value"}:
        return text  # a line break in the text began another key
    value: object = document["value"]
    codec = codec_at(path[2:] if path[:1] == ("profile",) else path)
    takes = codec.toml_types if codec is not None else ()
    return text if "string" in takes and type_name(value) not in takes else value
