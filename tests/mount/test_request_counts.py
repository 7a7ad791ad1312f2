"""How many requests a piece of work costs: a regression of speed that shows on a busy machine, too.

``requests.json`` has the numbers that are known to be enough, by server and workload. More than a twentieth above fails;
fewer are welcome, and are written down by ``REQUEST_COUNTS=write pytest tests/mount/test_request_counts.py``.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.mount.support import PROJECT
from tests.support.tree import make_tree

pytestmark = pytest.mark.fusermount

sys.path.append(os.path.join(PROJECT, "scripts"))
from benchmarks import counting, systems  # noqa: E402
from benchmarks.catalogue import WORKLOADS  # noqa: E402
from benchmarks.corpus import make_corpus  # noqa: E402

KNOWN = Path(__file__).with_name("requests.json")
SERVERS = ("unionfs", "unionfs-opened", "unionfs-pyfuse3")
#: Of workloads that do the same on every machine.
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
    """Give layers that are the same everywhere."""
    directory = tmp_path_factory.mktemp("counts")
    root = directory / "root"
    root.mkdir()
    make_tree(root, {f"d{i:02}": {f"f{j:02}": b"%d.%d" % (i, j) * 300 for j in range(15)} for i in range(25)})
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
