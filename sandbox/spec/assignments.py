"""KEY=VALUE as it is written on a command line: what `--set` and `sandbox set` take.

The value is read as TOML where it is TOML (`true`, `8`, `["a", "b"]`), else it is the string itself, so that the
shell's quotes are enough: `limits.memory=1G`, `process.command=make`. Where only a string would do, it is the string,
too: `process.env.PORT=8080`, `process.umask=77`.
"""

from __future__ import annotations

from collections.abc import Mapping

from sandbox.spec.codecs.containers import APPEND
from sandbox.spec.lookup import codec_at
from sandbox.spec.notation import KeyPath, parse_key_path, shown, type_name
from sandbox.spec.short_forms import parse_volume

Option = tuple[str, str]
"""An option of the command line that sets a value for one run, and what stands behind it."""

SET, VOLUME, VARIABLE, DIRECTORY, PORT = "--set", "-v", "-e", "-w", "-p"
OPTIONS = (SET, VOLUME, VARIABLE, DIRECTORY, PORT)


def parse_option(option: str, text: str, environ: Mapping[str, str]) -> tuple[KeyPath, object] | None:
    """Return the key path and the value of an option; None for `-e NAME` of a variable that *environ* does not have.

    A volume and a port are added to the list, as `{ append = [...] }` does. Raises ValueError or Invalid, with a message for the user.
    """
    if option == VOLUME:
        return ("volumes",), {APPEND: [parse_volume(text)]}
    if option == PORT:
        return ("network", "ports"), {APPEND: [text]}
    if option == DIRECTORY:
        return ("process", "cwd"), text
    if option == VARIABLE:
        name, equals, value = text.partition("=")
        if not name:
            raise ValueError(f"{shown(text)} is not NAME=VALUE or NAME")
        found = value if equals else environ.get(name)
        # The shell has replaced what is to be replaced.
        return None if found is None else (("process", "env", name), found.replace("${", "$${"))
    return parse_assignment(text)


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
