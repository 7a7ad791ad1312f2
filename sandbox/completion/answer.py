"""Answer a completion request, which a shell sends in argcomplete's environment variables: _ARGCOMPLETE, COMP_LINE, COMP_POINT.

The parser of the command line supplies the options, verbs and choices. For other arguments the completer is found by the
metavar, which is also the argument's name in help texts.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Collection
from typing import NoReturn

from sandbox.completion import candidates
from sandbox.completion.candidates import Candidates

Build = Callable[[Collection[str]], argparse.ArgumentParser]
Completer = Callable[..., Candidates]


def complete(build: Build) -> NoReturn:
    """Answer the completion request in the environment, and end the process.

    *build* returns the parser of the whole command, with the arguments of the given verbs only. It receives the words of
    the line, because importing all verbs would cause a noticeable delay at each press of the key.
    """
    from argcomplete.completers import BaseCompleter
    from argcomplete.finders import CompletionFinder

    class Paths(BaseCompleter):
        def __call__(
            self,
            *,
            prefix: str,
            action: argparse.Action,  # noqa: ARG002 - argcomplete gives them by name
            parser: argparse.ArgumentParser,  # noqa: ARG002
            parsed_args: argparse.Namespace,  # noqa: ARG002
        ) -> Candidates:
            return candidates.paths(prefix)

    words = os.environ.get("COMP_LINE", "").split()
    parser = build(words)
    for verb, inner in _verbs(parser):
        _attach(inner, verb, words)
    CompletionFinder(parser)(
        parser,
        # Options are offered only after a dash, so that files and keys are not lost among them.
        always_complete_options=False,
        default_completer=Paths(),
    )
    raise AssertionError("argcomplete ends the process")


def _verbs(parser: argparse.ArgumentParser) -> list[tuple[str, argparse.ArgumentParser]]:
    return [
        (verb, inner)
        for action in parser._actions
        if isinstance(action, argparse._SubParsersAction)
        for verb, inner in action.choices.items()
    ]


def _attach(parser: argparse.ArgumentParser, verb: str, words: Collection[str]) -> None:
    """Set the completers of the arguments of *verb*, and of its actions, for argcomplete."""
    for _, inner in _verbs(parser):
        _attach(inner, verb, words)
    for action in parser._actions:
        completer = _completer(action, verb, words)
        if completer is not None and action.choices is None:
            setattr(action, "completer", completer)  # noqa: B010 - argparse declares no such attribute


def _completer(action: argparse.Action, verb: str, words: Collection[str]) -> Completer | None:
    def environment_files(prefix: str, **_: object) -> Candidates:
        return candidates.paths(prefix, suffix=".toml")

    def command(prefix: str, **_: object) -> Candidates:
        # A command follows the file.
        return candidates.paths(prefix) if any(word.endswith(".toml") for word in words) else {}

    def assignments(prefix: str, **_: object) -> Candidates:
        return candidates.assignments(prefix)

    def lists(**_: object) -> Candidates:
        return candidates.lists()

    def elements(prefix: str, parsed_args: argparse.Namespace, **_: object) -> Candidates:
        return candidates.elements(parsed_args.list, prefix)

    def keys(parsed_args: argparse.Namespace, **_: object) -> Candidates:
        if not hasattr(parsed_args, "file"):  # `reference`: keys of the language, not of a file
            return candidates.topics()
        file = _file(parsed_args, words)
        own = candidates.keys_of_file(file) if file else {}
        # Only `unset` needs a key that the file has; any other key has a default value and an entry in the reference.
        return own if verb == "unset" else {**candidates.language_keys(), **own}

    def templates(**_: object) -> Candidates:
        return candidates.templates()

    def profiles(parsed_args: argparse.Namespace, **_: object) -> Candidates:
        file = _file(parsed_args, words)
        return candidates.profiles(file) if file else {}

    def layers(**_: object) -> Candidates:
        return candidates.persistent_layers()

    def things(**_: object) -> Candidates:
        return candidates.kept_items()

    def files_and_sandboxes(prefix: str, **_: object) -> Candidates:
        return candidates.files_and_sandboxes(prefix)

    def snapshots(parsed_args: argparse.Namespace, **_: object) -> Candidates:
        if verb == "snapshot" and not action.option_strings:
            return {}  # the name of a new one
        name = getattr(parsed_args, "sandbox", None)
        return candidates.snapshots(name) if isinstance(name, str) else {}

    def nothing(**_: object) -> Candidates:
        return {}

    if action.dest == "layer":
        return layers
    if "--profile" in action.option_strings:
        return profiles
    by_metavar: dict[object, Completer] = {
        "FILE": environment_files,
        "FILE|NAME": files_and_sandboxes,
        "FILE|NAME|IMAGE": lambda prefix, **_: candidates.exported(prefix),
        "COMMAND": command,
        "KEY=VALUE": assignments,
        "KEY": keys,
        "LIST": lists,
        "ELEMENT": elements,
        "TEMPLATE": templates,
        "THING": things,
        "IMAGE": lambda prefix, **_: candidates.images(prefix),
        "NETWORK": lambda **_: candidates.networks(),
        "SNAPSHOT": snapshots,
        "NEW": nothing,
    }
    return by_metavar.get(action.metavar)


def _file(arguments: argparse.Namespace, words: Collection[str]) -> str | None:
    """Return the environment file on the line: the argument, or the first word that ends in .toml, even behind the cursor."""
    file = getattr(arguments, "file", None)
    if file not in words:  # no argument, or the default
        file = next((word for word in words if word.endswith(".toml")), file)
    return os.path.expanduser(file) if isinstance(file, str) else None
