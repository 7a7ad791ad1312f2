"""Test the cost of checking large files. Function calls are counted, because seconds depend on the machine."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from sandbox.errors import SpecError
from sandbox.spec import check as spec_check
from sandbox.spec import parse
from sandbox.spec.check import examine
from sandbox.spec.compose import MAX_ENTRIES
from sandbox.spec.model import MAX_PROFILES
from sandbox.spec.relations import below, covered, cycles

ROOT = '[root]\nlayers = ["dir:/"]\n'


def array(items: Iterable[str]) -> str:
    return "[" + ", ".join(f'"{item}"' for item in items) + "]"


def tables(count: int, text: str) -> str:
    return "".join(text.replace("N", str(number)) + "\n" for number in range(count))


def names(count: int, text: str) -> str:
    return array(text.replace("N", str(number)) for number in range(count))


_VARIABLE = 'KN = "${env:HOME}"'

FILES: dict[str, Callable[[int], str]] = {
    "volumes": lambda n: ROOT + tables(n, '[[volumes]]\ntype = "tmpfs"\ntarget = "/a/N/b"'),
    "volumes with one target": lambda n: ROOT + tables(n, '[[volumes]]\ntype = "tmpfs"\ntarget = "/a"'),
    "layers": lambda n: f"[root]\nlayers = {names(n, 'dir:/N')}\n",
    "native paths": lambda n: f'[root]\nlayers = ["dir:/"]\nnative = {names(n, "/a/N")}\n',
    "native paths below volumes": lambda n: (
        f'[root]\nlayers = ["dir:/"]\nnative = {names(n // 2, "/a/N/b")}\n'
        + tables(n // 2, '[[volumes]]\ntype = "tmpfs"\ntarget = "/a/N"')
    ),
    "variables": lambda n: f"{ROOT}[process.env]\n{tables(n, _VARIABLE)}",
    "arguments": lambda n: f"{ROOT}[process]\ncommand = {names(n, 'N')}\n",
    "appended": lambda n: f"{ROOT}[profile.p.process]\ncommand = {{ append = {names(n, 'N')} }}\n",
    "removed": lambda n: (
        f"{ROOT}[process]\ncommand = {names(n, 'N')}\n"
        f"[profile.p.process]\ncommand = {{ remove = {names(n - 1, 'N')} }}\n"
    ),
    "removed and not there": lambda n: (
        f"{ROOT}[process]\ncommand = {names(n, 'N')}\n"
        f"[profile.p.process]\ncommand = {{ remove = {names(n, 'aN')} }}\n"
    ),
    "volumes that are removed and not there": lambda n: (
        ROOT
        + tables(n // 2, '[[volumes]]\ntype = "tmpfs"\ntarget = "/aN"')
        + f"[profile.p]\nvolumes = {{ remove = {names(n // 2, '/bN')} }}\n"
    ),
    "profiles": lambda n: ROOT + tables(n, '[profile.pN.process]\ncwd = "/"'),
    "unknown tables": lambda n: ROOT + tables(n, "[xN]"),
    "unknown keys": lambda n: f"{ROOT}[process]\n{tables(n, 'xN = 1')}",
    "wrong values": lambda n: f"{ROOT}[process]\ncommand = [{'1, ' * n}]\n",
    "mistakes beside what is not enforced": lambda n: (
        ROOT
        + tables(n // 2, "[[network.ports]]\nhost = 0\nsandbox = 80")
        + tables(n // 2, '[[build]]\nrun = "true"\nlabels = 1')
    ),
    "unknown names": lambda n: f"{ROOT}[security]\noptional = {names(n, 'xN')}\n",
    "networks that are not there": lambda n: (
        f'{ROOT}[network]\nmode = "private"\nnetworks = {names(n, "xN")}\n{tables(100, "[networks.yN]")}'
    ),
    "sandboxes in a row": lambda n: ROOT + dependent(n, lambda number: f"s{max(number - 1, 0)}"),
    "sandboxes in a circle": lambda n: ROOT + dependent(n, lambda number: f"s{(number + 1) % n}"),
    "sandboxes that are not there": lambda n: (
        ROOT + tables(100, '[sandboxes.sN]\nfile = "f.toml"') + f"depends_on = {names(n, 'tN')}\n"
    ),
    "id ranges": lambda n: (
        f"{ROOT}[ids]\nuid_map = [{tables(n, '{ inside = N, outside = N, count = 1 },')}]\n"
    ),
    "a table twice": lambda n: f"{ROOT}{tables(n, '[process.xN]')}[process.x0]\n",
    "comments": lambda n: ROOT + "# comment\n" * n,
    "escapes": lambda n: ROOT + '[process]\ncwd = "/' + "\\t" * n + '"\n',
    "references": lambda n: ROOT + '[process]\ncwd = "/' + "${env:HOME}" * n + '"\n',
    "a string that is not closed": lambda n: ROOT + '[process]\ncwd = "/' + "x" * n,
    "long keys": lambda n: ROOT + "".join(f"a{'.a' * 60}.b{number} = 1\n" for number in range(n // 10)),
}
MOST = 1500
"""Most calls for one more element. A table with two keys takes up to a thousand."""


def dependent(count: int, on: Callable[[int], str]) -> str:
    return "".join(
        f'[sandboxes.s{number}]\nfile = "f.toml"\ndepends_on = ["{on(number)}"]\n' for number in range(count)
    )


def calls_of(function: Callable[[], object]) -> int:
    """Return the number of function calls in *function*, including calls of functions written in C."""
    count = 0

    def count_call(_frame: FrameType, event: str, _argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(count_call)
    try:
        function()
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("name", FILES)
def test_the_cost_of_each_further_element_is_constant(name: str, tmp_path: Path) -> None:
    file = tmp_path / "f.toml"

    def cost(count: int) -> int:
        file.write_text(FILES[name](count))
        return calls_of(lambda: examine(str(file), environ={"HOME": "/"}, requested=True))

    cost(10)  # performs the imports
    few, many = cost(200), cost(600)
    assert (many - few) / 400 < MOST


def test_file_of_too_many_keys_and_values_is_a_mistake(tmp_path: Path) -> None:
    text = f"{ROOT}[process]\ncommand = {{ remove = {names(MAX_ENTRIES, 'N')} }}\n"
    with pytest.raises(SpecError, match=f"a.toml: more than {MAX_ENTRIES} keys and values"):
        parse(text.encode(), path="a.toml", environ={})
    half = f"[process]\ncommand = {names(MAX_ENTRIES // 2, 'N')}\n"
    assert parse((ROOT + half).encode(), path="a.toml", environ={}).process.command
    (tmp_path / "base.toml").write_text(half)
    (tmp_path / "main.toml").write_text(f'extends = ["base.toml", "base.toml"]\n{ROOT}')
    (found,) = examine(str(tmp_path / "main.toml"), environ={}).diagnostics
    assert found.message.startswith(f"more than {MAX_ENTRIES} keys and values")
    assert found.file == str(tmp_path / "main.toml")


def test_large_file_is_not_checked_with_each_of_many_profiles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spec_check, "MAX_ENTRIES_CHECKED", 20_000)
    file = tmp_path / "f.toml"

    def checked(count: int) -> Any:
        profiles = tables(MAX_PROFILES, '[profile.pN.process]\ncwd = "/"')
        file.write_text(f"{ROOT}[process]\ncommand = {names(count, 'N')}\n{profiles}")
        return examine(str(file), environ={}, requested=True)

    few = checked(50)
    assert few.diagnostics == []
    assert few.requests is not None
    most = checked(1000)
    (found,) = most.diagnostics
    assert (found.message, found.hint) == (
        f"too large to be checked with each of its {MAX_PROFILES} profiles",
        "check it with --profile NAME",
    )
    assert most.requests is None
    assert examine(str(file), environ={}, profiles=("p1",)).diagnostics == []


def test_document_is_parsed_once_for_all_profiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tomllib

    parsed = []
    loads = tomllib.loads
    monkeypatch.setattr(tomllib, "loads", lambda text: (parsed.append(len(text)), loads(text))[1])
    (tmp_path / "base.toml").write_text(ROOT)
    (tmp_path / "f.toml").write_text(
        'extends = "base.toml"\n' + tables(10, '[profile.pN.process]\ncwd = "/"')
    )
    assert examine(str(tmp_path / "f.toml"), environ={}, requested=True).diagnostics == []
    assert len(parsed) == 2


def test_paths_that_cover_others_are_found() -> None:
    paths = [(0, "/a"), (1, "/a/b"), (2, "/a-b"), (3, "/a/b/c"), (4, "/d"), (5, "/ab")]
    assert sorted(below(paths)) == [(1, 0), (3, 0)]
    by = [(10, "/a/b"), (11, "/d"), (12, "/"), (13, "/a/b/c")]
    assert sorted(covered(paths, by)) == [(1, 10), (3, 10), (4, 11)]


def test_names_in_a_cycle_have_the_same_number() -> None:
    found = cycles({"a": "b", "b": "c", "c": "ad", "d": "e", "e": "d", "f": "af", "g": ""})
    groups: dict[int, set[str]] = {}
    for name, number in found.items():
        groups.setdefault(number, set()).add(name)
    assert sorted(map(sorted, groups.values())) == [["a", "b", "c"], ["d", "e"], ["f"], ["g"]]
