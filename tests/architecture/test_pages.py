"""The pages for contributors name files, functions, classes and tests that exist."""

from __future__ import annotations

import ast
import functools
import glob
import os
import re
from collections.abc import Iterator

import pytest

PROJECT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

PAGES = [
    "docs/architecture.md",
    "docs/startup.md",
    *sorted(
        os.path.relpath(page, PROJECT) for page in glob.glob(os.path.join(PROJECT, "docs", "unionfs", "*.md"))
    ),
]

#: Every page, also those for users.
EVERY_PAGE = sorted(
    os.path.relpath(page, PROJECT)
    for pattern in ("*.md", "configs/*.md", "docs/**/*.md", "unionfs/*.md", "sandbox/*.md")
    for page in glob.glob(os.path.join(PROJECT, pattern), recursive=True)
)

#: Paths of a page are relative to one of these.
ROOTS = ("", "sandbox", "unionfs")

#: The directories that the pages of unionfs abbreviate.
TESTS = {"U": "tests/unit/unionfs", "F": "tests/fsapi", "M": "tests/mount"}

PATH = r"`((?:\w+/)*\w+\.py)`"
NAME = r"`(?!\w+\.py`)[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*`"
NAMES_OF_PATH = re.compile(rf"{PATH}\s+({NAME}(?:(?:,|\s+and|,\s+and)\s+{NAME})*)")
NAME_IN_PATH = re.compile(rf"({NAME})\s+in\s+{PATH}")
MEMBER = re.compile(r"`([A-Z]\w*)\.([A-Za-z_]\w*)`")
TEST_NAME = r"`test_\w+`"
TEST_MODULE = re.compile(
    rf"(?<![\w/])([UFM])/((?:\w+/)*test_\w+)((?:\s+{TEST_NAME}(?:\s+\(`--long`\))?,?(?=\s|;|\)|\.|$))*)"
)

Function = ast.FunctionDef | ast.AsyncFunctionDef


def text_of(page: str) -> str:
    with open(os.path.join(PROJECT, page), encoding="utf-8") as file:
        return file.read()


def named_definitions(text: str) -> Iterator[tuple[str, str]]:
    """Yield (path, name) for "`path.py` `Name`, `Other`" and for "`Name` in `path.py`"."""
    for match in NAMES_OF_PATH.finditer(text):
        for name in re.findall(r"`([^`]+)`", match[2]):
            yield match[1], name
    for match in NAME_IN_PATH.finditer(text):
        yield match[2], match[1].strip("`")


def named_tests(text: str) -> Iterator[tuple[str, list[str]]]:
    """Yield each abbreviated test module, as a path, with the tests that follow it."""
    for match in TEST_MODULE.finditer(text):
        yield f"{TESTS[match[1]]}/{match[2]}.py", re.findall(r"`(test_\w+)`", match[3])


def files_of(path: str) -> list[str]:
    candidates = [os.path.join(PROJECT, root, path) for root in ROOTS]
    return [candidate for candidate in candidates if os.path.isfile(candidate)]


@functools.cache
def parse(file: str) -> ast.Module:
    with open(file, encoding="utf-8") as source:
        return ast.parse(source.read(), file)


@functools.cache
def sources() -> tuple[str, ...]:
    pattern = os.path.join(PROJECT, "{}", "**", "*.py")
    return tuple(
        sorted(
            file
            for package in ("sandbox", "unionfs")
            for file in glob.glob(pattern.format(package), recursive=True)
        )
    )


@functools.cache
def classes() -> dict[str, list[ast.ClassDef]]:
    """Return the classes of both packages by name."""
    found: dict[str, list[ast.ClassDef]] = {}
    for file in sources():
        for node in ast.walk(parse(file)):
            if isinstance(node, ast.ClassDef):
                found.setdefault(node.name, []).append(node)
    return found


def definitions(body: list[ast.stmt]) -> dict[str, ast.stmt]:
    """Return the definitions of *body* by name. Imports are no definitions: the page must name the imported module."""
    found: dict[str, ast.stmt] = {}
    for node in body:
        if isinstance(node, Function | ast.ClassDef):
            found[node.name] = node
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [name for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)]
            found.update((name.id, node) for name in names)
        elif isinstance(node, ast.If):
            found.update(definitions([*node.body, *node.orelse]))
        elif isinstance(node, ast.Try):
            handlers = [statement for handler in node.handlers for statement in handler.body]
            found.update(definitions([*node.body, *handlers, *node.orelse]))
    return found


def has_member(node: ast.ClassDef, name: str) -> bool:
    """Return whether the class, or a base of it in the tree, defines *name*."""
    if name in definitions(node.body):
        return True
    bases = [base for base in map(ast.unparse, node.bases) if base.rpartition(".")[2] != node.name]
    return any(
        has_member(found, name) for base in bases for found in classes().get(base.rpartition(".")[2], [])
    )


def is_defined(file: str, name: str) -> bool:
    """Return whether `Name` or `Class.member` is defined in *file*."""
    head, _, member = name.partition(".")
    node = definitions(parse(file).body).get(head)
    if not member:
        return node is not None
    return isinstance(node, ast.ClassDef) and has_member(node, member)


def test_names_are_found_in_each_form() -> None:
    text = (
        "1. `a/b.py` `C.d`, `e`, `f.py`\n   `g` and `H`: `i` in `j.py`; `k.py` does.\n"
        "U/l/test_m `test_n`,\n`test_o` (`--long`)."
    )
    assert list(named_definitions(text)) == [
        ("a/b.py", "C.d"),
        ("a/b.py", "e"),
        ("f.py", "g"),
        ("f.py", "H"),
        ("j.py", "i"),
    ]
    assert list(named_tests(text)) == [("tests/unit/unionfs/l/test_m.py", ["test_n", "test_o"])]


def test_inherited_members_are_found_and_imported_names_are_not() -> None:
    file = os.path.join(PROJECT, "unionfs", "fuse", "direct", "handlers.py")
    assert is_defined(file, "Handlers._entry")
    assert not is_defined(file, "Handlers.missing")
    assert not is_defined(file, "annotations")


@pytest.mark.parametrize("page", PAGES)
def test_paths_of_modules_exist(page: str) -> None:
    """A name without a folder may be that of any module, because the text around it has the folder."""
    modules = {os.path.basename(file) for file in sources()}
    paths = set(re.findall(PATH, text_of(page)))
    assert sorted(path for path in paths if not files_of(path) and ("/" in path or path not in modules)) == []


@pytest.mark.parametrize("page", PAGES)
def test_names_beside_a_path_are_defined_in_that_file(page: str) -> None:
    assert [
        f"{path} {name}"
        for path, name in named_definitions(text_of(page))
        if not any(is_defined(file, name) for file in files_of(path))
    ] == []


@pytest.mark.parametrize("page", PAGES)
def test_members_of_classes_exist(page: str) -> None:
    assert [
        f"{name}.{member}"
        for name, member in MEMBER.findall(text_of(page))
        if not any(has_member(node, member) for node in classes().get(name, []))
    ] == []


@pytest.mark.parametrize("page", PAGES)
def test_tests_exist(page: str) -> None:
    missing = []
    for path, names in named_tests(text_of(page)):
        file = os.path.join(PROJECT, path)
        if not os.path.isfile(file):
            missing.append(path)
            continue
        functions = {node.name for node in ast.walk(parse(file)) if isinstance(node, Function)}
        missing += [f"{path} {name}" for name in names if name not in functions]
    assert missing == []


def test_every_test_of_a_page_follows_its_module() -> None:
    """The tests above check only names that follow a module."""
    for page in PAGES:
        text = text_of(page)
        checked = [name for _, names in named_tests(text) for name in names]
        assert sorted(re.findall(r"`(test_\w+)`", text)) == sorted(checked), page


#: Commands that copy or list files, before a path in a directory `upper`.
RAW_COPY = re.compile(
    r"(?<![\w-])(?:cp|mv|rsync|tar|find|cat|diff|install|ls|cd|grep)(?![\w-])[^`\n]*/upper\b|--bind[^`\n]*/upper\b"
)


@pytest.mark.parametrize("page", EVERY_PAGE)
def test_no_page_reads_a_raw_writable_layer(page: str) -> None:
    """A copy of it loses data without an error: `sandbox diff`, `export` and `apply` read it."""
    assert RAW_COPY.findall(text_of(page)) == []


def test_a_page_that_copied_from_a_raw_layer_would_be_found() -> None:
    for line in (
        "cp -a $STATE/sandboxes/x/upper/. /",
        "cd ~/.local/state/sandbox/sandboxes/x/upper",
        "tar -C s/upper -c .",
    ):
        assert RAW_COPY.search(line)
