"""Imports between the packages and inside them go one way, as the tables below allow.

Enter a new part of `sandbox`, or a further name of `sandbox.kernel` that the plan uses, in these tables. First check
whether the import goes in the right direction.
"""

from __future__ import annotations

import ast
import functools
import itertools
import os
import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

PROJECT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

#: Part of `sandbox` -> the parts that it may import. The main chain is errors <- spec <- plan <- runtime <- cli.
SANDBOX_ARROWS: dict[str, frozenset[str]] = {
    "__init__": frozenset(),
    "errors": frozenset(),
    "sizes": frozenset(),
    "spec": frozenset({"errors"}),
    "editing": frozenset({"errors", "spec"}),  # changes files without starting anything
    "kernel": frozenset(),  # takes plain values and raises OSError, so that it is usable without the rest
    "host": frozenset({"errors", "kernel"}),  # facts about the machine and its paths
    "seccomp": frozenset({"kernel"}),  # filters of system calls as values, and their compiler
    "plan": frozenset(
        {"errors", "host", "kernel", "seccomp", "spec"}
    ),  # makes no system call; uses values of kernel and host
    "explain": frozenset({"errors", "host", "kernel", "plan", "seccomp", "spec"}),
    "as_container_root": frozenset(
        {"errors", "kernel", "plan"}
    ),  # runs a function as id 0 of a plan's id map
    "lifecycle": frozenset(
        {"as_container_root", "errors", "images", "kernel", "plan", "sizes", "state"}
    ),  # lists and removes layers, volumes and archives
    "state": frozenset(
        {"as_container_root", "errors", "kernel", "plan", "spec"}
    ),  # the contents of the state and run directories
    "images": frozenset(
        {"as_container_root", "errors", "host", "kernel", "plan", "spec", "state"}
    ),  # archives, images, their unpacked layers, plans of builds
    "network": frozenset(
        {"errors", "kernel", "plan", "spec", "state"}
    ),  # connects private networks, and opens only what a file names
    "runtime": frozenset(
        "as_container_root errors host images kernel network plan seccomp spec state".split()
    ),
    "changes": frozenset(
        {"as_container_root", "errors", "host", "images", "kernel", "plan", "sizes", "state"}
    ),  # what a sandbox changed, read through the command `unionfs changes`
    "oci_runtime": frozenset(
        {"as_container_root", "changes", "errors", "images", "kernel", "plan", "runtime", "state"}
    ),  # bundles for runtimes of the OCI runtime specification
    "builder": frozenset(
        "as_container_root changes errors host images kernel plan runtime spec state".split()
    ),  # executes the plans of builds of images
    "reference": frozenset({"errors", "spec"}),  # documentation of the keys
    "completion": frozenset(
        {"editing", "errors", "lifecycle", "reference", "spec", "state"}
    ),  # receives the parser of the command line
    "manual": frozenset({"reference"}),  # receives the parser of the command line, too
    "doctor": frozenset({"errors", "host", "images", "kernel", "network", "plan", "spec", "state"}),
    "cli": frozenset(
        (
            "__init__ as_container_root builder changes completion doctor editing errors explain host "
            "images lifecycle manual oci_runtime plan reference runtime sizes spec state"
        ).split()
    ),
    "__main__": frozenset({"cli"}),
}

#: Modules of `unionfs` that every part of `sandbox` may import. They import nothing slow.
SEAM = (
    "unionfs._stdlib",
    "unionfs.changes.pax",
    "unionfs.launch.protocol",
    "unionfs.layer_index.archive_chunks",
    "unionfs.layer_index.archive_frames",
    "unionfs.layer_index.archive_records",
    "unionfs.layer_index.format",
    "unionfs.types",
)

#: Values and pure functions of `sandbox.kernel` that `sandbox.plan` may use. The plan makes no system call.
KERNEL_VALUES: dict[str, frozenset[str]] = {
    "sandbox.kernel.capabilities": frozenset({"DEFAULT", "effective_set"}),
    "sandbox.kernel.cgroups": frozenset({"CONTROLLER_OF", "CgroupLimits", "IoRates"}),
    "sandbox.kernel.idmaps": frozenset({"IdMap", "is_single", "lookup", "through"}),
    "sandbox.kernel.landlock": frozenset({"LINUX", "NEEDED", "SCOPED", "Rules", "lacking"}),
    "sandbox.kernel.masked_paths": frozenset({"MASKED_PATHS", "READONLY_PATHS"}),
    "sandbox.kernel.mountinfo": frozenset({"Location", "is_inside", "location", "paths_to"}),
    "sandbox.kernel.namespaces": frozenset({"Identity", "NamespaceFact", "UserNamespaceFact"}),
    "sandbox.kernel.search_permission": frozenset({"ClosedDirectory"}),
    "sandbox.kernel.rlimits": frozenset({"RESOURCES", "check"}),
}

#: Modules of `unionfs` without system calls. They may import each other and the modules of PURE_STDLIB.
PURE = frozenset(
    (
        "_stdlib.dataclasses _stdlib.typing types formats.acl formats.whiteout "
        "formats.xattrs layer.resolve layer_index.format layer_index.archive_chunks layer_index.archive_frames layer_index.archive_records inode.numbers inode.directory_offsets copyup.plan vfs.rename_plan "
        "fuse.protocol fuse.busy_poll changes.pax"
    ).split()
)

PURE_STDLIB = frozenset(
    (
        "__future__ abc array base64 bisect collections dataclasses enum errno functools hashlib heapq itertools "
        "math operator re stat string struct typing zlib"
    ).split()
)

#: Modules that take tens of milliseconds to import, and so are imported only by functions that need them.
SLOW = frozenset(
    (
        "asyncio email http importlib inspect multiprocessing pyfuse3 pyroute2 pyseccomp ssl subprocess tqdm trio "
        "unittest urllib urllib3"
    ).split()
)

#: Modules that only functions import, so that they may import slow ones.
LAZY = frozenset({"sandbox/images/registry/transport.py", "sandbox/seccomp/compiler.py"})

MAX_LINES = 500
VAGUE_NAMES = frozenset({"util", "utils", "helper", "helpers", "common", "misc"})


@dataclass(frozen=True, slots=True)
class Import:
    """One imported name: `from a.b import c` is module a.b and name c."""

    module: str
    name: str | None
    line: int
    lazy: bool  # inside a function
    typing_only: bool

    def target(self, modules: frozenset[str]) -> str:
        """Return the module that the import loads, if *modules* has it."""
        full = f"{self.module}.{self.name}"
        return full if full in modules else self.module


def source_files(*roots: str) -> list[str]:
    """Return the Python files below *roots*, relative to the project."""
    found = []
    for root in roots:
        for directory, names, files in os.walk(os.path.join(PROJECT, root)):
            names[:] = [name for name in names if name != "__pycache__"]
            found += [
                os.path.relpath(os.path.join(directory, file), PROJECT)
                for file in files
                if file.endswith(".py")
            ]
    return sorted(found)


def module_name(path: str) -> str:
    """Return the dotted name of the module in *path*; a package is its own name."""
    parts = path.removesuffix(".py").split(os.sep)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def parse(path: str) -> ast.Module:
    with open(os.path.join(PROJECT, path), encoding="utf-8") as file:
        return ast.parse(file.read(), path)


@functools.cache
def imports_of(path: str) -> tuple[Import, ...]:
    module = module_name(path)
    package = module if path.endswith("__init__.py") else module.rpartition(".")[0]
    return tuple(_imports(parse(path).body, package, lazy=False, typing_only=False))


def _imports(body: list[ast.stmt], package: str, *, lazy: bool, typing_only: bool) -> Iterator[Import]:
    for node in body:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, None, node.lineno, lazy, typing_only)
        elif isinstance(node, ast.ImportFrom):
            source = node.module or ""
            if node.level:
                base = package.split(".")[: len(package.split(".")) - node.level + 1]
                source = ".".join([*base, source] if source else base)
            for alias in node.names:
                yield Import(source, alias.name, node.lineno, lazy, typing_only)
        else:
            # Statements are inside statements, and inside handlers of try and cases of match.
            inside = lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            typing = typing_only or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
            for child in ast.iter_child_nodes(node):
                if isinstance(child, ast.stmt):
                    yield from _imports([child], package, lazy=inside, typing_only=typing)
                elif isinstance(child, ast.ExceptHandler | ast.match_case):
                    yield from _imports(child.body, package, lazy=inside, typing_only=typing)


def attributes_of(path: str, name: str | None) -> set[str | None]:
    """Return the attributes of the imported module *name* that *path* uses."""
    return {
        node.attr
        for node in ast.walk(parse(path))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == name
    }


UNIONFS = source_files("unionfs")
SANDBOX = source_files("sandbox")
MODULES = frozenset(module_name(path) for path in UNIONFS + SANDBOX)


def where(path: str, found: Import) -> str:
    return f"{path}:{found.line}: imports {found.module}{'.' + found.name if found.name else ''}"


def part_of(module: str) -> str:
    """Return the part of `sandbox` that *module* belongs to."""
    return module.split(".")[1] if "." in module else "__init__"


def test_imports_are_found_in_every_statement() -> None:
    source = """
import a
try:
    from b import c
except ImportError:
    import d
if TYPE_CHECKING:
    from . import e
def function():
    with x:
        from ..f.g import h
match x:
    case 1:
        import i.j
class K:
    import k
"""
    found = list(_imports(ast.parse(source).body, "top.inner", lazy=False, typing_only=False))
    assert [(one.module, one.name) for one in found] == [
        ("a", None),
        ("b", "c"),
        ("d", None),
        ("top.inner", "e"),
        ("top.f.g", "h"),
        ("i.j", None),
        ("k", None),
    ]
    assert [one.module for one in found if one.lazy] == ["top.f.g"]
    assert [one.module for one in found if one.typing_only] == ["top.inner"]


SHA256 = ("_sha2", "_sha256")
"""The module of CPython 3.12 and later, and that of 3.11. The import of each is tried."""


def test_unionfs_imports_only_itself_and_the_standard_library_outside_its_front_ends() -> None:
    wrong = []
    for path in UNIONFS:
        allowed = {"unionfs", *SHA256, *sys.stdlib_module_names}
        if path.startswith("unionfs/fuse/"):
            allowed |= {"pyfuse3", "trio"}
        wrong += [
            where(path, found) for found in imports_of(path) if found.module.split(".")[0] not in allowed
        ]
    assert wrong == []


def test_only_the_command_and_the_server_process_import_the_fuse_front_ends() -> None:
    wrong = [
        where(path, found)
        for path in UNIONFS
        if not path.startswith("unionfs/fuse/")
        and path not in {"unionfs/cli.py", "unionfs/launch/server_process.py"}
        for found in imports_of(path)
        if found.target(MODULES).startswith("unionfs.fuse")
    ]
    assert wrong == []


def test_sandbox_imports_only_the_seam_of_unionfs_and_unionfs_nothing_of_sandbox() -> None:
    wrong = [
        where(path, found)
        for paths, other in ((UNIONFS, "sandbox"), (SANDBOX, "unionfs"))
        for path in paths
        for found in imports_of(path)
        if found.module.split(".")[0] == other
        and not (other == "unionfs" and found.target(MODULES).startswith(SEAM))
    ]
    assert wrong == []


def test_no_module_imports_dataclasses_of_the_standard_library() -> None:
    assert [
        where(path, found)
        for path in UNIONFS + SANDBOX
        if path != "unionfs/_stdlib/dataclasses.py"
        for found in imports_of(path)
        if found.module == "dataclasses"
    ] == []


def test_no_module_of_a_start_imports_typing() -> None:
    """Names for type checkers come from `unionfs._stdlib.typing`, which has nothing at run time."""
    later = (
        "sandbox/doctor/",
        "sandbox/editing/",
        "sandbox/explain/",
        "sandbox/completion/",
        "sandbox/reference/",
    )
    assert [
        where(path, found)
        for path in UNIONFS + SANDBOX
        if not path.startswith(later) and path != "unionfs/fuse/libfuse/handlers.py"  # the pyfuse3 server
        for found in imports_of(path)
        if found.module == "typing" and not found.typing_only
    ] == []


def test_pure_modules_of_unionfs_import_nothing_that_calls_the_system() -> None:
    wrong = []
    for path in UNIONFS:
        if module_name(path).removeprefix("unionfs.") not in PURE:
            continue
        for found in imports_of(path):
            target = found.target(MODULES)
            if target.removeprefix("unionfs.") in PURE or found.module.split(".")[0] in PURE_STDLIB:
                continue
            wrong.append(where(path, found))
    assert wrong == []


@pytest.mark.parametrize("path", SANDBOX)
def test_imports_inside_sandbox_are_allowed(path: str) -> None:
    part = part_of(module_name(path))
    assert part in SANDBOX_ARROWS, f"enter {part} in SANDBOX_ARROWS"
    wrong = []
    for found in imports_of(path):
        target = found.target(MODULES)
        if target.split(".")[0] != "sandbox":
            continue
        other = part_of(target)
        if other != part and other not in SANDBOX_ARROWS[part]:
            wrong.append(where(path, found))
        elif part == "plan" and other == "kernel":
            # `from sandbox.kernel.a import B` uses B; `from sandbox.kernel import a` uses every a.B in the text.
            used = attributes_of(path, found.name) if target != found.module else {found.name}
            if unlisted := used - KERNEL_VALUES.get(target, frozenset()):
                wrong.append(f"{where(path, found)}: {sorted(map(str, unlisted))} not in KERNEL_VALUES")
    assert wrong == []


def test_every_allowed_import_is_used() -> None:
    needed: dict[str, set[str]] = {part: set() for part in SANDBOX_ARROWS}
    of_kernel: dict[str, set[str | None]] = {module: set() for module in KERNEL_VALUES}
    for path in SANDBOX:
        part = part_of(module_name(path))
        for found in imports_of(path):
            target = found.target(MODULES)
            if target.split(".")[0] == "sandbox":
                needed[part].add(part_of(target))
            if part == "plan" and target in of_kernel:
                of_kernel[target] |= (
                    attributes_of(path, found.name) if target != found.module else {found.name}
                )
    unneeded = {part: sorted(allowed - needed[part]) for part, allowed in SANDBOX_ARROWS.items()}
    assert {part: parts for part, parts in unneeded.items() if parts} == {}
    assert {module: sorted(names - of_kernel[module]) for module, names in KERNEL_VALUES.items()} == {
        module: [] for module in KERNEL_VALUES
    }


@pytest.mark.parametrize("paths", [UNIONFS, SANDBOX], ids=["unionfs", "sandbox"])
def test_no_module_imports_itself_through_others(paths: list[str]) -> None:
    arrows = {
        module_name(path): {
            found.target(MODULES)
            for found in imports_of(path)
            if not found.typing_only and found.target(MODULES) in MODULES
        }
        for path in paths
    }
    # Remove modules without remaining imports until only cycles, and the modules that import them, remain.
    while leaves := [module for module, targets in arrows.items() if not targets & arrows.keys() - {module}]:
        for module in leaves:
            del arrows[module]
    assert {module: sorted(targets & arrows.keys()) for module, targets in arrows.items()} == {}


def test_slow_modules_are_imported_by_functions_only() -> None:
    wrong = [
        where(path, found)
        for path in [*SANDBOX, *(path for path in UNIONFS if not path.startswith("unionfs/fuse/"))]
        if path not in LAZY
        for found in imports_of(path)
        if not found.lazy and not found.typing_only and found.module.split(".")[0] in SLOW
    ]
    assert wrong == []


def test_modules_that_import_slow_ones_are_imported_by_functions_only() -> None:
    lazy = {module_name(path) for path in LAZY}
    assert [
        where(path, found)
        for path in SANDBOX
        for found in imports_of(path)
        if found.target(MODULES) in lazy and not found.lazy and not found.typing_only
    ] == []


def test_ctypes_is_imported_only_by_libc_modules() -> None:
    wrong = [
        where(path, found)
        for path in [*UNIONFS, *SANDBOX, *source_files("tests")]
        if os.path.basename(path) != "_libc.py"
        for found in imports_of(path)
        if found.module.split(".")[0] in {"ctypes", "_ctypes", "cffi"}
    ]
    assert wrong == []


def test_there_is_one_libc_module_in_a_package() -> None:
    packages = [path.split(os.sep)[0] for path in UNIONFS + SANDBOX if os.path.basename(path) == "_libc.py"]
    assert len(packages) == len(set(packages))


def test_no_file_is_longer_than_the_limit() -> None:
    lengths = {}
    for path in [*UNIONFS, *SANDBOX, *source_files("tests", "scripts")]:
        with open(os.path.join(PROJECT, path), encoding="utf-8") as file:
            if (lines := sum(1 for _ in file)) > MAX_LINES:
                lengths[path] = lines
    assert lengths == {}


def test_no_module_has_a_vague_name() -> None:
    paths = [*UNIONFS, *SANDBOX, *source_files("tests", "scripts")]
    assert [path for path in paths if VAGUE_NAMES & set(path.removesuffix(".py").split(os.sep))] == []


def project_table() -> dict[str, Any]:
    with open(os.path.join(PROJECT, "pyproject.toml"), "rb") as file:
        return dict(tomllib.load(file)["project"])


def distribution(requirement: str) -> str:
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert match is not None, requirement
    return match.group()


def test_every_third_party_import_is_a_declared_dependency() -> None:
    declared = {distribution(line).replace("-", "_") for line in project_table()["dependencies"]}
    known = {"sandbox", "unionfs", *SHA256, *sys.stdlib_module_names, *declared}
    assert [
        where(path, found)
        for path in UNIONFS + SANDBOX
        for found in imports_of(path)
        if found.module.split(".")[0] not in known
    ] == []


def test_contributing_gives_a_reason_for_every_dependency() -> None:
    table = project_table()
    requirements = [*table["dependencies"], *itertools.chain(*table["optional-dependencies"].values())]
    with open(os.path.join(PROJECT, "CONTRIBUTING.md"), encoding="utf-8") as file:
        text = file.read()
    assert [
        name
        for name in map(distribution, requirements)
        if not re.search(rf"^- `{name}`: \w", text, re.MULTILINE)
    ] == []


def test_scripts_of_the_project_are_functions_that_exist() -> None:
    for target in project_table()["scripts"].values():
        module, function = target.split(":")
        tree = parse(module.replace(".", os.sep) + ".py")
        assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, target
