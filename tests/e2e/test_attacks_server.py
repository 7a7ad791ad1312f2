"""The server under a hostile program, a full disk and a kill."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e import changes
from tests.e2e.support import PATIENCE, Launcher, alive
from tests.e2e.test_ending import Family, mounts

pytestmark = [pytest.mark.fuse, pytest.mark.userns]

CHANGES = Path(changes.__file__).read_text()
MIB = 1 << 20


def with_layer(directory: Path, more: str = "") -> str:
    return f'[root]\nlayers = ["dir:/", "dir:{directory}"]\n{more}'


def python(script: str, *arguments: object) -> list[str]:
    return ["/usr/bin/python3", "-c", script, *map(str, arguments)]


# -- memory -------------------------------------------------------------------------------------------

ENTRIES, OPENED = 10_000, 1000
#: With a list of names for each stream, the server would need 80 MB.
BOUND = 12 * MIB
_OPENING = """
import os, sys
count = int(sys.argv[1])
def opened(number):
    fd = os.open("/many", os.O_RDONLY)
    if number % 50 == 0:
        next(os.scandir(fd))
    os.close(os.open("/many/new", os.O_WRONLY | os.O_CREAT))
    os.unlink("/many/new")
    return fd
os.listdir("/many")
first = [opened(number) for number in range(3)]
print("begun", flush=True)
sys.stdin.readline()
more = [opened(number) for number in range(count)]
print("open", flush=True)
sys.stdin.readline()
"""


def resident(pid: int) -> int:
    with open(f"/proc/{pid}/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("server", ["direct", "pyfuse3"])
def test_program_that_opens_a_changing_directory_a_thousand_times_takes_a_bounded_part_of_the_servers_memory(
    launcher: Launcher, tmp_path: Path, server: str
) -> None:
    many = tmp_path / "layer/many"
    many.mkdir(parents=True)
    for number in range(ENTRIES):
        (many / f"{number:06}").touch()
    spec = with_layer(tmp_path / "layer", f'server = "{server}"\n')
    arguments = launcher.arguments(spec, python(_OPENING, OPENED))
    with subprocess.Popen(
        arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=launcher.environ
    ) as supervisor:
        try:
            assert supervisor.stdin is not None
            assert supervisor.stdout is not None
            assert supervisor.stdout.readline() == "begun\n"
            pid = Family(supervisor.pid).server
            before = resident(pid)
            print("on", file=supervisor.stdin, flush=True)
            assert supervisor.stdout.readline() == "open\n"
            taken = resident(pid) - before
            print("on", file=supervisor.stdin, flush=True)
            assert supervisor.wait(PATIENCE) == 0
        finally:
            supervisor.kill()
    assert taken < BOUND


# -- a full disk ------------------------------------------------------------------------------

#: Makes each change on the sandbox's root and, if it succeeds, on a model in memory; prints each difference.
_FULL = (
    CHANGES.partition('if __name__ == "__main__":')[0]
    + """
import shutil
shutil.copytree("/data", "/model/data", symlinks=True)
wrong, refused = [], []

def attempt(kind, number, refusals):
    try:
        change("/data", kind, number)
    except OSError as error:
        refused.append((kind, number))
        if error.errno not in refusals:
            wrong.append(f"{kind}: {errno.errorcode[error.errno]}")
    else:
        change("/model/data", kind, number)
    if shown("/data") != shown("/model/data"):
        wrong.append(f"{kind}: what is there differs")

def fill_blocks():
    with open("/ballast/file", "wb", buffering=0) as file:
        for size in (65536, 4096, 1):
            try:
                while True: file.write(bytes(size))
            except OSError as error:
                assert error.errno == errno.ENOSPC

def fill_inodes():
    try:
        for number in range(100_000): os.close(os.open(f"/ballast/{number}", os.O_WRONLY | os.O_CREAT))
    except OSError as error:
        assert error.errno == errno.ENOSPC

for kind in KINDS: attempt(kind, 0, ())
os.mkdir("/ballast")
(fill_blocks if sys.argv[1] == "blocks" else fill_inodes)()
for number in range(1, 4):
    for kind in KINDS: attempt(kind, number, (errno.ENOSPC,))
again, refused = refused, []
shutil.rmtree("/ballast")
end = time.monotonic() + 30
for kind, number in again:
    while True:
        attempt(kind, number, (errno.ENOSPC,) if time.monotonic() < end else ())
        if not refused or wrong: break
        refused.clear()
        time.sleep(0.05)
print(json.dumps({"wrong": wrong, "refused": sorted({kind for kind, _ in again}), "shown": shown("/data")}))
"""
)


@contextmanager
def small_disk(path: Path, kind: str, needs: str) -> Iterator[None]:
    """Mount a file system of few MiB or few inodes on *path*."""
    path.mkdir()
    inodes = 600 if needs == "inodes" else 4000
    if kind == "tmpfs":
        source = ["-t", "tmpfs", "-o", f"size=12m,nr_inodes={inodes},mode=0700", "small"]
    else:
        image = path.with_name("image")
        with open(image, "wb") as file:
            file.truncate(16 * MIB)
        make = ["mkfs.ext4", "-q", "-N", str(inodes), "-m", "0", str(image)]
        subprocess.run(make, check=True, capture_output=True)
        source = ["-o", "loop", str(image)]
    subprocess.run(["mount", *source, str(path)], check=True, capture_output=True)
    try:
        os.chmod(path, 0o700)
        shutil.rmtree(path / "lost+found", ignore_errors=True)
        yield
    finally:
        subprocess.run(["umount", str(path)], check=True, timeout=PATIENCE)


@pytest.mark.root
@pytest.mark.parametrize(
    ("kind", "needs"),
    [
        ("tmpfs", "blocks"),
        pytest.param("ext4", "inodes", marks=pytest.mark.ext4),
        pytest.param("tmpfs", "inodes", marks=pytest.mark.long),
        pytest.param("ext4", "blocks", marks=[pytest.mark.ext4, pytest.mark.long]),
    ],
)
def test_program_that_fills_the_disk_gets_no_wrong_data_and_goes_on_when_there_is_room(
    launcher: Launcher, tmp_path: Path, kind: str, needs: str
) -> None:
    make_layer(tmp_path / "layer/data", 4)
    spec = with_layer(tmp_path / "layer", 'writable = "persistent"\n')
    model = '[[volumes]]\ntype = "tmpfs"\ntarget = "/model"\n'
    with small_disk(launcher.state, kind, needs):
        outcome = launcher.up(spec + model, python(_FULL, needs))
        assert (outcome.status, outcome.err) == (0, "")
        found = json.loads(outcome.out)
        assert found["wrong"] == []
        assert found["refused"] != [], "the disk was not full"
        assert launcher.runs() == []
        (work,) = launcher.state.glob("sandboxes/*/work")
        assert list((work / "unionfs/tmp").iterdir()) == []
        again = launcher.up(spec, python(CHANGES, "show", "/data"))
        assert json.loads(again.facts_text()) == found["shown"]


def make_layer(data: Path, count: int = changes.COUNT) -> None:
    for path, content in changes.tree(count).items():
        at = data / path
        at.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            at.mkdir(exist_ok=True)
        else:
            at.write_bytes(content)


# -- a killed server --------------------------------------------------------------------------

#: Seconds from the kill to the end, on a busy machine.
SOON = 20


@pytest.mark.parametrize(
    "kinds",
    [changes.KINDS, *(pytest.param([kind], marks=pytest.mark.long) for kind in changes.KINDS)],
    ids=["all in turn", *changes.KINDS],
)
def test_server_that_is_killed_in_an_operation_ends_the_sandbox_and_the_layer_is_old_or_new(
    launcher: Launcher, tmp_path: Path, kinds: list[str]
) -> None:
    data, model = tmp_path / "layer/data", str(tmp_path / "model")
    make_layer(data)
    shutil.copytree(data, model)
    spec = with_layer(tmp_path / "layer", 'writable = "persistent"\n')
    generator, before, at = random.Random(len(kinds)), mounts(), 0
    for _ in range(3):
        command = python(CHANGES, "do", "/data", ",".join(kinds), at, changes.COUNT * len(kinds) - at)
        with launcher.start(spec, command) as supervisor:
            assert supervisor.stdout is not None
            assert int(supervisor.stdout.readline()) == at
            family = Family(supervisor.pid)
            time.sleep(generator.uniform(0, 0.02 * len(kinds)))
            os.kill(family.server, signal.SIGKILL)
            killed = time.monotonic()
            rest, err = supervisor.communicate(timeout=PATIENCE)
            assert time.monotonic() - killed < SOON
            assert supervisor.returncode == 125
            assert "sandbox: the file system's server: it ended unexpectedly" in err
            family.wait_until_gone()
        assert (launcher.runs(), mounts()) == ([], before)
        assert not any(map(alive, family.all()))
        done = max(map(int, rest.split()), default=at) + 1
        for number in range(at, done):
            changes.change(model, *changes.step(kinds, number))
        old = changes.shown(model)
        outcome = launcher.up(spec, python(CHANGES, "show", "/data"))
        assert outcome.err == ""
        found = json.loads(outcome.out)
        if found != old:
            changes.change(model, *changes.step(kinds, done))
            assert found == changes.shown(model), changes.step(kinds, done)
            done += 1
        at = done
        if at >= changes.COUNT * len(kinds):
            break
