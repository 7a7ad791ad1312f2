"""Imports that are killed, interrupted, run at once, or find damaged images or a full disk: the store stays consistent."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from sandbox.images.compression import zstd_module
from sandbox.images.verification import verify
from tests.e2e.images import check_store, process, spec, succeed
from tests.e2e.support import PATIENCE, Launcher, sandbox, small_disk, wait_for
from tests.e2e.test_faults import SHARE
from tests.support.images import (
    INDEX,
    LAYER,
    Image,
    add_blob,
    describe,
    digest_of,
    docker_files,
    tar_of,
    write_index,
    write_layout,
)
from tests.support.tree import snapshot
from tests.unit.sandbox.images.tars import directory, file, header, symlink, tar

pytestmark = [pytest.mark.fuse, pytest.mark.userns]

PLACES = [directory(name) for name in (b"proc", b"sys", b"dev", b"usr", b"tmp")]
LINKS = [symlink(name, b"usr/" + name) for name in (b"bin", b"sbin", b"lib", b"lib64")]
#: Layers that take some time each.
SAMPLE = Image(
    layers=[
        tar(*PLACES, *LINKS, *(file(b"%d-%d" % (layer, number), os.urandom(9000)) for number in range(300)))
        for layer in range(3)
    ],
    config={"Cmd": ["true"]},
)
PARTS = {"blobs": "blobs/sha256", "partial": "partial", "records": "manifests", "layers": "layers"}


def parts(launcher: Launcher) -> dict[str, list[str]]:
    """Return what is in the image directory, without locks."""
    images = launcher.state / "images"
    return {
        what: sorted(os.listdir(images / place)) if (images / place).is_dir() else []
        for what, place in PARTS.items()
    }


NOTHING: dict[str, list[str]] = {what: [] for what in PARTS}


@pytest.fixture
def layout(launcher: Launcher) -> str:
    return f"oci:{write_layout(launcher.directory / 'layout', SAMPLE)}:t"


def check_trees(launcher: Launcher) -> None:
    """Assert that every unpacked layer is complete."""
    base = launcher.state / "images/layers"
    for name in os.listdir(base) if base.is_dir() else ():
        if name.startswith(".") or name.endswith((".new", ".importing")):
            continue
        assert len(list((base / name / "tree").iterdir())) == 300 + len(PLACES) + len(LINKS), name


def kill_after(launcher: Launcher, seconds: float, *arguments: str) -> None:
    """Run `sandbox` with *arguments*, and kill it after *seconds*."""
    with process(launcher, *arguments) as started:
        time.sleep(seconds)
        started.kill()
        started.wait(PATIENCE)


def test_a_killed_import_leaves_a_consistent_store_that_prune_empties(
    launcher: Launcher, layout: str
) -> None:
    words = ("image", "import", layout, "it:1")
    began = time.monotonic()
    succeed(launcher, *words)
    whole = time.monotonic() - began
    succeed(launcher, "image", "prune", "--all")
    assert parts(launcher) == NOTHING
    seen = set()
    for step in range(6):
        kill_after(launcher, whole * (step + SHARE / 3 + 0.5) / 6, *words)
        found = parts(launcher)
        seen.add((len(found["blobs"]), bool(found["partial"]), bool(found["layers"]), len(found["records"])))
        assert verify(str(launcher.state / "images")) == []
        check_trees(launcher)
        if step % 2:
            succeed(launcher, *words)
            check_trees(launcher)
            check_store(launcher)
        succeed(launcher, "image", "prune", "--all")
        assert parts(launcher) == NOTHING
    assert len(seen) > 1, seen


def test_a_killed_first_start_leaves_a_store_that_the_next_start_uses(
    launcher: Launcher, layout: str
) -> None:
    text = launcher.write(spec(layout, writable="ephemeral"))
    began = time.monotonic()
    assert launcher.up(text).status == 0
    whole = time.monotonic() - began
    succeed(launcher, "image", "prune", "--all")
    for step in range(4):
        kill_after(launcher, whole * (step + SHARE / 3 + 0.5) / 4, "up", text)
        assert verify(str(launcher.state / "images")) == []
        check_trees(launcher)
        if step % 2:
            done = launcher.up(text)
            assert (done.status, done.err) == (0, "")
            check_trees(launcher)
        succeed(launcher, "prune")
        succeed(launcher, "image", "prune", "--all")
        assert parts(launcher) == NOTHING
    assert launcher.runs() == []


@pytest.mark.once
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("verb", ["import", "up"])
def test_a_signal_ends_an_import_quickly(number: int, verb: str, launcher: Launcher) -> None:
    """A blob of 8 GiB, which is a hole, takes many seconds to be read and written."""
    size = 8 << 30
    digest = "sha256:" + "0" * 64
    image = replace(
        SAMPLE, layers=(b"",), manifest={"layers": [{"mediaType": LAYER, "digest": digest, "size": size}]}
    )
    layout = write_layout(launcher.directory / "layout", image)
    with open(layout / "blobs/sha256" / ("0" * 64), "wb") as blob:
        blob.truncate(size)
    text = launcher.write(spec(f"oci:{layout}", writable="ephemeral"))
    words = ("image", "import", f"oci:{layout}", "it:1") if verb == "import" else ("up", text)
    partial = launcher.state / "images/partial" / f"sha256-{'0' * 64}"
    with process(launcher, *words) as started:
        wait_for(lambda: partial.exists() and partial.stat().st_size > 1 << 20, "the copy")
        began = time.monotonic()
        started.send_signal(number)
        status = started.wait(PATIENCE)
        assert time.monotonic() - began < 5
        assert status in (128 + number, -number)
    succeed(launcher, "image", "prune")
    assert parts(launcher) == NOTHING
    assert launcher.runs() == []


def test_imports_of_one_image_at_once_all_succeed(launcher: Launcher, layout: str) -> None:
    with (
        process(launcher, "image", "import", layout, "a:1") as one,
        process(launcher, "image", "import", layout, "b:1") as two,
        process(launcher, "up", launcher.write(spec(layout, writable="ephemeral"))) as three,
    ):
        for started in (one, two, three):
            assert started.wait(PATIENCE) == 0, started.stderr and started.stderr.read()
    assert [len(found) for found in parts(launcher).values()] == [5, 0, 1, 3]
    check_trees(launcher)
    check_store(launcher)


def test_imports_and_removals_at_once_leave_a_consistent_store(launcher: Launcher, layout: str) -> None:
    """Removals wait for imports. A start may find that its image has just been removed, which is one error."""
    text = launcher.write(spec(layout, writable="ephemeral"))
    end = time.monotonic() + 4
    failures: list[str] = []

    def repeat(allowed: tuple[str, ...], *words: str) -> None:
        while time.monotonic() < end:
            done = sandbox(launcher, *words)
            if done.status != 0 and not any(one in done.err for one in allowed):
                failures.append(f"{words}: {done.status}: {done.err}")

    gone = ("the image store has no blob", "the image store has no image")
    threads = [
        threading.Thread(target=repeat, args=words)
        for words in (
            ((), "image", "import", layout, "a:1"),
            (gone, "up", text),
            ((), "image", "prune"),
            (("is in use by", "has no image"), "image", "rm", "--all"),
        )
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert failures == []
    check_store(launcher)
    check_trees(launcher)
    assert launcher.up(text).status == 0
    succeed(launcher, "image", "rm", "--all")
    assert parts(launcher) == NOTHING


@pytest.mark.twice
@pytest.mark.parametrize("kibibytes", [16, 100, 2500, 7000, 11000, 14000])
def test_a_full_disk_is_one_error_and_leaves_nothing(kibibytes: int, launcher: Launcher, layout: str) -> None:
    with small_disk(launcher, kibibytes << 10) as disk:
        done = sandbox(launcher, "image", "import", layout, "it:1")
        left = [disk.files(f"images/{name}") for name in ("blobs", "partial", "manifests", "layers")]
        disk.resize(500 << 20)
        succeed(launcher, "image", "import", layout, "it:1")
        assert [one["name"] for one in succeed(launcher, "image", "ls")] == ["it:1"]
    assert left == [[], [], [], []]
    assert (done.status, done.out) == (125, "")
    assert done.err.count("sandbox: ") == 1, done.err
    assert "no space left on device" in done.err
    assert "SANDBOX_CACHE_DIR" in done.err


@dataclass(frozen=True)
class Measured:
    status: int
    out: str
    err: str
    seconds: float
    mebibytes: int


def measure(launcher: Launcher, *arguments: str) -> Measured:
    """Run `sandbox` with *arguments*; return its output, and the time and the memory that it and its children took."""
    with process(launcher, *arguments) as started:
        assert started.stdout is not None
        assert started.stderr is not None
        began = time.monotonic()
        out, err = started.stdout.read(), started.stderr.read()
        _, status, usage = os.wait4(started.pid, 0)
        started.returncode = os.waitstatus_to_exitcode(status)
    return Measured(started.returncode, out, err, time.monotonic() - began, usage.ru_maxrss >> 10)


def _layer(**fields: object) -> Image:
    content = SAMPLE.blobs()[0]
    return replace(
        SAMPLE,
        layers=SAMPLE.layers[:1],
        manifest={"layers": [{**describe(LAYER + "+gzip", content), **fields}]},
    )


def _of(image: Image) -> Callable[[Path], str]:
    return lambda path: f"oci:{write_layout(path, image)}:t"


def _blob(change: Callable[[Path], object]) -> Callable[[Path], str]:
    """Return a function that writes a layout whose first layer *change* has changed."""

    def write(path: Path) -> str:
        layout = write_layout(path, SAMPLE)
        change(layout / "blobs/sha256" / digest_of(SAMPLE.blobs()[0])[7:])
        return f"oci:{layout}:t"

    return write


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _link(path: Path) -> None:
    path.unlink()
    path.symlink_to("/etc/hostname")


def _itself(path: Path) -> str:
    index = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [describe(INDEX, b"")]}).encode()
    content = index.replace(digest_of(b"").encode(), digest_of(index).encode())
    add_blob(path, index).write_bytes(content)
    write_index(path, [{**describe(INDEX, content), "digest": digest_of(index)}])
    return f"oci:{path}"


def _nested(path: Path) -> str:
    write_layout(path, SAMPLE)
    (path / "index.json").write_bytes(b"[" * 200_000 + b"]" * 200_000)
    return f"oci:{path}:t"


def _docker_out(path: Path) -> str:
    path.mkdir()
    for name, content in docker_files(SAMPLE).items():
        assert isinstance(content, bytes)
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_bytes(content)
    (entry,) = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps([{**entry, "Config": "../../../../etc/passwd"}]))
    return f"docker-archive:{path}"


def _bomb(path: Path) -> str:
    """Two GiB of zeros in one file of a layer, compressed to some kilobytes."""
    size = 2 << 30
    compressor = zstd_module("it").ZstdCompressor(level=1)
    pieces = [compressor.compress(header(b"zeros", size=size))]
    diff_id = hashlib.sha256(header(b"zeros", size=size))
    zeros = bytes(16 << 20)
    for _ in range(size // len(zeros)):
        pieces.append(compressor.compress(zeros))
        diff_id.update(zeros)
    content = b"".join([*pieces, compressor.flush()])
    image = replace(
        SAMPLE,
        layers=(b"",),
        diff_ids=("sha256:" + diff_id.hexdigest(),),
        manifest={"layers": [describe(LAYER + "+zstd", content)]},
    )
    add_blob(path, content)
    return f"oci:{write_layout(path, image)}:t"


def _many_layers(path: Path) -> str:
    """A manifest of 20,000 layers, all the same."""
    layer = tar_of({"f": b""})
    image = replace(
        SAMPLE,
        layers=(layer,),
        diff_ids=(digest_of(layer),) * 20_000,
        manifest={"layers": [describe(LAYER, layer)] * 20_000},
    )
    add_blob(path, layer)
    return f"oci:{write_layout(path, image)}:t"


HOSTILE: dict[str, tuple[Callable[[Path], str], str]] = {
    "another digest": (_blob(lambda path: path.write_bytes(bytes(path.stat().st_size))), "has the digest"),
    "truncated": (_blob(lambda path: os.truncate(path, 100)), "has 100 bytes instead of"),
    "missing": (_blob(Path.unlink), "is missing"),
    "fifo": (_blob(_fifo), "is not a regular file"),
    "link": (_blob(_link), "is a symbolic link"),
    "another size": (_of(_layer(size=7)), "bytes instead of 7"),
    "a digest that is a path": (_of(_layer(digest="sha256:../../../../etc/passwd")), "digest"),
    "another diff id": (_of(replace(SAMPLE, diff_ids=(digest_of(b""),) * 3)), "its content has the diff id"),
    "no archive": (_of(replace(SAMPLE, layers=(b"no archive" * 999,))), "layer: sha256:"),
    "a member outside": (_of(replace(SAMPLE, layers=(tar(file(b"../../out", b"x")),))), "../../out"),
    "a whiteout of nothing": (_of(replace(SAMPLE, layers=(tar(file(b".wh.")),))), ".wh."),
    "nested deeply": (_nested, "JSON nested more than 64 deep"),
    "an index of itself": (_itself, "sha256:"),
    "a path that leads out": (_docker_out, "leads out of it"),
    "a bomb": (_bomb, "as those of a decompression bomb do"),
    "many layers": (_many_layers, "layers"),
}


#: A start imports in the same way, and shows the error at a place in the file.
STARTED = ("another digest", "another diff id", "a member outside", "a path that leads out", "many layers")


@pytest.mark.once
@pytest.mark.parametrize(
    ("verb", "case"), [*(("import", case) for case in HOSTILE), *(("up", case) for case in STARTED)]
)
def test_a_damaged_or_hostile_image_is_one_error_soon_and_leaves_nothing(
    verb: str, case: str, launcher: Launcher
) -> None:
    make, message = HOSTILE[case]
    source = make(launcher.directory / "source")
    before = snapshot(launcher.directory / "source", mtime=True)
    text = launcher.write(spec(source, writable="ephemeral"))
    done = measure(launcher, *(("image", "import", source, "it:1") if verb == "import" else ("up", text)))
    assert (done.status, done.out) == (125, ""), done.err
    assert message in done.err
    assert "Traceback" not in done.err
    assert "internal error" not in done.err
    assert verb == "up" or "hint: " in done.err
    assert (done.err.count("sandbox: ") if verb == "import" else done.err.count(": root.layers[0]: ")) == 1
    assert str(launcher.directory / "source") in done.err
    assert done.seconds < 20
    assert done.mebibytes < 300
    assert parts(launcher) == NOTHING
    assert sandbox(launcher, "image", "ls").out == ""
    assert snapshot(launcher.directory / "source", mtime=True) == before
    assert launcher.runs() == []
