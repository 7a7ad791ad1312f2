"""What a sandbox changed: shown while it runs and afterwards, kept, and discarded."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.support import HOST_ROOT, Launcher, Outcome, first_line, sandbox

#: One change of each kind below /data, which a layer provides.
CHANGE = """
set -e
cd /data
mkdir new && echo 1 > new/file
echo changed > changed
chmod 600 mode
rm deleted
rm -r gone
mv moved elsewhere && echo 2 > elsewhere/added && rm elsewhere/inside
echo linked > name
echo created > temporary && rm temporary
"""
ROWS = {
    ("A", "/data/new", None),
    ("A", "/data/new/file", None),
    ("C", "/data/changed", None),
    ("C", "/data/mode", None),
    ("D", "/data/deleted", None),
    ("D", "/data/gone", None),
    ("D", "/data/gone/a", None),
    ("D", "/data/gone/b", None),
    ("R", "/data/elsewhere", "/data/moved"),
    ("A", "/data/elsewhere/added", None),
    ("D", "/data/moved/inside", None),
    ("C", "/data/name", None),
    ("C", "/data/other", None),
}


@pytest.fixture
def layer(tmp_path: Path) -> Path:
    """A layer with a file for each change of CHANGE."""
    data = tmp_path / "layer" / "data"
    for name in ("changed", "deleted", "gone/a", "gone/b", "moved/inside", "moved/kept", "name"):
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        (data / name).write_text(f"old {name}\n")
    # Large enough to be copied without its contents when its mode changes.
    (data / "mode").write_text("x" * 100_000)
    os.link(data / "name", data / "other")
    return tmp_path / "layer"


def over(layer: Path, more: str = "") -> str:
    """Return an environment file with *layer* over the root of this machine."""
    return f'[sandbox]\nname = "box"\n[root]\nlayers = ["dir:/", "dir:{layer}"]\n{more}'


def rows(done: Outcome) -> set[tuple[Any, ...]]:
    """Return the rows that `diff --json` printed."""
    assert done.status == 0, done.err
    return {(row["kind"], row["path"], row.get("from")) for row in json.loads(done.out)["changes"]}


def test_changes_of_an_ephemeral_sandbox_are_kept_shown_and_discarded(
    launcher: Launcher, layer: Path
) -> None:
    done = launcher.shell(CHANGE, over(layer), options=["--keep-changes"])
    assert done.status == 0, done.err
    (identity,) = os.listdir(launcher.state / "changes")
    assert f"sandbox diff {identity}\n" in done.err
    assert rows(sandbox(launcher, "diff", "box", "--json")) == ROWS
    assert rows(sandbox(launcher, "diff", launcher.write(over(layer)), "--json")) == ROWS
    assert rows(sandbox(launcher, "diff", identity, "/data/elsewhere", "--json")) == {
        row for row in ROWS if row[1].startswith("/data/elsewhere")
    }
    assert sandbox(launcher, "ls").out.startswith(f"changes:{identity}\t")
    assert sandbox(launcher, "discard", "box").status == 0
    assert sandbox(launcher, "ls").out == ""
    assert os.listdir(launcher.state / "changes") == []
    assert "there is no writable layer" in sandbox(launcher, "diff", "box").err


def test_changes_are_printed_at_the_end_and_apart_from_the_output_of_the_program(
    launcher: Launcher, layer: Path
) -> None:
    done = launcher.shell(CHANGE + "echo output", over(layer), options=["--diff"])
    assert (done.status, done.out) == (0, "output\n")
    lines = done.err.splitlines()
    assert "D /data/gone/ (2 entries)" in lines
    assert "R /data/moved/ -> /data/elsewhere/" in lines
    assert "C /data/other (7 B)" in lines
    assert launcher.runs() == []
    assert "there is no writable layer" in sandbox(launcher, "diff", "box").err


def test_changes_of_a_program_that_fails_are_kept_and_those_of_a_failed_start_are_not(
    launcher: Launcher, layer: Path
) -> None:
    done = launcher.shell("echo 1 > /data/new; exit 7", over(layer), options=["--keep-changes"])
    assert done.status == 7
    assert rows(sandbox(launcher, "diff", "box", "--json")) == {("A", "/data/new", None)}
    assert sandbox(launcher, "discard", "box").status == 0
    done = launcher.up(over(layer), ["/no/such/program"], options=["--keep-changes"])
    assert done.status == 127
    assert os.listdir(launcher.state / "changes") == []


def test_a_running_sandbox_shows_what_it_has_changed_so_far_and_is_not_discarded(
    launcher: Launcher, layer: Path
) -> None:
    script = f"{CHANGE}\necho ready; sleep 60"
    with launcher.start(over(layer), ["sh", "-c", script]) as supervisor:
        assert first_line(supervisor) == "ready"
        assert rows(sandbox(launcher, "diff", "box", "--json")) == ROWS
        refused = sandbox(launcher, "discard", "box")
        assert refused.status == 125
        assert "is running" in refused.err


def test_a_persistent_layer_is_shown_after_its_run_and_discarded_between_two_runs(
    launcher: Launcher, layer: Path
) -> None:
    spec = over(layer, 'writable = "persistent"\n')
    assert launcher.shell(CHANGE, spec).status == 0
    assert rows(sandbox(launcher, "diff", "box", "--json")) == ROWS
    with launcher.start(spec, ["sh", "-c", "echo ready; sleep 60"]) as supervisor:
        assert first_line(supervisor) == "ready"
        assert rows(sandbox(launcher, "diff", "box", "--json")) == ROWS
        assert sandbox(launcher, "discard", "box").status == 125
    assert sandbox(launcher, "discard", "box").status == 0
    assert rows(sandbox(launcher, "diff", "box", "--json")) == set()
    assert launcher.shell("ls /data/new", spec).status != 0
    assert rows(sandbox(launcher, "diff", "box", "--json")) == set()


def test_changes_at_paths_are_discarded_and_the_rest_stays(launcher: Launcher, layer: Path) -> None:
    spec = over(layer, 'writable = "persistent"\n')
    assert launcher.shell(CHANGE, spec).status == 0
    refused = sandbox(launcher, "discard", "box", "/data/nothing/../moved")
    assert (refused.status, rows(sandbox(launcher, "diff", "box", "--json"))) == (125, ROWS)
    done = sandbox(launcher, "discard", "box", "/data/elsewhere", "/data/gone/a", "/data/name")
    assert done.status == 0, done.err
    left = {
        ("A", "/data/new", None),
        ("A", "/data/new/file", None),
        ("C", "/data/changed", None),
        ("C", "/data/mode", None),
        ("D", "/data/deleted", None),
        ("D", "/data/gone/b", None),
        ("D", "/data/moved/inside", None),
    }
    assert rows(sandbox(launcher, "diff", "box", "--json")) == left
    shown = launcher.shell("cd /data && ls gone moved && cat gone/a other", spec)
    assert shown.out == "gone:\na\n\nmoved:\nkept\nold gone/a\nold name\n"
    assert sandbox(launcher, "discard", "box", "/data").status == 0
    assert rows(sandbox(launcher, "diff", "box", "--json")) == set()


def test_the_directory_of_a_kept_layer_says_how_to_read_it_and_no_command_shows_the_note(
    launcher: Launcher, layer: Path
) -> None:
    assert launcher.shell("ls / > /data/listing", over(layer), options=["--keep-changes"]).status == 0
    (note,) = launcher.state.glob("changes/*/README")
    assert "sandbox diff" in note.read_text()
    assert "sandbox export" in note.read_text()
    assert rows(sandbox(launcher, "diff", "box", "--json")) == {("A", "/data/listing", None)}
    (listing,) = launcher.state.glob("changes/*/upper/data/listing")
    assert "README" not in listing.read_text().split() or os.path.exists("/README")


def test_a_read_only_root_has_no_changes_to_keep_or_show(launcher: Launcher) -> None:
    for option in ("--keep-changes", "--diff"):
        done = launcher.up(HOST_ROOT + 'writable = "none"\n', ["true"], options=[option])
        assert done.status == 125
        assert f"{option}: the root is read-only" in done.err
        assert launcher.runs() == []


def test_an_unchanged_root_has_no_rows(launcher: Launcher, layer: Path) -> None:
    done = launcher.shell("cat /data/changed; touch /data/t; rm /data/t", over(layer), options=["--diff"])
    assert done.status == 0
    assert "A /" not in done.err
    assert "C /" not in done.err


def test_text_shows_lines_and_escapes_what_a_terminal_would_interpret(
    launcher: Launcher, layer: Path
) -> None:
    script = "printf 'new\\033[31m\\n' > /data/changed; head -c 100 /dev/zero > /data/mode; touch \"$(printf '/data/\\033[2J')\""
    assert launcher.shell(script, over(layer), options=["--keep-changes"]).status == 0
    shown = sandbox(launcher, "diff", "box", "--text").out
    assert "-old changed" in shown
    assert "+new" in shown
    assert "Binary" in shown
    assert "\033" not in shown
    assert "\033" not in sandbox(launcher, "diff", "box").out


def test_an_empty_file_that_only_its_owner_may_read_does_not_stop_the_comparison(
    launcher: Launcher, layer: Path
) -> None:
    """As /etc/.pwd.lock, which useradd(8) opens for writing and leaves as it is."""
    (layer / "data" / "lock").touch(mode=0o600)
    for number in (1, 2):  # for an ordinary user, only the second time
        if number == 2 and os.geteuid() == 0:
            os.chown(layer / "data" / "lock", 4321, 4321)
        done = launcher.shell(": >> /data/lock; echo 1 > /data/new", over(layer), options=["--keep-changes"])
        assert done.status == 0, done.err
        assert rows(sandbox(launcher, "diff", "box", "--json")) == {("A", "/data/new", None)}
        assert sandbox(launcher, "discard", "box").status == 0
