"""Declare and interpret the arguments that several verbs share."""

from __future__ import annotations

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

    from sandbox.spec.load import Unenforced
    from sandbox.spec.model import Spec
    from sandbox.spec.notation import KeyPath


def add_common(parser: argparse.ArgumentParser, run: Callable[[argparse.Namespace], int]) -> None:
    """Add the arguments of every verb, and set *run*, the function that executes the verb."""
    parser.add_argument(
        "--debug", action="store_true", help="print each operation, and tracebacks of failures"
    )
    parser.set_defaults(run=run)


def split_command(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return *words* before the first "--", and those after it, which belong to the program and are not interpreted."""
    if "--" not in words:
        return list(words), []
    end = words.index("--")
    return list(words[:end]), list(words[end + 1 :])


DEFAULT_FILE = "sandbox.toml"
"""The file that is used if none is named. `spec.load` defines it as well, but is imported later."""


def add_file(parser: argparse.ArgumentParser, *, optional: bool = False) -> None:
    """Add the environment file; with *optional*, DEFAULT_FILE of the current directory is used if none is named."""
    text = "the environment file (TOML); - for standard input"
    if optional:
        text = f"{text}; default: {DEFAULT_FILE} in this directory"
        parser.add_argument("file", metavar="FILE", nargs="?", default=DEFAULT_FILE, help=text)
    else:
        parser.add_argument("file", metavar="FILE", help=text)


SHORT_FORMS = {
    "-v": (
        "short_volumes",
        "VOLUME",
        "add a volume for this run, SRC:DST or SRC:DST:ro; SRC is a path, relative to the current directory, or the name of a named volume",
    ),
    "-e": (
        "short_env",
        "VARIABLE",
        "set a variable for this run, NAME=VALUE, or NAME to pass on the caller's variable, if set",
    ),
    "-w": ("short_cwd", "DIR", "set process.cwd for this run"),
    "-p": ("short_ports", "PORT", "add to network.ports for this run, such as 8080:80"),
}
"""Short forms of --set, applied after it."""


def overrides(arguments: argparse.Namespace) -> list[tuple[str, str]]:
    """Return the options of *arguments* that set values, each with its value, in the order of application."""
    short = [
        (option, text) for option, (dest, *_) in SHORT_FORMS.items() for text in getattr(arguments, dest)
    ]
    return [*(("--set", text) for text in arguments.assignments), *short]


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """Add the options that change a file for one run: --profile, --set, and the short forms of --set."""
    parser.add_argument(
        "--profile",
        metavar="NAME",
        action="append",
        default=[],
        help="apply [profile.NAME] of the file; can be repeated, applied in order",
    )
    parser.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        dest="assignments",
        help="set a value for this run, e.g. limits.memory=1G; TOML, or else a string",
    )
    for option, (dest, metavar, text) in SHORT_FORMS.items():
        parser.add_argument(option, metavar=metavar, action="append", default=[], dest=dest, help=text)


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add --json."""
    parser.add_argument("--json", action="store_true", help="print the result, or the errors, as JSON")


def add_compression(parser: argparse.ArgumentParser) -> None:
    """Add --compression, of the layers that a verb writes."""
    from sandbox.images.oci.layer_blob import COMPRESSIONS

    parser.add_argument(
        "--compression",
        choices=COMPRESSIONS,
        default=COMPRESSIONS[0],
        help="of new layers; default: gzip, which every tool can read; from zstd:chunked, podman fetches only the files that it lacks",
    )


def add_locked(parser: argparse.ArgumentParser) -> None:
    """Add --locked."""
    parser.add_argument(
        "--locked",
        action="store_true",
        help="use the images of FILE.lock.toml, which `sandbox lock` writes, and refuse sources with other digests",
    )


def load_spec(arguments: argparse.Namespace, *, unenforced: Unenforced = "refuse") -> Spec:
    """Load the file that *arguments* name, with their overrides. Raise SpecError for mistakes.

    A setting that this version does not enforce is a mistake, unless *unenforced* is "keep".
    """
    from sandbox.spec.load import load

    spec = load(
        arguments.file,
        profiles=arguments.profile,
        assignments=overrides(arguments),
        unenforced=unenforced,
    )
    if spec.suspicious:
        from sandbox.cli.output import print_warnings

        print_warnings(spec.warnings)
    return spec


def read_key(text: str) -> KeyPath:
    """Parse the key path *text*. Raise EditError if it is malformed or empty."""
    from sandbox.errors import EditError
    from sandbox.spec.notation import parse_key_path

    try:
        path = parse_key_path(text)
    except ValueError as error:
        raise EditError(str(error), hint="write a key such as limits.memory or volumes[0].target") from None
    if not path:
        raise EditError("the key is empty", hint="write a key such as limits.memory")
    return path


def check_name(name: str, of: str) -> None:
    """Check *name*, the new name of a sandbox or of a snapshot; *of* says which.

    Raises:
        SandboxError: it does not have the form of sandbox.name, or could be taken for a file.
    """
    import re

    from sandbox.errors import SandboxError, printable
    from sandbox.spec.values.namespaces import SANDBOX_NAME, SANDBOX_NAME_RULE

    if not re.fullmatch(SANDBOX_NAME, name) or name.endswith(".toml"):
        hint = "a name does not end in .toml, as files do" if name.endswith(".toml") else SANDBOX_NAME_RULE
        raise SandboxError(f"{printable(name)} is not a name of a {of}", hint=hint)
