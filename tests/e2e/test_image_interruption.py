"""commit, export and push that are killed, interrupted or run out of space: the store is consistent, a destination old or new."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from tests.e2e.images import base, change, check_store, layout, process, run, spec, succeed
from tests.e2e.support import PATIENCE, Launcher, alive, children, sandbox, wait_for
from tests.unit.sandbox.images.registry.docker_registry import running

pytestmark = [pytest.mark.fuse, pytest.mark.userns, pytest.mark.umoci, pytest.mark.once]

#: Changes that take part of a second to compress.
LARGE = "import os; open('/data/random', 'wb').write(os.urandom(6_000_000)); open('/data/zeros', 'wb').write(bytes(9_000_000))"
#: When a command is killed, as shares of the time that it takes undisturbed.
INSTANTS = (0.4, 0.6, 0.75, 0.9, 0.97)


@pytest.fixture
def changed(launcher: Launcher) -> Launcher:
    """Return a launcher with the sandbox "box", which has large changes over an image."""
    image = layout(launcher.directory / "layout", base(launcher.directory / "base.tar"))
    succeed(launcher, "image", "import", f"oci:{image}", "base:1")
    change(launcher, spec("image:base:1"), LARGE)
    return launcher


def seconds_of(launcher: Launcher, *arguments: str) -> float:
    """Return how long `sandbox` with *arguments* takes."""
    before = time.monotonic()
    done = sandbox(launcher, *arguments)
    assert done.status == 0, done.err
    return time.monotonic() - before


def killed_after(launcher: Launcher, seconds: float, *arguments: str) -> int:
    """Run `sandbox` with *arguments*, kill it after *seconds*, and return its exit status when its processes have ended."""
    before = children(os.getpid())
    with process(launcher, *arguments) as started:
        try:
            started.wait(seconds)
        except subprocess.TimeoutExpired:
            started.send_signal(signal.SIGKILL)
        started.communicate()
    # This process adopts those of a command that was killed (tests/support/leaks.py).
    wait_for(
        lambda: not any(alive(pid) for pid in children(os.getpid()) if pid not in before),
        "the end of the processes of a command that was killed",
    )
    return started.returncode


def is_whole(archive: Path) -> bool:
    """Return whether *archive* is a layout as a tar that has all blobs of its image."""
    with tarfile.open(archive) as tar:
        blobs = {
            member.name: tar.extractfile(member).read()  # type: ignore[union-attr]
            for member in tar
            if member.isfile()
        }
    (image,) = json.loads(blobs["index.json"])["manifests"]
    manifest = json.loads(blobs[f"blobs/{image['digest'].replace(':', '/')}"])
    needed = {each["digest"] for each in (image, manifest["config"], *manifest["layers"])}
    return all(
        hashlib.sha256(blobs[f"blobs/{digest.replace(':', '/')}"]).hexdigest() == digest.partition(":")[2]
        for digest in needed
    )


def test_a_commit_that_is_killed_leaves_the_store_as_it_was_or_the_new_image(changed: Launcher) -> None:
    whole = seconds_of(changed, "commit", "box", "first:1")
    old = succeed(changed, "image", "inspect", "first:1")["digest"]
    killed = 0
    for share in INSTANTS:
        status = killed_after(changed, share * whole, "commit", "--comment", str(share), "box", "first:1")
        killed += status < 0
        done = sandbox(changed, "image", "verify")
        assert (done.status, done.out) == (0, ""), done
        assert [one["name"] for one in succeed(changed, "image", "ls")] == ["base:1", "first:1"]
        new = succeed(changed, "image", "inspect", "first:1")["digest"]
        assert new != old or status < 0
        old = new
    assert killed > 0
    check_store(changed)
    blobs = list((changed.state / "images" / "blobs").glob("*/*"))
    assert len(blobs) == 6  # two manifests, two configurations and two layers
    succeed(changed, "commit", "box", "first:1")
    check_store(changed)


def test_an_export_that_is_killed_leaves_the_old_archive_or_the_new_one(
    changed: Launcher, tmp_path: Path
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    target = place / "image.tar"
    whole = seconds_of(changed, "export", "box", f"oci-archive:{target}:1")
    killed = 0
    for share in INSTANTS[1::2]:
        before = target.read_bytes()
        killed += killed_after(changed, share * whole, "export", "box", f"oci-archive:{target}:1") < 0
        assert target.read_bytes() == before or is_whole(target)
        done = sandbox(changed, "image", "verify")
        assert (done.status, done.out) == (0, ""), done
    assert killed > 0
    check_store(changed)
    assert len(list((changed.state / "images" / "blobs").glob("*/*"))) == 3

    succeed(changed, "commit", "box", "made:1")
    layout_place = f"oci:{place}/layout:1"
    whole = seconds_of(changed, "export", "image:made:1", layout_place)
    for share in INSTANTS[1::2]:
        run("rm", "-r", place / "layout")
        killed_after(changed, share * whole, "export", "image:made:1", layout_place)
        succeed(changed, "export", "image:made:1", layout_place)
        run("umoci", "stat", "--json", "--image", f"{place}/layout:1")


@pytest.mark.docker_registry
def test_a_push_that_is_killed_is_repeated(changed: Launcher) -> None:
    made = succeed(changed, "commit", "box", "made:1")["digest"]
    with running(changed.directory) as host:
        conf = changed.directory / "registries.conf"
        conf.write_text(f'[[registry]]\nlocation = "{host}"\ninsecure = true\n')
        changed.environ["CONTAINERS_REGISTRIES_CONF"] = str(conf)
        whole = seconds_of(changed, "push", "made:1", f"docker://{host}/first/made:1")
        for number, share in enumerate(INSTANTS[1::2]):
            target = f"docker://{host}/number-{number}/made:1"
            killed_after(changed, share * whole, "push", "made:1", target)
            assert succeed(changed, "push", "made:1", target)["digest"] == made
        other = Launcher(changed.directory / "other")
        other.directory.mkdir()
        other.environ["CONTAINERS_REGISTRIES_CONF"] = str(conf)
        assert succeed(other, "pull", target)["digest"] == made
    check_store(changed)


@pytest.mark.parametrize("command", ["commit", "export"])
def test_ctrl_c_ends_at_once_and_leaves_nothing(changed: Launcher, tmp_path: Path, command: str) -> None:
    target = tmp_path / "place" / "image.tar"
    target.parent.mkdir()
    arguments = {
        "commit": ("commit", "box", "made:1"),
        "export": ("export", "box", f"docker-archive:{target}:a:1"),
    }[command]
    with process(changed, *arguments) as started:
        partial = changed.state / "images" / "partial"
        end = time.monotonic() + PATIENCE
        while started.poll() is None and not (partial.exists() and any(partial.iterdir())):
            assert time.monotonic() < end
        time.sleep(0.2)
        started.send_signal(signal.SIGINT)
        before = time.monotonic()
        _, err = started.communicate(timeout=PATIENCE)
    assert time.monotonic() - before < 5
    assert started.returncode in (130, -signal.SIGINT), err
    assert "Traceback" not in err
    assert list(partial.iterdir()) == []
    assert list(target.parent.iterdir()) == []
    assert [one["name"] for one in succeed(changed, "image", "ls")] == ["base:1"]
    check_store(changed)


@pytest.mark.root
def test_a_full_disk_is_one_error_and_leaves_store_and_destination_as_they_were(
    changed: Launcher, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    python = f"{shlex.quote(sys.executable)} -m sandbox"
    store = shlex.quote(str(changed.state / "images"))

    def full(script: str, size: str = "4M") -> list[str]:
        done = subprocess.run(
            [
                *("unshare", "--mount", "--propagation", "private", "sh", "-c"),
                f"mount -t tmpfs -o size={size} full {disk}; cd {disk}; {script}",
            ],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
            env=changed.environ,
        )
        assert "Traceback" not in done.stderr
        assert "internal error" not in done.stderr
        assert "no space left" in done.stderr, done.stderr
        assert done.stderr.count("sandbox: ") == 1, done.stderr
        return done.stdout.split()

    inside = f"cp -a {store} images; export SANDBOX_CACHE_DIR={disk}"
    listed = "; ls -A images/partial; "
    verify = f"{listed}{python} image verify && echo verified; {python} image ls --json | grep -c '\"name\"'"
    assert full(f"{inside}; {python} commit box made:1; echo $?{verify}") == ["125", "verified", "1"]
    assert full(f"{inside}; {python} commit --flatten box made:1; echo $?{verify}") == [
        "125",
        "verified",
        "1",
    ]
    succeed(changed, "commit", "box", "made:1")
    for kind in ("oci-archive", "docker-archive"):
        command = f"echo old > image.tar; {python} export image:made:1 {kind}:image.tar:localhost/made:1"
        command = command if kind == "docker-archive" else command.replace("localhost/made:", "")
        assert full(f"{command}; echo $?; cat image.tar; ls -A") == ["125", "old", "image.tar"]
    left = full(
        f"{python} export image:made:1 oci:layout:1; echo $?; find layout -name '.*'; cat layout/index.json"
    )
    assert left == ["125"] or "cat:" in left
    check_store(changed)
