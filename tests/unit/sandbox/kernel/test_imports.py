"""An import rule for kernel modules, because init runs them in the sandbox's root."""

from __future__ import annotations

import ast
import glob
import os

import pytest

import sandbox.kernel

DIRECTORY = os.path.dirname(sandbox.kernel.__file__)
#: Of the supervisor alone, which stays outside; what it imports is slow and seldom needed.
OF_SUPERVISOR = {f"{DIRECTORY}/service_manager.py"}
MODULES = sorted({*glob.glob(f"{DIRECTORY}/**/*.py", recursive=True)} - OF_SUPERVISOR)


@pytest.mark.parametrize("path", MODULES, ids=[os.path.relpath(path, DIRECTORY) for path in MODULES])
def test_nothing_is_imported_inside_a_function(path):
    """After pivot_root an import would find its module in the sandbox's files: a hostile image could run code in init."""
    with open(path) as file:
        tree = ast.parse(file.read())
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    late = [
        node.lineno
        for function in functions
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    assert late == []
