"""A full disk during a snapshot or a fork: one error, the sandbox goes on, and nothing is left of the attempt."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.support import PATIENCE, Launcher
from tests.e2e.test_changes import layer, over
from tests.e2e.test_snapshots import PERSISTENT

__all__ = ["layer"]  # a fixture
pytestmark = [pytest.mark.fuse, pytest.mark.userns]

#: Runs commands on a running sandbox while the state directory, a tmpfs, has room for few objects or pages. Prints the results.
_SCENARIO = """
import json, os, subprocess, sys, time
state, spec, log, words, kind, amounts = json.loads(sys.argv[1])

def limit(option):
    # With a type and a source, mount(8) does not repeat the present options, whose owner has no id in this namespace.
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"remount,{option}", "none", state], check=True)

def leave(amount):
    for tries in range(9, -1, -1):
        info = os.statvfs(state)
        used = info.f_files - info.f_ffree, (info.f_blocks - info.f_bfree) * info.f_frsize
        try:
            if kind == "objects":
                return limit(f"nr_inodes={used[0] + amount}")
            return limit(f"size={used[1] + amount * info.f_frsize}")
        except subprocess.CalledProcessError:  # the server has made a file meanwhile
            if not tries:
                raise

def run(*words):
    done = subprocess.run([sys.executable, "-m", "sandbox", *words], capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout, done.stderr

def listing():
    return {os.path.relpath(os.path.join(at, name), state) for at, *found in os.walk(state) for name in sum(found, [])}

def count():
    with open(log) as file:
        return len(file.read())

limit("size=64m,nr_inodes=20000")
script = '''
cd /data; echo new > changed; echo two > name; rm deleted; echo kept > kept; echo ready
while :; do printf . >> /log/count; echo kept > kept; sleep 0.02; done 2> /dev/null
'''
found = []
with subprocess.Popen(
    [sys.executable, "-m", "sandbox", "up", spec, "--", "sh", "-c", script], stdout=subprocess.PIPE, text=True
) as up:
    try:
        assert up.stdout.readline() == "ready\\n"
        before = listing()
        for amount in amounts:
            leave(amount)
            status, _, err = run(*words)
            limit("size=64m,nr_inodes=20000")
            counted, end = count(), time.monotonic() + 30
            while count() == counted and up.poll() is None and time.monotonic() < end:
                time.sleep(0.01)
            goes_on = up.poll() is None and count() > counted
            found.append({"amount": amount, "status": status, "err": err, "left": sorted(listing() - before), "goes_on": goes_on})
            if status == 0:
                break
        changes = run("diff", "box", "--json")
    finally:
        up.terminate()
print(json.dumps({"found": found, "changes": json.loads(changes[1])["changes"], "later": run("snapshot", "box", "later")[0]}))
"""
#: What may be there after a failure: locks, and names of hard links, which are made before the layer is frozen.
_MAY_STAY = (
    "lock",
    "sandboxes/box/snapshots.lock",
    "sandboxes/box/upper/data/other",
    "sandboxes/box/work/unionfs/index/",
)


@pytest.mark.parametrize("kind", ["objects", "pages"])
@pytest.mark.parametrize(("verb", "most"), [("snapshot", 12), ("fork", 24)])
def test_a_full_disk_is_one_error_and_leaves_nothing(
    launcher: Launcher, layer: Path, verb: str, most: int, kind: str
) -> None:
    launcher.state.mkdir()
    log = launcher.directory / "log"
    log.mkdir(mode=0o777)
    (log / "count").touch()
    log.chmod(0o777)
    (log / "count").chmod(0o666)
    volume = f'[[volumes]]\ntype = "bind"\nsource = "{log}"\ntarget = "/log"\n'
    spec = launcher.write(over(layer, PERSISTENT) + volume)
    amounts = range(most) if kind == "objects" else range(6)
    arguments = [str(launcher.state), spec, str(log / "count"), [verb, "box", "new"], kind, list(amounts)]
    mount = 'mount -t tmpfs -o mode=0700 none "$1"; shift; exec "$@"'
    done = subprocess.run(
        [
            *(
                "unshare",
                "--user",
                "--map-root-user",
                "--mount",
                "--propagation",
                "private",
                "sh",
                "-c",
                mount,
            ),
            *("sh", str(launcher.state), sys.executable, "-c", _SCENARIO, json.dumps(arguments)),
        ],
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE,
        check=False,
        env=launcher.environ,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    *failed, last = result["found"]
    assert last["status"] == 0, last
    assert last["goes_on"]
    assert failed
    for one in failed:
        assert (one["status"], one["goes_on"]) == (125, True), one
        lines = one["err"].splitlines()
        assert len(lines) == 2, one
        assert lines[0].startswith("sandbox: ")
        assert lines[0].lower().endswith("no space left on device"), one
        assert "hint: no space left: free space" in lines[1]
        assert [path for path in one["left"] if not path.startswith(_MAY_STAY)] == [], one
    rows = {(row["kind"], row["path"]) for row in result["changes"]}
    assert rows == {
        *(("C", "/data/changed"), ("C", "/data/name"), ("C", "/data/other")),
        *(("D", "/data/deleted"), ("A", "/data/kept")),
    }
    assert result["later"] == 0
