"""Random operations on the contents of files (tests/mount/range_exerciser.py) in sandboxes of every kind."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest

from tests.e2e.archive import RootArchive
from tests.e2e.support import Launcher, let_in

pytestmark = [pytest.mark.fuse, pytest.mark.userns]

PROJECT = Path(__file__).parents[2]
#: Over an archive the server receives no OPEN and has an index. Over directories, which others may change, it receives OPEN.
LAYERS = ("archive", "directory")
IDS = {"usual": "", "single": '[ids]\nmap = "single"\n'}
KINDS = {
    f"{writable}-over-{layers}-{ids}": (layers, f'writable = "{writable}"\n', IDS[ids])
    for layers, writable, ids in itertools.product(LAYERS, ("ephemeral", "persistent"), IDS)
} | {
    "bounded": ("archive", 'writable = "ephemeral"\nsize = "64M"\ninodes = 1000\n', ""),
    "pyfuse3": ("archive", 'writable = "ephemeral"\nserver = "pyfuse3"\n', ""),
}
SHORT = ("ephemeral-over-archive-usual", "persistent-over-directory-single", "bounded")


def spec_of(directory: Path, kind: str) -> str:
    """Write the layers of *kind* below *directory*, let every user enter that, and return the environment file."""
    layers, root, ids = KINDS[kind]
    content = os.urandom(200_000)
    let_in(directory)
    if layers == "archive":
        archive = RootArchive(directory / "root.tar").add("exerciser").add("data/large", content)
        layer = archive.layer()
    else:
        (directory / "layer/data").mkdir(parents=True)
        (directory / "layer/data/large").write_bytes(content)
        for name in ("proc", "sys", "dev", "usr", "tmp", "exerciser"):
            (directory / "layer" / name).mkdir()
        for name in ("bin", "sbin", "lib", "lib64"):
            (directory / "layer" / name).symlink_to(f"usr/{name}")
        layer = f"dir:{directory}/layer"
    volumes = "".join(
        f'[[volumes]]\ntype = "bind"\nsource = "{source}"\ntarget = "{target}"\nread_only = true\n'
        for source, target in (("/usr", "/usr"), (directory / "exerciser", "/exerciser"))
    )
    # Copy only the exerciser and its imports, because other ids may be unable to enter the checkout.
    for name in (
        "tests/mount/range_exerciser.py",
        "unionfs/__init__.py",
        "unionfs/_libc.py",
        "unionfs/_stdlib/typing.py",
    ):
        target = directory / "exerciser" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text((PROJECT / name).read_text())
    return f'[sandbox]\nname = "exercised"\n[root]\nlayers = ["{layer}"]\n{root}{ids}{volumes}'


def exercise(launcher: Launcher, directory: Path, kind: str, count: int) -> None:
    """Do *count* random operations each on a new file and on a file of the layer.

    If the writable layer is kept, compare the files in the next sandbox, too.
    """
    spec = spec_of(directory, kind)
    paths = ("/data/new", "/data/large")
    digests = []
    for path in paths:
        command = [
            "/usr/bin/python3",
            "-B",
            "/exerciser/tests/mount/range_exerciser.py",
            path,
            "1",
            str(count),
        ]
        done = launcher.up(spec, ["env", "PYTHONPATH=/exerciser", *command])
        assert done.status == 0, (path, done.err[-3000:])
        digest, *refused = done.out.splitlines()
        digests.append(digest)
        assert kind == "pyfuse3" or refused in ([], ["zero range"]), refused
    if "persistent" in kind:
        done = launcher.up(spec, ["sha256sum", *paths])
        assert [line.split()[0] for line in done.facts_text().splitlines()] == digests


@pytest.mark.parametrize("kind", SHORT)
def test_a_file_of_a_sandbox_has_the_contents_that_random_operations_gave_it(
    launcher: Launcher, tmp_path: Path, kind: str
) -> None:
    exercise(launcher, tmp_path, kind, 200)


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_a_sandbox_has_the_contents_that_thousands_of_random_operations_gave_it(
    launcher: Launcher, tmp_path: Path, kind: str
) -> None:
    exercise(launcher, tmp_path, kind, 5_000)
