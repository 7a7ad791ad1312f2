"""Make sandbox(1), with every verb and its options, from the parser of the command line."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from sandbox.manual.roff import Page, bold, inline, usage


def command_page(
    parser: argparse.ArgumentParser,
    groups: Mapping[str, Mapping[str, str]],
    *,
    version: str,
    description: str,
    exit_status: str,
) -> str:
    """Return the page about the command of *parser*. *groups* has the summaries of its verbs, in order.

    Options that all verbs have, with the same help, are described once.
    """
    verbs = _verbs(parser)
    shared = _shared(list(verbs.values()))
    page = Page("sandbox", 1, version=f"sandbox {version}", title="User Commands")
    page.section("NAME")
    page.paragraph(f"sandbox \\- {inline(_clause(description))}")
    page.section("SYNOPSIS")
    page.paragraph(usage("sandbox COMMAND [OPTION ...]"))
    page.section("DESCRIPTION")
    page.text(description)
    for summaries in groups.values():
        for verb, summary in summaries.items():
            page.tagged(bold(verb), inline(summary))
    page.section("OPTIONS")
    for option in shared.values():
        page.tagged(_tag(option), inline(_help(parser, option)))
    for group, summaries in groups.items():
        page.section(f"COMMANDS TO {group.upper()}")
        for verb in summaries:
            page.subsection(f"sandbox {verb}")
            _describe(page, verb, verbs[verb], shared)
    page.section("EXIT STATUS")
    page.text(exit_status)
    page.section("SEE ALSO")
    page.paragraph(f"{bold('sandbox.toml')}(5), {bold('namespaces')}(7)")
    return page.render()


def _describe(page: Page, verb: str, parser: argparse.ArgumentParser, shared: Mapping[Key, object]) -> None:
    """Write the usage, the description and the arguments of *verb*; then those of its actions, if it has any."""
    page.paragraph(usage(_synopsis(verb, parser)))
    page.text(parser.description or "")
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, inner in action.choices.items():
                _describe(page, f"{verb} {name}", inner, shared)
        elif _is_shown(action) and _key(action) not in shared:
            page.tagged(_tag(action), inline(_help(parser, action)))
    page.text(parser.epilog or "")


def _verbs(parser: argparse.ArgumentParser) -> Mapping[str, argparse.ArgumentParser]:
    return next(
        action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction)
    )


def _clause(sentence: str) -> str:
    """Return *sentence* without its capital and period, as lines of whatis(1) are written."""
    return sentence[:1].lower() + sentence[1:].rstrip(".")


Key = tuple[tuple[str, ...], str | None]


def _key(action: argparse.Action) -> Key:
    return (tuple(action.option_strings), action.help)


def _shared(parsers: list[argparse.ArgumentParser]) -> dict[Key, argparse.Action]:
    """Return the options that all *parsers* have, with the same help."""
    options = [
        {_key(action): action for action in parser._actions if action.option_strings and _is_shown(action)}
        for parser in parsers
    ]
    return {key: action for key, action in options[0].items() if all(key in other for other in options)}


def _is_shown(action: argparse.Action) -> bool:
    return action.help != argparse.SUPPRESS


def _help(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    return parser._get_formatter()._expand_help(action) if action.help else ""


def _tag(action: argparse.Action) -> str:
    if not action.option_strings:
        return usage(_metavar(action))
    value = "" if action.nargs == 0 else f" {usage(_metavar(action))}"
    return ", ".join(bold(option) + value for option in action.option_strings)


def _metavar(action: argparse.Action) -> str:
    if isinstance(action.metavar, str):
        return action.metavar
    return "|".join(map(str, action.choices)) if action.choices else action.dest.upper()


def _synopsis(verb: str, parser: argparse.ArgumentParser) -> str:
    """Return the usage of *verb*: the one that it declares, or else one made from its positional arguments."""
    if parser.usage:
        return parser.usage
    forms = {"?": "[{0}]", "*": "[{0} ...]", "+": "{0} ..."}
    places = [
        forms.get(str(action.nargs), "{0}").format(_metavar(action))
        for action in parser._actions
        if not action.option_strings
    ]
    if any(isinstance(action, argparse._SubParsersAction) for action in parser._actions):
        places.append("[ARGUMENT ...]")
    return " ".join(["sandbox", verb, "[OPTION ...]", *places])
