"""The number of requests of each workload, which shows regressions of speed on a busy machine, too.

``requests.json`` has the known numbers by server and workload. More than a twentieth above fails. Fewer pass, and
``REQUEST_COUNTS=write pytest tests/mount/test_request_counts.py`` records them.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.mount.support import PROJECT
from tests.support.tree import Symlink, Tree, make_tree
from unionfs.options import DISABLE_VARIABLE

#: Run once, because the requests do not depend on the account.
pytestmark = [pytest.mark.fusermount, pytest.mark.once]

sys.path.append(os.path.join(PROJECT, "scripts"))
from benchmarks import counting, systems  # noqa: E402
from benchmarks.catalogue import WORKLOADS  # noqa: E402
from benchmarks.corpus import make_corpus  # noqa: E402
from benchmarks.workload import Corpus, Workload  # noqa: E402

KNOWN = Path(__file__).with_name("requests.json")
SERVERS = ("unionfs", "unionfs-opened", "unionfs-pyfuse3")
#: Workloads that do the same on every machine.
NAMES = (
    "walk cold",
    "walk warm",
    "stat storm",
    "read all cold",
    "read all warm",
    "open+read+close warm",
    "untar",
    "create and unlink",
    "chmod -R",
    "append to lower files",
    "rm -r of a lower tree",
    "random writes",
    "sqlite transactions",
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> tuple[systems.Stack, Any]:
    """Return layers that are the same on every machine."""
    directory = tmp_path_factory.mktemp("counts")
    root = directory / "root"
    root.mkdir()
    tree: Tree = {f"d{i:02}": {f"f{j:02}": b"%d.%d" % (i, j) * 300 for j in range(15)} for i in range(25)}
    make_tree(root, {**tree, "link": Symlink(b"d00/f00")})
    (directory / "layers").mkdir()
    corpus = make_corpus(str(directory / "layers"), root=str(root), scale=0.02, python=sys.executable)
    return systems.Stack(str(directory / "layers"), corpus.layers), corpus


@pytest.mark.parametrize("server", SERVERS)
def test_no_workload_costs_more_requests_than_it_did(server: str, place: tuple[systems.Stack, Any]) -> None:
    stack, corpus = place
    (system,) = (each for each in systems.find_systems(sys.executable) if each.name == server)
    counts = {
        workload.name: counting.count(system, workload, stack, corpus, cold=False)
        for workload in WORKLOADS
        if workload.name in NAMES
    }
    if os.environ.get("REQUEST_COUNTS") == "write":
        known = json.loads(KNOWN.read_text()) if KNOWN.exists() else {}
        KNOWN.write_text(json.dumps({**known, server: counts}, indent=1, sort_keys=True) + "\n")
        return
    known = json.loads(KNOWN.read_text())[server]
    assert counts.keys() == known.keys()
    grown = {
        name: f"{sum(count.values())} instead of {sum(known[name].values())}: {count}"
        for name, count in counts.items()
        if sum(count.values()) > sum(known[name].values()) * 1.05 + 2
    }
    assert not grown


def follow_a_link(root: str, _corpus: Corpus) -> object:
    """Resolve one symbolic link again and again."""
    return [os.stat(f"{root}/link").st_size for _ in range(50)]


def write_in_pieces(root: str, _corpus: Corpus) -> object:
    """Write a file of a hundred pieces."""
    with open(f"{root}/pieces", "wb", buffering=0) as file:
        return [file.write(b"x" * 100) for _ in range(100)]


def open_again(root: str, corpus: Corpus) -> object:
    """Read one file again and again."""
    return [len(Path(root, corpus.files[0]).read_bytes()) for _ in range(50)]


def ask_for_nothing(root: str, _corpus: Corpus) -> object:
    """Look up a name that does not exist again and again."""
    return [os.path.lexists(f"{root}/nothing") for _ in range(50)]


def served_with(options: str) -> Callable[[str, str], list[str]]:
    return lambda given, mount: [sys.executable, "-m", "unionfs", "-f", "-o", given + options, mount]


@pytest.mark.parametrize(
    ("optimization", "work", "serving"),
    [
        ("negative", ask_for_nothing, "off"),
        ("contents", open_again, "on"),
        ("symlinks", follow_a_link, "off"),
        ("flush", open_again, "on"),
        ("killpriv", write_in_pieces, "off"),
    ],
)
def test_each_feature_that_saves_requests_saves_its_kind(
    optimization: str, work: Any, serving: str, place: tuple[systems.Stack, Any]
) -> None:
    stack, corpus = place
    (base,) = (each for each in systems.find_systems(sys.executable) if each.name == "unionfs-pyfuse3")
    counts = []
    for disabled in ("", optimization):
        system = dataclasses.replace(
            base,
            command=served_with(f",server=direct,open_requests={serving}"),
            environment={**base.environment, DISABLE_VARIABLE: disabled},
        )
        workload = Workload("one thing", work, changes=())
        counts.append(sum(counting.count(system, workload, stack, corpus, cold=False).values()))
    assert counts[1] >= counts[0] + 45


def test_a_listing_returns_the_attributes_of_its_entries(place: tuple[systems.Stack, Any]) -> None:
    stack, corpus = place
    (walk,) = (each for each in WORKLOADS if each.name == "walk cold")
    counts = [
        sum(counting.count(system, walk, stack, corpus, cold=False).values())
        for name in ("unionfs", "without-readdirplus")
        for system in systems.find_systems(sys.executable)
        if system.name == name
    ]
    assert counts[1] > counts[0] * 3
