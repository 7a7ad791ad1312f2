"""Which sandbox a file or a name selects when there are forks, and the errors about sandboxes that cannot be used now."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.e2e.support import Launcher, first_line, sandbox, wait_for
from tests.e2e.test_changes import layer, over, rows
from tests.e2e.test_snapshots import PERSISTENT, make

__all__ = ["layer"]  # a fixture


def test_a_file_selects_no_fork_that_was_never_started(launcher: Launcher, layer: Path) -> None:
    spec = launcher.write(over(layer, PERSISTENT))
    assert launcher.shell("echo 1 > /data/one", spec).status == 0
    assert sandbox(launcher, "fork", spec, "copy").status == 0
    assert "discarded all changes of box" in sandbox(launcher, "discard", spec).err
    assert rows(sandbox(launcher, "diff", "copy", "--json")) == {("A", "/data/one", None)}
    assert launcher.shell("true", spec, options=["--set", "sandbox.name=copy"]).status == 0
    assert rows(sandbox(launcher, "diff", spec, "--json")) == {("A", "/data/one", None)}


def test_a_suspended_sandbox_is_named_at_once(launcher: Launcher, layer: Path) -> None:
    spec = over(layer, PERSISTENT)
    with launcher.start(spec, ["sh", "-c", "echo 1 > /data/one; echo ready; sleep 60"]) as supervisor:
        assert first_line(supervisor) == "ready"
        os.kill(supervisor.pid, signal.SIGSTOP)
        stat = Path(f"/proc/{supervisor.pid}/stat")
        wait_for(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T", "the supervisor stops")
        refused = sandbox(launcher, "snapshot", "box", "one")
        assert (refused.status, "box is suspended" in refused.err) == (125, True)
        os.kill(supervisor.pid, signal.SIGCONT)
        make(launcher, "one")


def test_a_layer_is_removed_after_the_forks_that_are_removed_with_it(launcher: Launcher, layer: Path) -> None:
    spec = over(layer, PERSISTENT)
    assert launcher.shell("echo 1 > /data/one", spec).status == 0
    assert sandbox(launcher, "fork", "box", "copy").status == 0
    assert sandbox(launcher, "fork", "copy", "third").status == 0
    done = sandbox(launcher, "rm", "layer:box", "layer:copy", "layer:third")
    assert done.status == 0, done.err
    assert sandbox(launcher, "ls").out == ""


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("no-such.toml", "no such file"),
        ("layer:box", "write the name without layer:"),
        ("bxo", "did you mean box?"),
    ],
)
def test_a_wrong_name_is_answered_with_what_is_meant(
    launcher: Launcher, layer: Path, argument: str, said: str
) -> None:
    assert launcher.shell("echo 1 > /data/one", over(layer, PERSISTENT)).status == 0
    for verb in (["snapshot", argument, "one"], ["rollback", argument, "one"], ["fork", argument, "copy"]):
        refused = sandbox(launcher, *verb)
        assert refused.status == 125
        assert said in refused.err


def test_a_file_that_was_never_started_is_to_be_started_first(launcher: Launcher, layer: Path) -> None:
    spec = launcher.write(over(layer, PERSISTENT))
    assert "start it once" in sandbox(launcher, "snapshot", spec, "one").err


def test_explain_counts_the_earlier_layers(launcher: Launcher, layer: Path) -> None:
    spec = launcher.write(over(layer, PERSISTENT))
    assert launcher.shell("echo 1 > /data/one", spec).status == 0
    assert "earlier layer" not in sandbox(launcher, "explain", spec).out
    make(launcher, "one")
    assert "1 earlier layer, of snapshots" in sandbox(launcher, "explain", spec).out


def test_a_fork_follows_its_file_by_the_command_that_the_error_names(launcher: Launcher, layer: Path) -> None:
    spec = launcher.write(over(layer, PERSISTENT))
    assert launcher.shell("echo 1 > /data/one", spec).status == 0
    assert sandbox(launcher, "fork", "box", "copy").status == 0
    moved = os.path.join(os.path.dirname(spec), "moved.toml")
    os.rename(spec, moved)
    named = ["--set", "sandbox.name=copy"]
    refused = launcher.shell("cat /data/one", moved, options=named)
    assert refused.status == 125
    command = refused.err.rpartition("give it to this file: sandbox ")[2].split("\n")[0].split()
    done = sandbox(launcher, *command)
    assert done.status == 0, done.err
    assert launcher.shell("cat /data/one", moved, options=named).out == "1\n"
