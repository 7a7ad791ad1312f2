"""No module or class has a name that was replaced by a standard term."""

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
        "Forgetting Negotiation Positions UnopenedFiles FileRequests Requests"
    ).split()
)
#: Modules for which such a name is the standard term.
RIGHT = frozenset(
    (
        "sandbox/spec/values/accounts.py",  # accounts of the program
        "sandbox/spec/requests.py",  # what a file requests of this machine
    )
)


@pytest.mark.parametrize("path", UNIONFS + SANDBOX)
def test_no_module_or_class_has_an_old_name(path: str) -> None:
    parts = {os.path.splitext(part)[0] for part in path.split(os.sep)}
    assert path in RIGHT or not parts & OLD_MODULES
    classes = {node.name for node in ast.walk(parse(path)) if isinstance(node, ast.ClassDef)}
    if path == "sandbox/state/node.py":
        classes -= {"Node"}  # a machine that shares a state directory with others
    assert not classes & OLD_CLASSES
