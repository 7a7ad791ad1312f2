"""commit, export and push that are killed, interrupted or run out of space: the store is consistent, a destination old or new."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import tarfile
import time
from pathlib import Path

import pytest

from tests.e2e.images import base, change, check_store, layout, process, run, spec, succeed
from tests.e2e.support import PATIENCE, Launcher, alive, children, sandbox, small_disk, wait_for
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


def test_a_full_disk_is_one_error_and_leaves_store_and_destination_as_they_were(launcher: Launcher) -> None:
    image = layout(launcher.directory / "layout", base(launcher.directory / "base.tar"))
    with small_disk(launcher, 500 << 20) as disk:

        def fails(*arguments: str) -> None:
            """Assert that `sandbox` with *arguments* fails on the disk, of which 1 MiB is free."""
            disk.resize(disk.used() + (1 << 20))
            done = sandbox(launcher, *arguments)
            disk.resize(500 << 20)
            assert done.status == 125, done
            assert "Traceback" not in done.err
            assert "internal error" not in done.err
            assert "no space left" in done.err, done.err
            assert done.err.count("sandbox: ") == 1, done.err
            assert disk.files("images/partial") == []
            assert sandbox(launcher, "image", "verify").status == 0

        succeed(launcher, "image", "import", f"oci:{image}", "base:1")
        change(launcher, spec("image:base:1"), LARGE)
        for more in ([], ["--flatten"]):
            fails("commit", *more, "box", "made:1")
            assert [one["name"] for one in succeed(launcher, "image", "ls")] == ["base:1"]
        succeed(launcher, "commit", "box", "made:1")
        disk.run("mkdir", f"{disk.path}/out")
        target = f"{disk.path}/out/image.tar"
        for kind, name in (("oci-archive", "1"), ("docker-archive", "localhost/made:1")):
            disk.run("sh", "-c", 'echo old > "$1"', "sh", target)
            fails("export", "image:made:1", f"{kind}:{target}:{name}")
            assert disk.run("cat", target) == "old\n"
            assert disk.files("out") == ["out/image.tar"]
        fails("export", "image:made:1", f"oci:{disk.path}/out/layout:1")
        assert disk.files("out") == ["out/image.tar"]
        assert sandbox(launcher, "discard", "box").status == 0
