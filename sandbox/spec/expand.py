"""Replace references in strings: `${env:NAME}`, `${env:NAME:-default}`, `${config_dir}`, and `$${` for a literal `${`.

As in sh(1), `:-` gives the default for a variable that is unset or empty. Inserted text is not expanded again. A `$`
before any character but `{` is literal, so shell commands with $HOME and $(...) need no escapes.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping

from sandbox.spec.notation import KeyPath, nearest, shown
from sandbox.spec.origin import Problem
from sandbox.spec.patterns import pattern
from sandbox.spec.settings import Cursor, Invalid
from unionfs._stdlib.typing import Any

_REFERENCE = pattern(r"\$\$\{|\$\{(?P<body>[^{}]*)\}|\$\{")
_ENV = pattern(r"env:(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>.*))?", re.DOTALL)
_FREE_TEXT = frozenset(("command", "args", "run", "content", "description", "labels"))
"""Keys whose strings a shell or a person reads: no warning is given for $NAME there."""
_VARIABLE = pattern(r"\$(?P<name>[A-Za-z_][A-Za-z0-9_]*)")
_HOME = pattern(r"(?:(?<=:)|^)~(?=/|:|$)")
_SYNTAX = "write ${env:NAME}, ${env:NAME:-default} or ${config_dir}; $${ for a literal ${"


def expand_tree(
    tree: dict[str, Any], environ: Mapping[str, str], cursor: Cursor, *, except_for: Collection[str] = ()
) -> dict[str, Any]:
    """Return *tree* with the references in all its strings replaced; keys, and the values of *except_for*, are not changed.

    Mistakes are reported below *cursor*; a string with a mistake is returned unchanged.
    """
    return {
        key: value if key in except_for else _expand_value(value, environ, cursor.child(key))
        for key, value in tree.items()
    }


def _expand_value(value: Any, environ: Mapping[str, str], cursor: Cursor) -> Any:
    # Recursion is as deep as the document, which locate.MAX_DEPTH bounds.
    if isinstance(value, dict):
        return expand_tree(value, environ, cursor)
    if isinstance(value, list):
        return [_expand_value(item, environ, cursor.child(index)) for index, item in enumerate(value)]
    if not isinstance(value, str) or "${" not in value:
        return value
    try:
        return expand(value, environ, cursor.context.origins.directory(cursor.path))
    except Invalid as error:
        cursor.report(error.message, error.hint, fragment=error.fragment)
        return value


def expand(text: str, environ: Mapping[str, str], config_dir: str) -> str:
    """Return *text* with its references replaced. Raises Invalid, with the wrong reference as fragment."""

    def replacement(match: re.Match[str]) -> str:
        reference, body = match[0], match["body"]
        if reference == "$${":
            return "${"
        if body is None:
            raise Invalid('"${" is not closed, or contains another reference', _SYNTAX, fragment="${")
        if body == "config_dir":
            return config_dir
        variable = _ENV.fullmatch(body)
        if variable is None:
            raise Invalid(f"unknown reference {shown(reference)}", _meant(body), fragment=reference)
        name, default = variable["name"], variable["default"]
        value = environ.get(name)
        if default is not None:
            return value or default
        if value is None:
            raise Invalid(
                f"the environment variable {name} is not set",
                f"set it, or give a default: ${{env:{name}:-default}}",
                fragment=reference,
            )
        return value

    return _REFERENCE.sub(replacement, text)


def variables(tree: object, path: KeyPath = ()) -> Iterator[tuple[str, KeyPath]]:
    """Yield every environment variable that a string of *tree* refers to, with the key path of the string."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from variables(value, (*path, key))
    elif isinstance(tree, list):
        for index, item in enumerate(tree):
            yield from variables(item, (*path, index))
    elif isinstance(tree, str) and "${" in tree:
        for match in _REFERENCE.finditer(tree):
            if match["body"] is not None and (variable := _ENV.fullmatch(match["body"])):
                yield variable["name"], path


def unexpanded(tree: object, path: KeyPath = ()) -> Iterator[Problem]:
    """Yield a warning for each string of *tree* with `$NAME` or `~`, which a shell would replace but this program does not."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            if key not in _FREE_TEXT:
                yield from unexpanded(value, (*path, key))
    elif isinstance(tree, list):
        for index, item in enumerate(tree):
            yield from unexpanded(item, (*path, index))
    elif isinstance(tree, str):
        variable = _VARIABLE.search(tree) if "$" in tree else None
        # `~` is checked only below `env`: paths of the host may start with it.
        home = _HOME.search(tree) if "~" in tree and "env" in path else None
        if variable is not None:
            hint = f"write ${{env:{variable['name']}}} to insert the variable of your environment"
            yield _warning(path, variable[0], hint)
        elif home is not None:
            yield _warning(
                path,
                "~",
                "write ${env:HOME} for your home directory on this machine, or the path in the sandbox",
            )


def _warning(path: KeyPath, fragment: str, hint: str) -> Problem:
    message = f"{fragment} is not expanded: no shell reads this value"
    return Problem(path=path, message=message, hint=hint, fragment=fragment, warning=True)


def _meant(body: str) -> str:
    """Return the hint for an unknown reference; *body* is the text between its braces."""
    if nearest(body, ("config_dir",)):
        return "did you mean ${config_dir}?"
    if body.isidentifier():
        return f"write $${{{body}}} for a literal ${{{body}}}, or ${{env:{body}}} for a variable of your environment"
    return _SYNTAX
