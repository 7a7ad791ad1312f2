"""Changes of a sandbox are written to the host directory that is its layer, or copied out of the sandbox."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from tests.e2e.support import Launcher, Outcome, first_line, sandbox, wait_for
from tests.e2e.test_changes import CHANGE, ROWS, layer, over, rows  # noqa: F401 - a fixture
from tests.support.tree import snapshot


def kept(launcher: Launcher, layer: Path, script: str = CHANGE) -> None:  # noqa: F811
    """Run *script* over *layer*, and keep what it changes."""
    done = launcher.shell(script, over(layer), options=["--keep-changes"])
    assert done.status == 0, done.err


def applied(launcher: Launcher, layer: Path, *arguments: str) -> Outcome:  # noqa: F811
    """Run `sandbox apply` for *layer*."""
    return sandbox(launcher, "apply", "box", *arguments, "--to", str(layer))


def copy_of(directory: Path) -> Path:
    """Copy *directory*, with hard links and times, and return the copy."""
    target = directory.with_name(f"{directory.name}-copy")
    subprocess.run(["cp", "-a", str(directory), str(target)], check=True)
    return target


def comparable(directory: Path) -> dict[bytes, object]:
    """Return the tree below *directory* without times, which differ between two runs."""
    return dict(snapshot(directory))


def changed_by_hand(directory: Path) -> Path:
    """Return a copy of *directory* in which the host has run CHANGE itself."""
    copy = copy_of(directory)
    script = CHANGE.replace("/data", str(copy / "data"))
    subprocess.run(["sh", "-c", script], check=True)
    return copy


def test_all_changes_make_the_directory_what_the_program_would_have_made_of_it(
    launcher: Launcher,
    layer: Path,  # noqa: F811
) -> None:
    expected = changed_by_hand(layer)
    kept(launcher, layer)
    done = applied(launcher, layer, "--yes")
    assert done.status == 0, (done.out, done.err)
    assert comparable(layer) == comparable(expected)
    assert os.stat(layer / "data/name").st_ino == os.stat(layer / "data/other").st_ino
    assert rows(sandbox(launcher, "diff", "box", "--json")) == set()


def test_selected_changes_are_applied_and_the_rest_stays_in_diff(
    launcher: Launcher,
    layer: Path,  # noqa: F811
) -> None:
    kept(launcher, layer)
    done = applied(launcher, layer, "/data/new", "/data/changed", "/data/elsewhere", "--yes")
    assert done.status == 0, (done.out, done.err)
    assert (layer / "data/new/file").read_text() == "1\n"
    assert (layer / "data/elsewhere/kept").read_text() == "old moved/kept\n"
    assert not (layer / "data/moved").exists()
    assert (layer / "data/deleted").exists()
    left = rows(sandbox(launcher, "diff", "box", "--json"))
    assert left == {
        row
        for row in ROWS
        if not row[1].startswith(("/data/new", "/data/changed", "/data/elsewhere", "/data/moved"))
    }
    done = applied(launcher, layer, "--exclude", "name", "--exclude", "other", "--yes")
    assert done.status == 0, (done.out, done.err)
    left = rows(sandbox(launcher, "diff", "box", "--json"))
    assert left == {("C", "/data/name", None), ("C", "/data/other", None)}


def test_what_the_host_changed_since_is_a_conflict_and_nothing_is_changed(
    launcher: Launcher,
    layer: Path,  # noqa: F811
) -> None:
    kept(launcher, layer)
    (layer / "data/changed").write_text("changed on the host\n")
    (layer / "data/deleted").unlink()
    (layer / "data/deleted").write_text("another file\n")
    before = comparable(layer)
    done = applied(launcher, layer, "--yes")
    assert done.status == 125
    assert "/data/changed" in done.err
    assert "/data/deleted" in done.err
    assert comparable(layer) == before
    assert ("C", "/data/changed", None) in rows(sandbox(launcher, "diff", "box", "--json"))
    done = applied(launcher, layer, "/data/new", "--yes")
    assert done.status == 0, (done.out, done.err)
    assert (layer / "data/new/file").exists()


def test_without_a_terminal_the_command_asks_for_a_decision(
    launcher: Launcher,
    layer: Path,  # noqa: F811
) -> None:
    kept(launcher, layer)
    before = comparable(layer)
    shown = applied(launcher, layer, "--dry-run")
    assert shown.status == 0
    assert "A /data/new/\n" in shown.out
    refused = applied(launcher, layer)
    assert refused.status == 125
    assert "--yes" in refused.err
    assert comparable(layer) == before
    value = json.loads(applied(launcher, layer, "--dry-run", "--json").out)
    assert value["directory"] == str(layer)


def test_a_second_look_is_asked_for_set_id_bits(
    launcher: Launcher,
    layer: Path,  # noqa: F811
) -> None:
    kept(launcher, layer, "cp /bin/true /data/tool; chmod 4755 /data/tool")
    shown = applied(launcher, layer, "--dry-run")
    assert "look at /data/tool: set-user-ID" in shown.out


def test_a_symbolic_link_in_the_way_is_not_followed(
    launcher: Launcher,
    layer: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    kept(launcher, layer, "echo 1 > /data/gone/new")
    outside = tmp_path / "outside"
    outside.mkdir()
    os.rename(layer / "data/gone", layer / "data/away")
    (layer / "data/gone").symlink_to(outside)
    done = applied(launcher, layer, "--yes")
    assert done.status == 125
    assert list(outside.iterdir()) == []


def test_a_running_sandbox_is_applied_but_for_what_moved(
    launcher: Launcher,
    layer: Path,  # noqa: F811
) -> None:
    with launcher.start(
        over(layer), ["sh", "-c", f"{CHANGE}\necho ready; sleep 60"], options=["--keep-changes"]
    ) as supervisor:
        assert first_line(supervisor) == "ready"
        refused = applied(launcher, layer, "--yes")
        assert refused.status == 125
        assert "has ended" in refused.err
        done = applied(launcher, layer, "/data/new", "/data/deleted", "--yes")
        assert done.status == 0, (done.out, done.err)
        assert (layer / "data/new/file").exists()
        assert not (layer / "data/deleted").exists()
        left = rows(sandbox(launcher, "diff", "box", "--json"))
        assert left == {row for row in ROWS if not row[1].startswith(("/data/new", "/data/deleted"))}


def test_a_change_after_applying_is_no_conflict(
    launcher: Launcher,
    layer: Path,  # noqa: F811
) -> None:
    spec = over(layer, 'writable = "persistent"\n')
    assert launcher.shell(CHANGE, spec).status == 0
    assert applied(launcher, layer, "--yes").status == 0
    again = "echo 3 > /data/changed; echo 4 > /data/elsewhere/kept; chmod 705 /data/new; rm /data/mode"
    assert launcher.shell(again, spec).status == 0
    done = applied(launcher, layer, "--yes")
    assert done.status == 0, (done.out, done.err)
    assert (layer / "data/elsewhere/kept").read_text() == "4\n"
    assert not (layer / "data/mode").exists()
    assert rows(sandbox(launcher, "diff", "box", "--json")) == set()


def test_killed_at_any_moment_each_file_is_old_or_new_and_the_same_command_resumes(
    launcher: Launcher,
    layer: Path,  # noqa: F811
) -> None:
    big = "for i in $(seq 200); do echo new > /data/gone/f$i; done; echo new > /data/changed; rm /data/deleted; mv /data/moved /data/elsewhere"
    kept(launcher, layer, big)
    command = [sys.executable, "-m", "sandbox", "apply", "box", "--yes", "--to", str(layer)]
    for milliseconds in (150, 200, 250, 300, 350, 400):
        with subprocess.Popen(
            command,
            env=launcher.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        ) as process:
            time.sleep(milliseconds / 1000)
            os.killpg(process.pid, signal.SIGKILL)
        for path in (layer / "data/gone").glob("f*"):
            assert path.read_text() == "new\n"
        assert (layer / "data/changed").read_text() in ("old changed\n", "new\n")
    wait_for(lambda: applied(launcher, layer, "--yes").status == 0, "the same command resumes")
    assert len(list((layer / "data/gone").glob("f*"))) == 200
    assert (layer / "data/elsewhere/kept").exists()
    assert not (layer / "data/moved").exists()
    assert not (layer / "data/deleted").exists()
    assert [path for path in (layer / "data").rglob("*") if "sandbox-new" in path.name] == []
    assert rows(sandbox(launcher, "diff", "box", "--json")) == set()


@pytest.mark.parametrize("has_snapshot", [False, True])
def test_files_that_moved_and_whose_metadata_changed_keep_their_contents(
    launcher: Launcher,
    layer: Path,  # noqa: F811
    has_snapshot: bool,
) -> None:
    spec = over(layer, 'writable = "persistent"\n')
    for number in range(6):
        (layer / f"data/f{number}").write_bytes(b"%d" % number * 200_000)
    script = (
        'cd /data; for i in 0 1 2 3 4 5; do chmod 604 "f$i"; mv "f$i" "moved/g$i"; done; mv moved elsewhere'
    )
    assert launcher.shell(script, spec).status == 0
    if has_snapshot:
        assert sandbox(launcher, "snapshot", "box", "one").status == 0
    done = applied(launcher, layer, "--yes")
    assert done.status == 0, (done.out, done.err)
    for number in range(6):
        assert (layer / f"data/elsewhere/g{number}").read_bytes() == b"%d" % number * 200_000
    assert rows(sandbox(launcher, "diff", "box", "--json")) == set()


@pytest.mark.parametrize("renewals", [0, 1])
def test_killed_before_the_layer_follows_a_move_loses_nothing_on_the_host_or_in_the_sandbox(
    launcher: Launcher,
    layer: Path,  # noqa: F811
    renewals: int,
) -> None:
    """The layer follows after the moves, and again after everything else."""
    spec = over(layer, 'writable = "persistent"\n')
    expected_tree = changed_by_hand(layer)
    assert launcher.shell(f"{CHANGE}\nchmod 604 mode; mv mode mode2", spec).status == 0
    (expected_tree / "data/mode").rename(expected_tree / "data/mode2")
    (expected_tree / "data/mode2").chmod(0o604)
    expected = rows(sandbox(launcher, "diff", "box", "--json"))
    assert ("R", "/data/mode2", "/data/mode") in expected
    script = (
        "import os, sys\n"
        "from sandbox.changes import applying\n"
        "from sandbox.cli.main import main\n"
        "left, renew = int(sys.argv.pop(1)), applying._renew\n"
        "def renewed(*arguments):\n"
        "    global left\n"
        "    left -= 1\n"
        "    return os._exit(9) if left < 0 else renew(*arguments)\n"
        "applying._renew = renewed\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    command = [sys.executable, "-c", script, str(renewals), "apply", "box", "--yes", "--to", str(layer)]
    assert subprocess.run(command, env=launcher.environ, capture_output=True, check=False).returncode == 9
    assert (layer / "data/elsewhere/kept").exists()
    done = applied(launcher, layer, "--yes")
    assert done.status == 0, (done.out, done.err)
    assert comparable(layer) == comparable(expected_tree)
    assert rows(sandbox(launcher, "diff", "box", "--json")) == set()
    shown = launcher.shell("cat /data/elsewhere/kept; wc -c < /data/mode2", spec)
    assert shown.out.split("\n")[:2] == ["old moved/kept", "100000"]


def test_files_are_copied_out_as_the_sandbox_shows_them(
    launcher: Launcher,
    layer: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    kept(launcher, layer)
    target = tmp_path / "target"
    target.mkdir()
    done = sandbox(launcher, "export", "box", "/data/elsewhere", "/data/mode", str(target))
    assert done.status == 0, done.err
    assert (target / "elsewhere/kept").read_text() == "old moved/kept\n"
    assert (target / "elsewhere/added").read_text() == "2\n"
    assert not (target / "elsewhere/inside").exists()
    assert (target / "mode").read_text() == "x" * 100_000
    assert (target / "mode").stat().st_mode & 0o777 == 0o600
    missing = sandbox(launcher, "export", "box", "/data/deleted", str(target))
    assert missing.status == 125
    assert "/data/deleted" in missing.err


def test_changes_alone_are_copied_out(
    launcher: Launcher,
    layer: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    kept(launcher, layer)
    target = tmp_path / "target"
    target.mkdir()
    done = sandbox(launcher, "export", "box", "/data", str(target), "--changes")
    assert done.status == 0, done.err
    assert (target / "data/changed").read_text() == "changed\n"
    assert (target / "data/elsewhere/kept").exists()
    assert not (target / "data/gone").exists()


@pytest.mark.parametrize("changes", [False, True])
def test_archives_have_whole_files_and_the_marks_of_a_layer(
    launcher: Launcher,
    layer: Path,  # noqa: F811
    tmp_path: Path,
    changes: bool,
) -> None:
    kept(launcher, layer)
    path = tmp_path / "out.tar"
    options = ["--changes"] if changes else ["/data"]
    done = sandbox(launcher, "export", "box", *options, f"tar:{path}")
    assert done.status == 0, done.err
    with tarfile.open(path) as archive:
        names = archive.getnames()
        member = archive.extractfile("data/mode")
        assert member is not None
        assert member.read() == b"x" * 100_000
    assert ("data/.wh.deleted" in names) == changes
    assert "data/elsewhere/kept" in names
    assert [name for name in tmp_path.iterdir() if name.name.startswith(".out")] == []
