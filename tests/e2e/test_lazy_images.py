"""Images whose layers are fetched while they are read (root.lazy): only what is read, verified, and never a hang."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.images import check_store, run, shown, spec
from tests.e2e.lazy import (
    FIRST,
    HEAD,
    LARGE,
    UPPER,
    Registry,
    base_tar,
    image_of,
    lazy,
    parts,
)
from tests.e2e.support import PATIENCE, Launcher, first_line, sandbox
from tests.e2e.test_registries import another
from tests.support.chunked import (
    ChunkedLayer,
    write_chunked_layout,
    write_estargz,
    write_zstd_chunked,
)
from tests.support.images import tar_of

pytestmark = [pytest.mark.fuse, pytest.mark.userns, pytest.mark.docker_registry, pytest.mark.skopeo]


@pytest.fixture
def registry(launcher: Launcher) -> Iterator[Registry]:
    made = Registry(launcher)
    try:
        yield made
    finally:
        made.end()


# -- what is fetched -----------------------------------------------------------------------------------------


@pytest.mark.twice
@pytest.mark.parametrize("write", [write_zstd_chunked, write_estargz])
def test_a_lazy_image_looks_as_the_unpacked_one(
    launcher: Launcher, registry: Registry, write: Callable[..., ChunkedLayer]
) -> None:
    image, _ = image_of(launcher, registry, write)
    found = shown(launcher, lazy(image))
    assert found[b"large"].size == len(LARGE)
    assert b"deleted" not in found
    assert list(
        (launcher.state / "images" / "blobs").glob("sha256/*")
    )  # of the manifest and the configuration
    assert shown(another(launcher), spec(image, writable="ephemeral")) == found
    check_store(launcher)


@pytest.mark.once
def test_only_the_tables_and_the_chunks_that_are_read_are_fetched(
    launcher: Launcher, registry: Registry
) -> None:
    image, layers = image_of(launcher, registry)
    script = f"ls -lR /data > /dev/null; stat /data/large > /dev/null; {HEAD}; cat /data/small"
    done = launcher.shell(script, lazy(image))
    assert (done.status, done.out) == (0, f"{FIRST}small"), done.err
    served = registry.served()
    for layer in layers:
        assert not set(served) & {layer.table}
    large = next(entry for entry in layers[1].entries if entry["name"] == "data/large")
    # The kernel reads ahead at most 128 KiB.
    assert served[_digest(layers[1])] < len(layers[1].blob) // 4
    assert large["offset"] > 0
    before = registry.served()
    again = launcher.shell(script, lazy(image))
    assert again.out == done.out
    assert registry.served() == before


def _digest(layer: ChunkedLayer) -> str:
    from tests.support.images import digest_of

    return digest_of(layer.blob)


@pytest.mark.once
def test_what_was_read_can_be_read_without_the_registry_and_the_rest_is_an_error(
    launcher: Launcher, registry: Registry
) -> None:
    image, _ = image_of(launcher, registry)
    assert launcher.shell(HEAD, lazy(image)).out == FIRST
    registry.end()
    script = (
        f"{HEAD}; tail -c 10 /data/large; echo status $?; cat /data/small; echo status $?; ls /data/small"
    )
    done = launcher.shell(script, lazy(image))
    assert done.out == f"{FIRST}status 1\nstatus 1\n/data/small\n", done.err
    assert "Input/output error" in done.err
    assert (
        done.err.count("no connection: connection refused; reading what was not fetched fails with EIO") == 1
    )
    check_store(launcher)
    registry.__init__(launcher)  # type: ignore[misc] # the fixture ends it


@pytest.mark.once
def test_a_registry_that_ends_while_a_program_reads_gives_errors_and_other_files_are_served(
    launcher: Launcher, registry: Registry
) -> None:
    image, _ = image_of(launcher, registry)
    script = (
        f"{HEAD}; read line; tail -c 10 /data/large & wait $!; echo status $?; "
        "echo more >> /data/changed; cat /data/changed; echo new > /data/new; cat /data/new"
    )
    with subprocess.Popen(
        launcher.arguments(lazy(image), ["sh", "-c", script]),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=launcher.environ,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == FIRST
            registry.end()
            out, err = process.communicate("\n", timeout=PATIENCE)
        finally:
            process.kill()
    assert out.startswith("status 1\n"), err
    assert out.endswith("new\n")
    assert "Input/output error" in err
    registry.__init__(launcher)  # type: ignore[misc] # the fixture ends it


@pytest.mark.once
def test_a_registry_that_does_not_answer_delays_no_other_request(
    launcher: Launcher, registry: Registry
) -> None:
    """A read waits for a registry that is stopped. Meanwhile files are written, read and listed."""
    image, _ = image_of(launcher, registry)
    script = (
        "cat /data/large > /dev/null & first=$!; for i in 1 2 3 4 5 6; do cat /data/moved/kept > /dev/null & done; sleep 0.2; "
        "for n in 1 2 3 4 5 6 7 8; do dd if=/dev/zero of=/data/n$n bs=64k count=4 conv=fsync 2> /dev/null; cat /data/n$n | wc -c; done; "
        "ls /data > /dev/null; kill -0 $first && echo still waiting; kill %1 %2 %3 %4 %5 %6 %7 2> /dev/null"
    )
    assert launcher.shell("true", lazy(image)).status == 0  # the tables are there
    pid = _pid_of_registry(launcher)
    os.kill(pid, signal.SIGSTOP)
    try:
        with launcher.start(lazy(image), ["bash", "-c", script]) as process:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(9)]
            assert lines == ["262144\n"] * 8 + ["still waiting\n"]
    finally:
        os.kill(pid, signal.SIGCONT)


def _pid_of_registry(launcher: Launcher) -> int:
    config = str(launcher.directory / "config.yml").encode()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if config in path.read_bytes():
                return int(path.parent.name)
        except OSError:
            continue
    raise AssertionError("the registry does not run")


@pytest.mark.once
@pytest.mark.parametrize("write", [write_zstd_chunked, write_estargz])
def test_a_corrupted_chunk_is_an_error_and_is_not_kept(
    launcher: Launcher, registry: Registry, write: Callable[..., ChunkedLayer]
) -> None:
    image, layers = image_of(launcher, registry, write)
    blob = registry.blob(_digest(layers[1]))
    entry = next(entry for entry in layers[1].entries if entry["name"] == "data/small")
    good = blob.read_bytes()
    at = entry["offset"] + 13
    blob.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
    done = launcher.shell(f"cat /data/small; echo status $?; {HEAD}", lazy(image))
    assert done.out == f"status 1\n{FIRST}", done.err
    assert "Input/output error" in done.err
    assert re.search(
        "a chunk (has another digest|is damaged)|content of a chunk has another digest", done.err
    )
    check_store(launcher)
    blob.write_bytes(good)
    assert launcher.shell("cat /data/small", lazy(image)).out == "small"


@pytest.mark.once
def test_a_table_with_another_digest_is_refused_and_nothing_is_kept(
    launcher: Launcher, registry: Registry
) -> None:
    image, layers = image_of(launcher, registry)
    blob = registry.blob(_digest(layers[1]))
    position = next(value for key, value in layers[1].annotations.items() if key.endswith("position"))
    at = int(position.partition(":")[0]) + 20
    good = blob.read_bytes()
    blob.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
    done = launcher.shell("true", lazy(image))
    assert done.status == 125
    assert "the table of contents has the digest" in done.err
    assert parts(launcher) == []
    assert list(launcher.state.glob("images/layers/*/members")) == []
    check_store(launcher)


@pytest.mark.once
def test_a_chunk_that_was_damaged_in_the_store_is_fetched_again(
    launcher: Launcher, registry: Registry
) -> None:
    image, _ = image_of(launcher, registry)
    assert launcher.shell("cat /data/small", lazy(image)).out == "small"
    for data in launcher.state.glob("images/lazy/*/data"):
        content = data.read_bytes()
        data.write_bytes(content.replace(b"small", b"SMALL"))
    assert launcher.shell("cat /data/small", lazy(image)).out == "small"
    check_store(launcher)


# -- processes -----------------------------------------------------------------------------------------------


@contextmanager
def reading(launcher: Launcher, text: str, script: str) -> Iterator[subprocess.Popen[str]]:
    """Start *script*, which prints "ready" and then waits."""
    with subprocess.Popen(
        launcher.arguments(text, ["sh", "-c", script]),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=launcher.environ,
        start_new_session=True,
    ) as process:
        try:
            assert first_line(process) == "ready"
            yield process
        finally:
            process.kill()


def fetchers(process: subprocess.Popen[str]) -> list[int]:
    """Return the pids of the children of *process* that fetch chunks."""
    listed = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(pid) for pid in listed if b"chunked.fetcher" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def has_ended(pid: int) -> bool:
    try:
        return " Z " in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return True


@pytest.mark.once
def test_a_killed_fetcher_gives_errors_for_what_is_missing(launcher: Launcher, registry: Registry) -> None:
    image, _ = image_of(launcher, registry)
    script = f"{HEAD} > /dev/null; echo ready; read line; {HEAD}; tail -c 10 /data/large; echo status $?"
    with reading(launcher, lazy(image), script) as process:
        (pid,) = fetchers(process)
        os.kill(pid, signal.SIGKILL)
        out, err = process.communicate("\n", timeout=PATIENCE)
    assert out == f"{FIRST}status 1\n", err
    assert "the process that fetches layers has ended" in err


@pytest.mark.twice
def test_the_fetcher_ends_with_a_killed_supervisor_and_nothing_is_left(
    launcher: Launcher, registry: Registry
) -> None:
    image, _ = image_of(launcher, registry)
    with reading(launcher, lazy(image), "echo ready; cat /data/large > /dev/null; read line") as process:
        (pid,) = fetchers(process)
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        assert arguments[1:] == [b"-P", b"-m", b"sandbox.images.chunked.fetcher", b""]
        process.kill()
        process.wait(PATIENCE)
        deadline = time.monotonic() + PATIENCE
        while not has_ended(pid):
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert launcher.shell("cat /data/small", lazy(image)).out == "small"
    check_store(launcher)


@pytest.mark.once
def test_the_fetcher_ends_with_the_sandbox(launcher: Launcher, registry: Registry) -> None:
    image, _ = image_of(launcher, registry)
    with reading(launcher, lazy(image), "echo ready; read line") as process:
        (pid,) = fetchers(process)
        process.communicate("\n", timeout=PATIENCE)
        assert process.returncode == 0
    assert has_ended(pid)


@pytest.mark.once
def test_two_sandboxes_at_once_share_what_they_fetch(launcher: Launcher, registry: Registry) -> None:
    image, _ = image_of(launcher, registry)
    script = "echo ready; read line; md5sum < /data/large"
    text = lazy(image)
    with reading(launcher, text, script) as one, reading(launcher, text, script) as two:
        assert one.stdin is not None
        one.stdin.write("\n")
        one.stdin.flush()
        outs = [process.communicate("\n", timeout=PATIENCE)[0] for process in (two, one)]
    import hashlib

    assert outs == [f"{hashlib.md5(LARGE).hexdigest()}  -\n"] * 2
    check_store(launcher)


# -- beside other settings -----------------------------------------------------------------------------------


@pytest.mark.once
def test_files_are_copied_up_and_changes_are_listed(launcher: Launcher, registry: Registry) -> None:
    image, _ = image_of(launcher, registry)
    text = lazy(image, writable="persistent")
    script = "echo more >> /data/small; truncate -s 100 /data/large; mv /data/moved /data/elsewhere; cat /data/small /data/elsewhere/kept"
    done = launcher.shell(script, text)
    assert (done.status, done.out) == (0, "smallmore\nof the second layer"), done.err
    listed = sandbox(launcher, "diff", "box", "--text")
    assert listed.status == 0, listed.err
    assert "+smallmore" in listed.out
    target = launcher.directory / "all.tar"
    assert sandbox(launcher, "export", "box", f"tar:{target}").status == 0
    assert launcher.shell("cat /data/small", text).out == "smallmore\n"
    done = sandbox(launcher, "image", "rm", image.removeprefix("docker://"))
    assert done.status != 0
    assert "in use by layer:box" in done.err


@pytest.mark.once
def test_a_commit_needs_all_of_the_image_and_names_the_command_that_fetches_it(
    launcher: Launcher, registry: Registry
) -> None:
    image, _ = image_of(launcher, registry)
    assert launcher.shell("echo new > /data/new", lazy(image, writable="persistent")).status == 0
    done = sandbox(launcher, "commit", "box", "made:1")
    assert done.status == 125
    assert "was fetched in part alone" in done.err
    assert sandbox(launcher, "commit", "box", "flat:1", "--flatten").status == 0
    (command,) = re.findall(r"fetch the rest first: sandbox (.*)", done.err)
    assert sandbox(launcher, *command.split()).status == 0
    assert sandbox(launcher, "commit", "box", "made:1").status == 0
    found = [
        shown(launcher, spec(f"image:{name}:1", name="look", writable="ephemeral"))
        for name in ("made", "flat")
    ]
    assert found[0].keys() == found[1].keys()
    assert found[0][b"small"] == found[1][b"small"]
    check_store(launcher)


@pytest.mark.once
def test_layers_of_other_formats_are_unpacked_and_those_above_inherit_from_lazy_ones(
    launcher: Launcher, registry: Registry
) -> None:
    bottom = write_zstd_chunked(base_tar(launcher))
    closed = write_zstd_chunked(tar_of({"data/closed/": None, "data/closed/a": b"a"}, mode=0o711))
    inside = tar_of({"data/closed/b": b"b"})
    layout = write_chunked_layout(launcher.directory / "mixed", bottom, closed, inside, UPPER)
    image = registry.push(layout, "mixed")
    found = shown(launcher, lazy(image))
    assert found[b"closed"].mode & 0o777 == 0o711
    assert found == shown(another(launcher), spec(image, writable="ephemeral"))
    assert len(parts(launcher)) == 2
    assert len(list(launcher.state.glob("images/layers/*/tree/data"))) == 2
    told = " ".join(sandbox(launcher, "explain", launcher.write(lazy(image))).out.split())
    assert "2 of its 4 layers are fetched from the registry while they are read" in told
    check_store(launcher)


@pytest.mark.once
def test_without_lazy_the_rest_is_fetched_and_removal_leaves_nothing(
    launcher: Launcher, registry: Registry
) -> None:
    image, layers = image_of(launcher, registry)
    name = image.removeprefix("docker://")
    found = shown(launcher, lazy(image))
    assert len(parts(launcher)) == 2
    refused = launcher.shell("true", spec(f"image:{name}", writable="ephemeral"))
    assert refused.status == 125
    assert "was fetched in part alone" in refused.err
    assert shown(launcher, lazy(f"image:{name}")) == found
    assert shown(launcher, spec(image, writable="ephemeral")) == found
    assert all(
        (launcher.state / "images/blobs" / _digest(layer).replace(":", "/")).exists() for layer in layers
    )
    check_store(launcher)
    assert sandbox(launcher, "image", "rm", name).status == 0
    for left in ("lazy/*", "layers/*/members", "blobs/sha256/*"):
        assert list((launcher.state / "images").glob(left)) == []


@pytest.mark.once
def test_locked_images_are_lazy_too_and_explain_tells_it(launcher: Launcher, registry: Registry) -> None:
    image, _ = image_of(launcher, registry)
    path = launcher.write(lazy(image))
    assert sandbox(launcher, "lock", path).status == 0
    done = launcher.up(lazy(image), ["cat", "/data/small"], options=["--locked"])
    assert (done.status, done.out) == (0, "small"), done.err
    assert len(parts(launcher)) == 2
    facts = json.loads(sandbox(launcher, "explain", "--json", path).out)
    assert "whose layers are fetched from the registry while they are read" in json.dumps(facts)
    assert "can tell the registry something" in json.dumps(facts)
    asked = sandbox(launcher, "check", "--untrusted", path).out
    assert "root.lazy = true" in asked


@pytest.mark.once
@pytest.mark.parametrize(
    ("more", "reason"), [('server = "pyfuse3"\n', "pyfuse3"), ('native = ["/data"]\n', "root.native")]
)
def test_settings_that_do_not_fit_are_refused(launcher: Launcher, more: str, reason: str) -> None:
    done = launcher.shell("true", lazy("docker://127.0.0.1:1/a/b:1", more=more))
    assert done.status == 125
    assert "root.lazy: cannot be used with" in done.err
    assert reason in done.err


@pytest.mark.once
def test_an_image_that_skopeo_made_is_lazy(launcher: Launcher, registry: Registry) -> None:
    layout = write_chunked_layout(launcher.directory / "plain", base_tar(launcher), UPPER)
    image = f"docker://{registry.host}/team/skopeo:1"
    run(
        "skopeo", "--insecure-policy", "copy", "--dest-tls-verify=false", "--dest-compress-format", "zstd:chunked",
        f"oci:{layout}:t", image,
    )  # fmt: skip
    found = shown(launcher, lazy(image))
    assert len(parts(launcher)) == 2
    assert found == shown(another(launcher), spec(f"oci:{layout}:t", writable="ephemeral"))
