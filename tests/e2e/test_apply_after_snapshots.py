"""Moves from before a snapshot are applied to the directory of this machine: the sandbox, its snapshots and forks follow."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.support import Launcher, first_line, sandbox
from tests.e2e.test_apply import applied, comparable, copy_of
from tests.e2e.test_changes import CHANGE, layer, over, rows
from tests.e2e.test_snapshots import MORE, PERSISTENT, make, text

__all__ = ["layer"]  # a fixture

pytestmark = pytest.mark.twice

#: What `find` of a sandbox prints about /data.
SHOW = "cd /data && find . -printf '%p %y %m %l\\n' | sort && cat $(find . -type f -perm -004 | sort)"
#: Moves that begin before the first snapshot.
MOVES = """
set -e
cd /data
mv moved elsewhere && echo 2 > elsewhere/added && rm elsewhere/inside
chmod 604 mode && mv mode mode2
ln -s nowhere link
"""
#: Moves after it, of the same objects and of others.
LATER = """
set -e
cd /data
mv elsewhere gone/elsewhere
mv gone deleted2
mv name name2
"""


def begin(launcher: Launcher, layer: Path) -> str:
    """Make MOVES, a snapshot, and LATER; return the environment file."""
    spec = over(layer, PERSISTENT)
    assert launcher.shell(MOVES, spec).status == 0
    make(launcher, "one")
    assert launcher.shell(LATER, spec).status == 0
    return spec


def by_hand(layer: Path, *scripts: str) -> Path:
    """Return a copy of *layer* in which *scripts* were executed without a sandbox."""
    copy = copy_of(layer)
    for script in scripts:
        subprocess.run(["sh", "-c", script.replace("/data", str(copy / "data"))], check=True)
    return copy


def relocations(launcher: Launcher) -> list[Path]:
    """Return the entries of the directories of relocations."""
    return sorted((launcher.state / "sandboxes").glob("**/relocated/*"))


def test_moves_from_before_and_after_a_snapshot_are_applied(launcher: Launcher, layer: Path) -> None:
    spec = over(layer, PERSISTENT)
    assert launcher.shell(CHANGE, spec).status == 0
    make(launcher, "one")
    expected = by_hand(layer, CHANGE, MORE)
    assert launcher.shell(MORE, spec).status == 0
    shown = text(launcher, spec, SHOW)
    done = applied(launcher, layer, "--yes")
    assert done.status == 0, (done.out, done.err)
    assert comparable(layer) == comparable(expected)
    assert rows(sandbox(launcher, "diff", "box", "--json")) == set()
    assert text(launcher, spec, SHOW) == shown
    assert len(relocations(launcher)) == 1


def test_selected_moves_are_applied_and_then_the_others(launcher: Launcher, layer: Path) -> None:
    spec = begin(launcher, layer)
    expected, shown = by_hand(layer, MOVES, LATER), text(launcher, spec, SHOW)
    before = rows(sandbox(launcher, "diff", "box", "--json"))
    done = applied(launcher, layer, "/data/mode2", "--yes")
    assert done.status == 0, (done.out, done.err)
    left = rows(sandbox(launcher, "diff", "box", "--json"))
    assert left == {row for row in before if row[1] != "/data/mode2"}
    assert text(launcher, spec, SHOW) == shown
    assert launcher.shell("mv /data/mode2 /data/mode3", spec).status == 0
    (layer / "data/new-on-the-host").write_text("1")
    for _ in range(2):
        done = applied(launcher, layer, "--yes")
        assert done.status == 0, (done.out, done.err)
    os.rename(expected / "data/mode2", expected / "data/mode3")
    (expected / "data/new-on-the-host").write_text("1")
    assert comparable(layer) == comparable(expected)
    assert rows(sandbox(launcher, "diff", "box", "--json")) == set()
    assert text(launcher, spec, "cat /data/deleted2/elsewhere/kept; wc -c < /data/mode3") == (
        "old moved/kept\n100000\n"
    )
    assert len(relocations(launcher)) == 1


def test_a_snapshot_and_a_fork_show_what_they_showed(launcher: Launcher, layer: Path) -> None:
    spec = over(layer, PERSISTENT)
    assert launcher.shell(MOVES, spec).status == 0
    make(launcher, "one")
    assert sandbox(launcher, "fork", "box", "other").status == 0
    other = spec.replace('name = "box"', 'name = "other"')
    assert launcher.shell("echo 3 > /data/elsewhere/kept", other).status == 0
    states = text(launcher, spec, SHOW), text(launcher, other, SHOW)
    assert launcher.shell(LATER, spec).status == 0
    done = applied(launcher, layer, "--yes")
    assert done.status == 0, (done.out, done.err)
    assert text(launcher, other, SHOW) == states[1]
    assert sandbox(launcher, "rollback", "box", "one").status == 0
    assert text(launcher, spec, SHOW) == states[0]
    done = sandbox(launcher, "apply", "other", "--yes", "--to", str(layer))
    assert done.status == 0, (done.out, done.err)
    assert (layer / "data/elsewhere/kept").read_text() == "3\n"
    assert rows(sandbox(launcher, "diff", "other", "--json")) == set()
    assert sandbox(launcher, "rm", "layer:other").status == 0
    assert sandbox(launcher, "discard", "box").status == 0
    assert sandbox(launcher, "snapshot", "box", "--remove", "one").status == 0
    assert relocations(launcher) == []


def test_moves_are_refused_while_a_fork_is_running(launcher: Launcher, layer: Path) -> None:
    begin(launcher, layer)
    assert sandbox(launcher, "fork", "box", "other").status == 0
    before = comparable(layer)
    other = over(layer, PERSISTENT).replace('name = "box"', 'name = "other"')
    with launcher.start(other, ["sh", "-c", "echo ready; sleep 60"]) as supervisor:
        assert first_line(supervisor) == "ready"
        refused = applied(launcher, layer, "--yes")
        assert refused.status == 125
        assert "other shares layers with this sandbox" in refused.err
        assert comparable(layer) == before
        done = applied(launcher, layer, "/data/link", "--yes")
        assert done.status == 0, (done.out, done.err)
    done = applied(launcher, layer, "--yes")
    assert done.status == 0, (done.out, done.err)


def test_what_the_host_changed_is_a_conflict_and_nothing_is_changed(launcher: Launcher, layer: Path) -> None:
    begin(launcher, layer)
    (layer / "data/mode").write_text("changed on the host\n")
    before = comparable(layer)
    done = applied(launcher, layer, "--yes")
    assert (done.status, "/data/mode: it changed on the host" in done.err) == (125, True)
    assert comparable(layer) == before
    assert relocations(launcher) == []
    done = applied(launcher, layer, "/data/deleted2", "--yes")
    assert done.status == 0, (done.out, done.err)


#: Runs the command line with a function that ends the process at some point.
KILLED = """
import os, signal, sys
from sandbox.changes import apply, applying, relocating
from sandbox.cli.main import main

launcher = os.getpid()

def end(*_, **__):
    os.kill(launcher, signal.SIGKILL)  # a child of it may have come here
    os._exit(9)

def nth(function, count):
    def call(*arguments, **named):
        nonlocal count
        count -= 1
        return end() if count < 0 else function(*arguments, **named)
    return call

exec(sys.argv.pop(1))
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    "point",
    [
        *(f"apply._Execution.run = nth(apply._Execution.run, {count})" for count in (0, 1, 2, 4)),
        *(f"apply._Execution._write = nth(apply._Execution._write, {count})" for count in (0, 2)),
        "relocating.follow = end",
        "relocating.synchronize_file_system = end",
        "applying._renew = end",
        "relocating.os.unlink = end",
    ],
)
def test_killed_at_some_point_the_same_command_resumes(launcher: Launcher, layer: Path, point: str) -> None:
    spec = begin(launcher, layer)
    expected, shown = by_hand(layer, MOVES, LATER), text(launcher, spec, SHOW)
    command = [sys.executable, "-c", KILLED, point, "apply", "box", "--yes", "--to", str(layer)]
    killed = subprocess.run(command, env=launcher.environ, capture_output=True, check=False)
    assert killed.returncode == -9, killed.stderr
    done = applied(launcher, layer, "--yes")
    assert done.status == 0, (done.out, done.err)
    assert comparable(layer) == comparable(expected)
    assert rows(sandbox(launcher, "diff", "box", "--json")) == set()
    assert text(launcher, spec, SHOW) == shown
    assert len(relocations(launcher)) == 1
