"""Parse the options that set a value for one run: KEY=VALUE of `--set` and `sandbox set`, `-v`, `-e`, `-w`, `-p`.

A value that is valid TOML (`true`, `8`, `["a", "b"]`) is read as TOML; any other value is a string. So the quotes of
the shell are enough: `limits.memory=1G`, `process.command=make`. For a setting that takes only strings the value is
always a string: `process.env.PORT=8080`, `process.umask=77`.
"""

from __future__ import annotations

from collections.abc import Mapping

from sandbox.spec.codecs.containers import APPEND
from sandbox.spec.lookup import codec_at
from sandbox.spec.notation import KeyPath, parse_key_path, shown, type_name
from sandbox.spec.short_forms import parse_volume

Option = tuple[str, str]
"""An option of the command line that sets a value for one run, and the argument of the option."""

SET, VOLUME, VARIABLE, DIRECTORY, PORT = "--set", "-v", "-e", "-w", "-p"
OPTIONS = (SET, VOLUME, VARIABLE, DIRECTORY, PORT)


def parse_option(option: str, text: str, environ: Mapping[str, str]) -> tuple[KeyPath, object] | None:
    """Return the key path and the value of an option; None for `-e NAME` if *environ* has no variable NAME.

    A volume or a port is appended to its list, as `{ append = [...] }` does. Raises ValueError or Invalid, with a
    message for the user.
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
        # The shell has already expanded its own references; a "${" that is left is literal.
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
    """Return the value of the TOML literal *text*; return *text* itself if it is no TOML or *path* takes only strings."""
    import tomllib

    try:
        document = tomllib.loads(f"value = {text}\n")
    except (tomllib.TOMLDecodeError, ValueError, RecursionError):
        return text
    if document.keys() != {"value"}:
        return text  # a line break in the text started another key
    value: object = document["value"]
    codec = codec_at(path[2:] if path[:1] == ("profile",) else path)
    takes = codec.toml_types if codec is not None else ()
    return text if "string" in takes and type_name(value) not in takes else value
