"""No module, class or attribute has a name that was replaced by a standard term."""

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
        "unopened threads requests callers forgetting spinning negotiation positions channel launched"
    ).split()
)
OLD_CLASSES = frozenset(
    (
        "Ground Shelf SetAside Walls Settled FilterTold CommandFailed KeptVolume Difference Named Pinned Listed Tree Node "
        "DirNode FileNode Namespace StackDir Catalogue NotYet Ahead Spare Spares Later _Coming Threads Spinning "
        "Forgetting Negotiation Positions UnopenedFiles FileRequests Requests Trick Building"
    ).split()
)
#: Modules for which such a name is the standard term.
RIGHT = frozenset(
    (
        "sandbox/spec/values/accounts.py",  # accounts of the program
        "sandbox/spec/requests.py",  # what a file requests of this machine
    )
)
#: Names of attributes, methods and arguments in unionfs that are gone.
OLD_ATTRIBUTES = frozenset(
    "bare is_bare foreign unmarked node positions _kids on_gone on_touched have_asked_again".split()
)


@pytest.mark.parametrize("path", UNIONFS + SANDBOX)
def test_no_module_or_class_has_an_old_name(path: str) -> None:
    parts = {os.path.splitext(part)[0] for part in path.split(os.sep)}
    assert path in RIGHT or not parts & OLD_MODULES
    classes = {node.name for node in ast.walk(parse(path)) if isinstance(node, ast.ClassDef)}
    if path == "sandbox/state/node.py":
        classes -= {"Node"}  # a machine that shares a state directory with others
    assert not classes & OLD_CLASSES


@pytest.mark.parametrize("path", UNIONFS)
def test_no_attribute_or_argument_of_unionfs_has_an_old_name(path: str) -> None:
    names = set()
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Attribute):
            names.add(node.attr)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.arg):
            names.add(node.arg)
    assert not names & OLD_ATTRIBUTES
