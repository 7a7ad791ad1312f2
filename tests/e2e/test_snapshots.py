"""Snapshots, rollback and fork of sandboxes that run and of others."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.e2e.support import PYTHON, Launcher, children, first_line, sandbox, wait_for
from tests.e2e.test_changes import CHANGE, ROWS, layer, over, rows

__all__ = ["layer"]  # a fixture

PERSISTENT = 'writable = "persistent"\n'
#: Further changes, of the same objects and of others.
MORE = """
set -e
cd /data
echo more >> new/file
rm changed
mv mode new/mode
mkdir deleted
mv elsewhere again
echo linked more >> other
"""


def make(launcher: Launcher, name: str, of: str = "box") -> None:
    done = sandbox(launcher, "snapshot", of, name)
    assert (done.status, done.out) == (0, ""), done.err
    assert f"made the snapshot {name} of {of}" in done.err


def names(launcher: Launcher, of: str = "box") -> list[str]:
    """Return the snapshots of *of*."""
    done = sandbox(launcher, "snapshot", of, "--list", "--json")
    assert done.status == 0, done.err
    return [one["name"] for one in json.loads(done.out)["snapshots"]]


def layers_of(launcher: Launcher, of: str = "box") -> list[str]:
    """Return the directories of the layers that *of* has on the disk."""
    home = launcher.state / "sandboxes" / of
    found = [name for name in os.listdir(home / "later") if (home / "later" / name / "upper").is_dir()]
    return sorted([*found, *(["first"] if (home / "upper").is_dir() else [])])


def text(launcher: Launcher, spec: str, script: str) -> str:
    """Return what *script* prints in a sandbox."""
    done = launcher.shell(script, spec)
    assert done.status == 0, done.err
    return done.out


def test_after_a_rollback_the_sandbox_and_its_diff_have_the_state_of_the_snapshot(
    launcher: Launcher, layer: Path
) -> None:
    spec = over(layer, PERSISTENT)
    assert launcher.shell(CHANGE, spec).status == 0
    make(launcher, "one")
    assert rows(sandbox(launcher, "diff", "box", "--json")) == ROWS
    assert launcher.shell(MORE, spec).status == 0
    later = rows(sandbox(launcher, "diff", "box", "--json"))
    assert ("R", "/data/again", "/data/moved") in later
    assert ("D", "/data/changed", None) in later
    assert ("C", "/data/deleted", None) in later  # a directory now
    make(launcher, "two")
    done = sandbox(launcher, "rollback", "box", "one")
    assert done.status == 0, done.err
    assert rows(sandbox(launcher, "diff", "box", "--json")) == ROWS
    shown = text(launcher, spec, "cd /data && cat new/file changed other && ls elsewhere && stat -c %a mode")
    assert shown == "1\nchanged\nlinked\nadded\nkept\n600\n"
    assert sandbox(launcher, "rollback", "box", "two").status == 0
    assert rows(sandbox(launcher, "diff", "box", "--json")) == later
    assert text(launcher, spec, "cat /data/name") == "linked\nlinked more\n"
    assert names(launcher) == ["one", "two"]


def test_a_running_sandbox_goes_on_and_its_later_changes_are_not_in_the_snapshot(
    launcher: Launcher, layer: Path
) -> None:
    spec = over(layer, PERSISTENT)
    script = (
        f"{CHANGE}\nexec 3>> name; echo ready; read go; echo more >&3; rm new/file; sync; echo done; read go"
    )
    command = launcher.arguments(spec, ["sh", "-c", script])
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=launcher.environ
    ) as supervisor:
        assert supervisor.stdin is not None
        assert first_line(supervisor) == "ready"
        for number in range(3):
            make(launcher, f"s{number}")
        refused = sandbox(launcher, "rollback", "box", "s0")
        assert (refused.status, "is running" in refused.err) == (125, True)
        supervisor.stdin.write("\n")
        supervisor.stdin.flush()
        assert first_line(supervisor) == "done"
        assert ("A", "/data/new/file", None) not in rows(sandbox(launcher, "diff", "box", "--json"))
        supervisor.stdin.write("\n")
        supervisor.stdin.close()
        assert supervisor.wait() == 0
    assert text(launcher, spec, "cat /data/other; ls /data/new") == "linked\nmore\n"
    assert sandbox(launcher, "rollback", "box", "s1").status == 0
    assert text(launcher, spec, "cat /data/name /data/other; ls /data/new") == "linked\nlinked\nfile\n"
    assert rows(sandbox(launcher, "diff", "box", "--json")) == ROWS


def test_a_fork_and_its_origin_go_on_independently(launcher: Launcher, layer: Path) -> None:
    spec = launcher.write(over(layer, PERSISTENT))
    with launcher.start(spec, ["sh", "-c", f"{CHANGE}\necho ready; sleep 60"]) as supervisor:
        assert first_line(supervisor) == "ready"
        done = sandbox(launcher, "fork", "box", "copy")
        assert done.status == 0, done.err
        assert f"sandbox up {spec} --set sandbox.name=copy" in done.err
        assert rows(sandbox(launcher, "diff", "copy", "--json")) == ROWS
        made = launcher.shell("echo 2 > /data/new/file", spec, options=["--set", "sandbox.name=copy"])
        assert made.status == 0, made.err
    wait_for(lambda: launcher.runs() == [] or sandbox(launcher, "prune").status == 0, "the end of the run")
    assert text(launcher, spec, "cat /data/new/file; echo 3 > /data/new/third") == "1\n"
    assert text_of_copy(launcher, spec, "cat /data/new/file; ls /data/new") == "2\nfile\n"
    refused = sandbox(launcher, "rm", "layer:box")
    assert refused.status == 125
    assert "copy uses layers of box" in refused.err
    assert "sandbox rm layer:copy" in refused.err
    assert sandbox(launcher, "discard", "box").status == 0
    assert text_of_copy(launcher, spec, "cat /data/new/file") == "2\n"
    assert sandbox(launcher, "rm", "layer:copy", "layer:box").status == 0


def text_of_copy(launcher: Launcher, spec: str, script: str) -> str:
    done = launcher.shell(script, spec, options=["--set", "sandbox.name=copy"])
    assert done.status == 0, done.err
    return done.out


def test_layers_that_nothing_needs_any_more_are_removed(launcher: Launcher, layer: Path) -> None:
    spec = over(layer, PERSISTENT)
    assert launcher.shell("echo 1 > /data/one", spec).status == 0
    make(launcher, "one")
    assert launcher.shell("echo 2 > /data/two", spec).status == 0
    make(launcher, "two")
    assert layers_of(launcher) == ["1", "2", "first"]
    assert sandbox(launcher, "rollback", "box", "one").status == 0
    assert layers_of(launcher) == ["1", "3", "first"]  # the writable layer above "two" is gone
    assert sandbox(launcher, "snapshot", "box", "--remove", "two").status == 0
    assert layers_of(launcher) == ["3", "first"]
    assert text(launcher, spec, "cd /data; ls one two 2> /dev/null || true") == "one\n"
    assert sandbox(launcher, "discard", "box").status == 0
    assert rows(sandbox(launcher, "diff", "box", "--json")) == set()
    assert layers_of(launcher) == ["first"]  # of the snapshot
    assert sandbox(launcher, "rollback", "box", "one").status == 0
    assert text(launcher, spec, "cat /data/one") == "1\n"
    assert sandbox(launcher, "snapshot", "box", "--remove", "one").status == 0
    assert sandbox(launcher, "discard", "box").status == 0
    assert layers_of(launcher) == []
    assert not list((launcher.state / "sandboxes" / "box").glob(".removed-*"))


def test_a_snapshot_of_an_unchanged_sandbox_is_a_state_to_return_to(launcher: Launcher, layer: Path) -> None:
    spec = over(layer, PERSISTENT)
    assert launcher.shell("true", spec).status == 0
    assert sandbox(launcher, "discard", "box").status == 0
    make(launcher, "pristine")
    assert launcher.shell("echo 1 > /data/one", spec).status == 0
    assert sandbox(launcher, "rollback", "box", "pristine").status == 0
    assert rows(sandbox(launcher, "diff", "box", "--json")) == set()
    assert text(launcher, spec, "ls /data/one 2> /dev/null || echo no") == "no\n"


def test_without_a_change_since_the_last_snapshot_no_layer_is_added(launcher: Launcher, layer: Path) -> None:
    spec = over(layer, PERSISTENT)
    with launcher.start(spec, ["sh", "-c", "echo 1 > /data/one; echo ready; sleep 60"]) as supervisor:
        assert first_line(supervisor) == "ready"
        make(launcher, "one")
        made = layers_of(launcher)
        make(launcher, "two")
        assert sandbox(launcher, "fork", "box", "copy").status == 0
        assert layers_of(launcher) == made
    wait_for(lambda: launcher.runs() == [] or sandbox(launcher, "prune").status == 0, "the end of the run")
    assert text(launcher, spec, "chmod 700 /; cat /data/one") == "1\n"
    make(launcher, "three")
    assert len(layers_of(launcher)) == len(made) + 1
    assert sandbox(launcher, "rollback", "box", "two").status == 0
    assert text(launcher, spec, "stat -c %a /; cat /data/one") == "755\n1\n"
    assert sandbox(launcher, "rollback", "box", "three").status == 0
    assert text(launcher, spec, "stat -c %a /") == "700\n"


def test_a_kept_ephemeral_layer_has_snapshots_and_forks(launcher: Launcher, layer: Path) -> None:
    spec = launcher.write(over(layer))
    with launcher.start(
        spec, ["sh", "-c", f"{CHANGE}\necho ready; sleep 60"], options=["--keep-changes"]
    ) as supervisor:
        assert first_line(supervisor) == "ready"
        (identity,) = os.listdir(launcher.state / "changes")
        make(launcher, "one", identity)
        assert rows(sandbox(launcher, "diff", "box", "--json")) == ROWS
        os.kill(supervisor.pid, signal.SIGTERM)
        supervisor.wait()
    assert rows(sandbox(launcher, "diff", "box", "--json")) == ROWS
    done = sandbox(launcher, "fork", "box", "copy", "--json")
    assert done.status == 0, done.err
    command = json.loads(done.out)["command"]
    assert command[-2:] == ["--set", "root.writable=persistent"]
    again = launcher.shell("cat /data/new/file", spec, options=command[3:])
    assert (again.status, again.out) == (0, "1\n"), again.err
    assert "copy uses layers" in sandbox(launcher, "discard", "box").err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["snapshot", "box", "one"], "has a snapshot one already"),
        (["snapshot", "box", "One"], "is not a name of a snapshot"),
        (["snapshot", "box", "../one"], "is not a name of a snapshot"),
        (["snapshot", "box"], "give one of"),
        (["snapshot", "box", "two", "--list"], "give one of"),
        (["snapshot", "box", "--remove", "two"], "has no snapshot two"),
        (["rollback", "box", "two"], "it has one"),
        (["snapshot", "nothing", "one"], "there is no writable layer"),
        (["fork", "box", "box"], "there is a persistent layer box already"),
        (["fork", "box", "a/b"], "is not a name of a sandbox"),
        (["fork", "box", "b.toml"], "is not a name of a sandbox"),
    ],
)
def test_what_cannot_be_done_is_refused_and_changes_nothing(
    launcher: Launcher, layer: Path, arguments: list[str], said: str
) -> None:
    assert launcher.shell("echo 1 > /data/one", over(layer, PERSISTENT)).status == 0
    make(launcher, "one")
    before = layers_of(launcher)
    refused = sandbox(launcher, *arguments)
    assert (refused.status, refused.out) == (125, "")
    assert said in refused.err
    assert names(launcher) == ["one"]
    assert layers_of(launcher) == before


def test_a_layer_that_is_removed_with_its_sandbox_has_no_snapshots(launcher: Launcher, layer: Path) -> None:
    with launcher.start(over(layer), ["sh", "-c", "echo 1 > /data/one; echo ready; sleep 60"]) as supervisor:
        assert first_line(supervisor) == "ready"
        refused = sandbox(launcher, "snapshot", "box", "one")
        assert refused.status == 125
        assert "--keep-changes" in refused.err


def test_a_fork_and_an_origin_that_is_renamed(launcher: Launcher, layer: Path) -> None:
    text_ = over(layer, PERSISTENT)
    assert launcher.shell("echo 1 > /data/one", text_).status == 0
    make(launcher, "one")
    other = launcher.write(text_.replace('"box"', '"other"'), "other.toml")
    assert sandbox(launcher, "fork", "box", "copy").status == 0
    assert "copy uses layers of box" in sandbox(launcher, "adopt", other, "box").err
    assert sandbox(launcher, "rm", "layer:copy").status == 0
    done = sandbox(launcher, "adopt", other, "box")
    assert done.status == 0, done.err
    assert text(launcher, other, "cat /data/one; echo 2 > /data/one") == "1\n"
    assert sandbox(launcher, "rollback", "other", "one").status == 0
    assert text(launcher, other, "cat /data/one") == "1\n"


def test_a_layer_with_changes_or_snapshots_is_not_replaced_by_an_adopted_one(
    launcher: Launcher, layer: Path
) -> None:
    spec = launcher.write(over(layer, PERSISTENT))
    other = over(layer, PERSISTENT).replace('"box"', '"other"')
    assert launcher.shell("echo 1 > /data/one", spec).status == 0
    assert launcher.shell("echo 2 > /data/two", other, options=[]).status == 0
    spec = launcher.write(over(layer, PERSISTENT))
    assert sandbox(launcher, "fork", "box", "copy").status == 0
    assert sandbox(launcher, "discard", "box").status == 0
    assert "copy uses layers of box" in sandbox(launcher, "adopt", spec, "other").err
    assert sandbox(launcher, "rm", "layer:copy").status == 0
    # The first writable layer is gone, and this change is in a later one.
    assert launcher.shell("echo 3 > /data/three", spec).status == 0
    assert "box exists and has changes" in sandbox(launcher, "adopt", spec, "other").err
    make(launcher, "one")
    assert "box exists and has changes" in sandbox(launcher, "adopt", spec, "other").err
    assert sandbox(launcher, "discard", "box").status == 0
    assert "box exists and has snapshots" in sandbox(launcher, "adopt", spec, "other").err
    assert sandbox(launcher, "snapshot", "box", "--remove", "one").status == 0
    assert sandbox(launcher, "adopt", spec, "other").status == 0
    assert text(launcher, spec, "cat /data/two") == "2\n"


def test_layers_that_only_forks_needed_are_removed_with_the_last_of_them(
    launcher: Launcher, layer: Path
) -> None:
    assert launcher.shell("echo 1 > /data/one", over(layer, PERSISTENT)).status == 0
    for origin, name in (("box", "one"), ("one", "two"), ("two", "three")):
        assert sandbox(launcher, "fork", origin, name).status == 0
    make(launcher, "kept", "three")
    for name in ("box", "one", "two", "three"):
        assert "first" in layers_of(launcher)
        assert sandbox(launcher, "discard", name).status == 0
    assert "first" in layers_of(launcher)  # of the snapshot
    assert sandbox(launcher, "snapshot", "three", "--remove", "kept").status == 0
    assert [layers_of(launcher, name) for name in ("box", "one", "two")] == [[], [], []]
    to_three = ["--set", "sandbox.name=three"]
    assert launcher.shell("echo 1 > /data/one", over(layer, PERSISTENT), options=to_three).status == 0
    make(launcher, "again", "three")
    assert sandbox(launcher, "fork", "three", "four").status == 0
    assert sandbox(launcher, "snapshot", "three", "--remove", "again").status == 0
    assert sandbox(launcher, "discard", "three").status == 0
    assert layers_of(launcher, "three") != []
    assert sandbox(launcher, "rm", "layer:four").status == 0
    assert layers_of(launcher, "three") == []


WRITER = """
import os, sys
number = 0
if os.path.exists("/data/gone/moved"):
    os.rename("/data/gone/moved", "/data/moved")
print("ready", flush=True)
while True:
    number += 1
    for name in ("name", "other", "changed"):
        with open(f"/data/{name}", "a") as file:
            file.write(f"{sys.argv[1]}.{number}\\n")
    os.rename("/data/moved", "/data/gone/moved")
    os.rename("/data/gone/moved", "/data/moved")
    with open("/data/new", "w") as file:
        file.write(str(number))
    os.rename("/data/new", "/data/last")
"""


@pytest.mark.parametrize("victim", ["command", "supervisor", "server"])
def test_a_kill_of_any_process_during_a_snapshot_leaves_a_usable_layer(
    launcher: Launcher, layer: Path, victim: str
) -> None:
    """After each kill, nothing that was written is missing or twice, and both names of the hard link are one file."""
    spec = over(layer, PERSISTENT)
    for attempt in range(4):
        with launcher.start(spec, [PYTHON, "-c", WRITER, str(attempt)]) as supervisor:
            assert first_line(supervisor) == "ready"
            command = subprocess.Popen(
                [sys.executable, "-m", "sandbox", "snapshot", "box", f"s{attempt}"],
                env=launcher.environ,
                stderr=subprocess.DEVNULL,
            )
            time.sleep(0.12 + 0.03 * attempt)
            if victim == "command":
                command.kill()
            elif victim == "supervisor":
                supervisor.kill()
            else:
                (server,) = (pid for pid, argv in children(supervisor.pid).items() if "--serve-fd" in argv)
                os.kill(server, signal.SIGKILL)
            command.wait()
            if victim == "command":
                supervisor.terminate()
            supervisor.wait()
        shown = text(
            launcher, spec, "cd /data; cat last; echo; stat -c %i name other; cat name other changed"
        )
        last, one, other, *written = shown.split("\n")
        assert one == other
        rounds = [f"{attempt}.{number}" for number in range(1, int(last) + 1)]
        # Each round writes twice to the file with two names, which is read twice, and once to another.
        assert rounds
        assert {written.count(each) for each in rounds} == {5}
    assert sandbox(launcher, "snapshot", "box", "end").status == 0
    for name in names(launcher):
        assert sandbox(launcher, "rollback", "box", name).status == 0
        moved = "cd /data; cmp name other; ls moved gone/moved 2> /dev/null || true"
        assert text(launcher, spec, moved).splitlines()[-2:] == ["inside", "kept"]


def test_changes_from_before_a_snapshot_are_discarded_and_rollback_brings_them_back(
    launcher: Launcher, tmp_path: Path
) -> None:
    top = host(tmp_path)
    os.link(top / "data" / "changed", top / "data" / "name")
    spec = over(top, PERSISTENT)
    script = "cd /data; echo new > changed; rm deleted touched; mv moved away; mkdir new; echo new > new/file"
    assert launcher.shell(script, spec).status == 0
    make(launcher, "one")
    assert launcher.shell("cd /data; echo more >> new/file; echo new > later", spec).status == 0
    before = rows(sandbox(launcher, "diff", "box", "--json"))

    chosen = ["/data/changed", "/data/deleted", "/data/away", "/data/new"]
    done = sandbox(launcher, "discard", "box", *chosen)
    assert done.status == 0, done.err
    assert rows(sandbox(launcher, "diff", "box", "--json")) == {
        ("C", "/data/later", None),
        ("D", "/data/touched", None),
    }
    shown = "cd /data; cat changed deleted moved/file; stat -c %h name; ls; echo again > name; cat changed"
    assert text(launcher, spec, shown) == (
        "old data/changed\nold data/deleted\nold data/moved/file\n2\n"
        "changed\ndeleted\nlater\nmoved\nname\nagain\n"
    )
    assert sandbox(launcher, "rollback", "box", "one").status == 0
    assert before - rows(sandbox(launcher, "diff", "box", "--json")) == {("C", "/data/later", None)}
    assert text(launcher, spec, "cat /data/changed /data/new/file") == "new\nnew\n"


def host(tmp_path: Path) -> Path:
    """Return a directory of the host with some files, as the only layer of a sandbox."""
    top = tmp_path / "host"
    for name in ("data/changed", "data/deleted", "data/moved/file", "data/later", "data/touched"):
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(f"old {name}\n")
    return top


def test_changes_of_earlier_layers_are_applied_exported_and_discarded_with_the_others(
    launcher: Launcher, tmp_path: Path
) -> None:
    top = host(tmp_path)
    spec = over(top, PERSISTENT)
    script = "cd /data; echo new > changed; rm deleted; mv moved away; echo new > new; echo 1 > touched"
    assert launcher.shell(script, spec).status == 0
    make(launcher, "one")
    assert launcher.shell("cd /data; echo more >> new; echo new > later; echo 2 > touched", spec).status == 0
    assert sandbox(launcher, "discard", "box", "/data/later").status == 0
    assert ("C", "/data/later", None) not in rows(sandbox(launcher, "diff", "box", "--json"))

    done = sandbox(launcher, "export", "box", "/data", f"tar:{tmp_path}/whole.tar")
    assert done.status == 0, done.err
    listed = subprocess.run(
        ["tar", "-xOf", tmp_path / "whole.tar", "data/new"], capture_output=True, check=True
    )
    assert listed.stdout == b"new\nmore\n"

    (top / "data" / "touched").write_text("by somebody else\n")
    to = ["--yes", "--to", str(top)]
    refused = sandbox(launcher, "apply", "box", *to, "/data/touched")
    assert (refused.status, "it changed on the host" in refused.err) == (125, True)
    chosen = ["/data/new", "/data/changed", "/data/deleted"]
    done = sandbox(launcher, "apply", "box", *to, *chosen)
    assert done.status == 0, done.err
    assert (top / "data" / "new").read_text() == "new\nmore\n"
    assert (top / "data" / "changed").read_text() == "new\n"
    assert not (top / "data" / "deleted").exists()
    assert (top / "data" / "moved" / "file").exists()
    assert rows(sandbox(launcher, "diff", "box", "--json")) == {
        ("R", "/data/away", "/data/moved"),
        ("C", "/data/touched", None),
    }
    assert text(launcher, spec, "cat /data/away/file /data/new") == "old data/moved/file\nnew\nmore\n"
