"""No module, class, function, argument or attribute has a name that was replaced by a standard term."""

from __future__ import annotations

import ast
import os

import pytest

from tests.architecture.test_imports import SANDBOX, UNIONFS, parse

#: Former names of modules of both packages. `operations` is not among them, because sandbox/plan/operations.py has it.
OLD_MODULES = frozenset(
    (
        "ground keeping documents joining execute execution payload ops sources userns denials accounts identity "
        "trials judge records typed digests complaints refs nodes tree inodes namespace core stack catalogue ahead spare later "
        "unopened threads requests callers forgetting spinning negotiation positions channel launched kept reach guard plain here"
    ).split()
)
OLD_CLASSES = frozenset(
    (
        "Ground Shelf SetAside Walls Settled FilterTold CommandFailed KeptVolume Difference Named Pinned Listed Tree Node "
        "DirNode FileNode Namespace StackDir Catalogue NotYet Ahead Spare Spares Later _Coming Threads Spinning "
        "Forgetting Negotiation Positions UnopenedFiles FileRequests Requests Trick Building Agreement Complaints Kept KeptLayer "
        "FileSystemFigures"
    ).split()
)
#: Modules for which such a name is the standard term.
RIGHT = frozenset(
    (
        "sandbox/spec/values/accounts.py",  # accounts of the program
        "sandbox/spec/requests.py",  # what a file requests of this machine
    )
)
#: Former names of functions, arguments and attributes.
OLD_NAMES = frozenset(
    (
        "hold_way _led_points _hurry_at _abort_at _give_up_at agree agreed complaints tells_denials kept_layers kept_things "
        "check_kept made_whole on_gone on_touched have_asked_again _kids"
    ).split()
)
#: Former names in unionfs. In sandbox, they are standard terms.
OLD_NAMES_OF_UNIONFS = frozenset("bare is_bare foreign unmarked node positions ours".split())
#: Functions do not speak: they send, receive, request, write. `ask` is left for questions to the user.
METAPHORS = frozenset(
    "say says said tell tells told hear heard lend lends lent believe believes owe owes hold holds held".split()
)


def defined_names(path: str) -> tuple[set[str], set[str], set[str]]:
    """Return the names of classes, those of functions and arguments, and those of attributes."""
    classes, functions, attributes = set(), set(), set()
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.ClassDef):
            classes.add(node.name)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            functions.add(node.name)
        elif isinstance(node, ast.arg):
            functions.add(node.arg)
        elif isinstance(node, ast.Attribute):
            attributes.add(node.attr)
    return classes, functions, attributes


@pytest.mark.parametrize("path", UNIONFS + SANDBOX)
def test_nothing_has_an_old_name(path: str) -> None:
    parts = {os.path.splitext(part)[0] for part in path.split(os.sep)}
    assert path in RIGHT or not parts & OLD_MODULES
    classes, functions, attributes = defined_names(path)
    if path == "sandbox/state/node.py":
        classes -= {"Node"}  # a machine that shares a state directory with others
    assert not classes & OLD_CLASSES
    old = OLD_NAMES | OLD_NAMES_OF_UNIONFS if path in UNIONFS else OLD_NAMES
    assert not (functions | attributes) & old
    words = {word for name in functions for word in name.split("_")}
    assert not words & METAPHORS
