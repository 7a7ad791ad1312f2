"""Images as layers: those of other tools run here with their trees and defaults, and the store keeps what is used."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.images import ROOT, check_store, run, shown, spec, succeed
from tests.e2e.support import PATIENCE, PROBE, PYTHON, Launcher, first_line, sandbox, several_ids
from tests.support.images import Image, digest_of, tar_of, write_layout
from tests.support.podman import Podman
from tests.support.tree import Entry, snapshot
from tests.unit.sandbox.images.tars import HARD_LINK, directory, file, hard_link, header, symlink, tar

pytestmark = [pytest.mark.fuse, pytest.mark.userns]

PLACES = [
    directory(name) for name in (b"proc", b"sys", b"dev", b"usr", b"tmp", b"data", b"opt", b"srv", b"etc")
]
LINKS = [symlink(name, b"usr/" + name) for name in (b"bin", b"sbin", b"lib", b"lib64")]
ACCOUNTS = file(b"etc/passwd", b"root:x:0:0::/:/bin/sh\nwww:x:5:6::/srv:/bin/sh\n")

#: Layers whose union shows each rule about whiteouts, opaque directories and hard links, below /data.
BOTTOM = tar(
    *PLACES,
    *LINKS,
    ACCOUNTS,
    file(b"etc/group", b"root:x:0:\nweb:x:6:\n"),
    directory(b"data/gone"),
    file(b"data/gone/a", b"a"),
    directory(b"data/opaque", mode=0o750),
    file(b"data/opaque/hidden", b"hidden"),
    directory(b"data/kept", mode=0o2711),
    file(b"data/kept/removed", b"removed"),
    file(b"data/kept/one", b"of the bottom", mode=0o640),
    file(b"data/f-then-d", b"file"),
    directory(b"data/d-then-f"),
    file(b"data/d-then-f/in", b"in"),
    file(b"data/linked", b"two names"),
    hard_link(b"data/second", b"data/linked"),
    file(b"data/setuid", b"x", mode=0o4755),
    symlink(b"data/link", b"kept/one"),
    file("data/n\u00e4me".encode() + b"x" * 200, b"long"),
)
MIDDLE = tar(
    file(b"data/.wh.gone"),
    directory(b"data/opaque", mode=0o700),
    file(b"data/opaque/.wh..wh..opq"),
    file(b"data/opaque/own", b"own"),
    file(b"data/kept/.wh.removed"),
    file(b"data/kept/added", b"added"),  # the directory is that of the bottom
    file(b"data/.wh.f-then-d"),
    directory(b"data/f-then-d"),
    file(b"data/f-then-d/in", b"in"),
    *(D_THEN_F := [file(b"data/d-then-f", b"file"), file(b"data/.wh.d-then-f")]),
)
TOP = tar(
    directory(b"data/gone"),
    file(b"data/gone/b", b"b"),
    header(b"data/kept/hard", flag=HARD_LINK, link=b"data/kept/one", mode=0o640),  # to a file of the bottom
    directory(b"data/.w"),
)
SAMPLE = Image(
    layers=(BOTTOM, MIDDLE, TOP),
    config={
        "Entrypoint": [PYTHON, "-c", PROBE],
        "Cmd": ["of the image"],
        "Env": ["PATH=/usr/sbin:/usr/bin", "OF=image", "B=image"],
        "WorkingDir": "/srv",
    },
)


@pytest.fixture
def layout(launcher: Launcher) -> str:
    """Return the layer of the sample image, in a layout."""
    return f"oci:{write_layout(launcher.directory / 'layout', SAMPLE)}:t"


def without_times(tree: dict[bytes, Entry]) -> dict[bytes, Entry]:
    """Return *tree* without what the account or the tool decides: owners of an ordinary user, and the root directory's times."""
    return {
        path: replace(
            entry,
            mtime_ns=None if entry.type == "dir" else entry.mtime_ns,
            uid=entry.uid if ROOT else None,
            gid=entry.gid if ROOT else None,
            xattrs={name: value for name, value in entry.xattrs.items() if name != "user.rootlesscontainers"},
        )
        for path, entry in tree.items()
    }


def unpacked_by_umoci(image: str, tmp_path: Path) -> dict[bytes, Entry]:
    """Return the tree of /data of the image as umoci unpacks it."""
    options = [] if ROOT else ["--rootless"]
    run("umoci", "unpack", *options, "--image", image, tmp_path / "bundle")
    return without_times(snapshot(tmp_path / "bundle/rootfs/data", nlink=True, mtime=True))


@pytest.mark.umoci
@pytest.mark.parametrize("form", ["directory", "tar", "gzip"])
def test_the_tree_of_an_image_is_the_one_that_umoci_unpacks(
    form: str, launcher: Launcher, layout: str, tmp_path: Path
) -> None:
    path = layout.removeprefix("oci:").removesuffix(":t")
    expected = unpacked_by_umoci(f"{path}:t", tmp_path)
    if form != "directory":
        packed = launcher.directory / "packed"
        subprocess.run(["tar", "-C", path, "-cf", packed, "."], check=True)
        if form == "gzip":
            packed.write_bytes(gzip.compress(packed.read_bytes(), 1))
        layout = f"oci:{packed}:t"
    found = without_times(shown(launcher, spec(layout, writable="ephemeral")))
    assert found == expected
    assert found[b"kept/hard"].nlink == found[b"kept/one"].nlink == 2
    assert b"kept/removed" not in found
    check_store(launcher)


@pytest.mark.skopeo
@pytest.mark.parametrize("compressed", [False, True])
def test_an_archive_of_skopeo_shows_the_same_tree(compressed: bool, launcher: Launcher, layout: str) -> None:
    archive = launcher.directory / "image.tar"
    run("skopeo", "--insecure-policy", "copy", layout, f"docker-archive:{archive}:localhost/sample:1")
    if compressed:
        archive.write_bytes(gzip.compress(archive.read_bytes(), 1))
    expected = shown(launcher, spec(layout, writable="ephemeral"))
    for name in ("", ":localhost/sample:1"):
        assert shown(launcher, spec(f"docker-archive:{archive}{name}", writable="ephemeral")) == expected
    check_store(launcher)


@pytest.mark.podman
@pytest.mark.twice
@pytest.mark.parametrize("form", ["docker-archive", "oci-archive"])
def test_an_image_that_podman_saves_shows_the_tree_of_podman(
    form: str, launcher: Launcher, podman: Podman
) -> None:
    # Podman loses an object whose whiteout follows it.
    middle = MIDDLE.replace(b"".join(D_THEN_F), b"".join(D_THEN_F[::-1]))
    layout = (
        f"oci:{write_layout(launcher.directory / 'of-podman', replace(SAMPLE, layers=(BOTTOM, middle, TOP)))}"
    )
    podman("pull", layout)
    image = podman("images", "--quiet").strip()
    podman("tag", image, "localhost/sample:1")
    saved = launcher.directory / "saved"
    podman("save", "--format", form, "--output", saved, "localhost/sample:1")
    layer = f"{'oci' if form == 'oci-archive' else form}:{saved}"
    found = shown(launcher, spec(layer, writable="ephemeral"))
    assert found == shown(launcher, spec(layout, writable="ephemeral"))
    podman("create", "--name", "it", "localhost/sample:1")
    podman("export", "--output", launcher.directory / "tree.tar", "it")
    podman("rm", "it")
    (launcher.directory / "tree").mkdir()
    subprocess.run(
        ["tar", "-C", launcher.directory / "tree", "-xpf", launcher.directory / "tree.tar", "data"],
        check=True,
    )
    expected = without_times(snapshot(launcher.directory / "tree/data", nlink=True))
    assert {path: replace(entry, mtime_ns=None) for path, entry in without_times(found).items()} == expected


@pytest.mark.buildah
@pytest.mark.twice
def test_an_image_that_buildah_builds_runs_with_its_defaults(launcher: Launcher, tmp_path: Path) -> None:
    storage = Path(tempfile.mkdtemp(dir="/var/tmp"))
    environ = {"HOME": str(storage), "XDG_RUNTIME_DIR": str(storage)}
    words = ("buildah", "--root", storage / "root", "--runroot", storage / "run", "--storage-driver", "vfs")

    def buildah(*arguments: str | Path) -> str:
        return run(*words, *arguments, env=environ).strip()

    try:
        container = buildah("from", "scratch")
        (tmp_path / "bottom.tar").write_bytes(BOTTOM)
        buildah("add", container, tmp_path / "bottom.tar", "/")
        settings = ("--cmd", "/bin/sh -c id", "--env", "OF=buildah", "--workingdir", "/not/there")
        buildah("config", *settings, "--user", "www", container)
        buildah("commit", container, f"oci:{launcher.directory}/layout:t")
    finally:
        run("buildah", *words[1:], "rm", "--all", env=environ, ok=False)
        run("buildah", "unshare", "rm", "-rf", storage, env=environ)
    spec_ = spec(f"oci:{launcher.directory}/layout:t", writable="ephemeral")
    done = launcher.up(spec_, ["sh", "-c", "echo $OF; pwd; ls -ld ."])
    assert done.status == 0, done.err
    assert done.out.splitlines()[:2] == ["buildah", "/not/there"]
    assert launcher.up(spec_).out.startswith("uid=5(www) gid=6(web)")


def facts(launcher: Launcher, text: str, **others: Any) -> dict[str, Any]:
    """Return the facts that the probe of the sample image prints."""
    return launcher.up(text, **others).facts()


def test_the_defaults_of_an_image_are_in_effect_until_the_file_replaces_them(
    launcher: Launcher, layout: str
) -> None:
    found = facts(launcher, spec(layout, writable="ephemeral"))
    assert (found["cwd"], found["env"]["OF"], found["env"]["PATH"]) == ("/srv", "image", "/usr/sbin:/usr/bin")
    process = '[process]\ncwd = "/data"\nargs = ["mine"]\nenv = { OF = "file" }\n'
    found = facts(launcher, spec(layout, writable="ephemeral") + process)
    assert (found["cwd"], found["env"]["OF"], found["env"]["B"]) == ("/data", "file", "image")
    assert launcher.up(spec(layout), ["sh", "-c", "echo $OF"]).out == "image\n"
    replaced = spec(layout) + '[process]\ncommand = ["sh", "-c", "echo $0", "mine"]\n'
    assert launcher.up(replaced).out == "mine\n"


@several_ids
def test_the_user_of_an_image_is_found_in_its_own_accounts(launcher: Launcher) -> None:
    image = Image(layers=(BOTTOM,), config={"User": "www", "Cmd": ["sh", "-c", "id -u; id -g; id -G"]})
    layer = f"oci:{write_layout(launcher.directory / 'layout', image)}"
    assert launcher.up(spec(layer, writable="ephemeral")).out == "5\n6\n6\n"
    own = spec(layer, writable="ephemeral") + "[process]\nuser = 0\n"
    assert launcher.up(own).out.splitlines()[0] == "0"


def test_explain_names_the_image_whose_defaults_are_in_effect(launcher: Launcher, layout: str) -> None:
    text = spec(layout, writable="ephemeral") + '[process]\ncwd = "/data"\n'
    file_ = launcher.write(text)
    assert launcher.up(text).status == 0
    report = succeed(launcher, "explain", "--all", file_)
    origins: dict[str, Any] = {}

    def collect(value: Any) -> None:
        if isinstance(value, dict):
            if isinstance(value.get("origin"), dict) and "label" in value:
                origins[value["label"]] = value["origin"]
            for inner in value.values():
                collect(inner)
        elif isinstance(value, list):
            for inner in value:
                collect(inner)

    collect(report)
    assert (origins["command"]["kind"], origins["command"]["reason"]) == ("image", layout)
    assert (origins["OF"]["kind"], origins["OF"]["reason"]) == ("image", layout)
    assert origins["directory"]["kind"] == "file"
    done = sandbox(launcher, "explain", file_)
    assert done.status == 0
    assert f"[image{layout}]" in "".join(done.out.split())  # a long name is wrapped


def test_images_directories_and_archives_are_mixed_and_the_topmost_image_gives_the_defaults(
    launcher: Launcher, layout: str
) -> None:
    top = Image(
        layers=(tar(file(b"data/kept/one", b"of the top"), file(b"data/.wh.link")),),
        config={"Cmd": ["sh", "-c", "cat /data/kept/one /data/dir /data/tar; ls /data/link; echo $OF$TOP"]},
    )
    write_layout(launcher.directory / "top", replace(top, config={**top.config, "Env": ["TOP=top"]}))
    (launcher.directory / "dir/data").mkdir(parents=True)
    for name in ("dir", "tar", "kept/one"):
        path = launcher.directory / "dir/data" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"{name} of the directory\n")
    (launcher.directory / "it.tar").write_bytes(tar_of({"data/tar": b"of the archive\n"}))
    text = spec(
        layout,
        f"dir:{launcher.directory}/dir",
        f"tar:{launcher.directory}/it.tar",
        f"oci:{launcher.directory}/top",
        writable="ephemeral",
    )
    done = launcher.up(text)
    assert done.out == "of the topdir of the directory\nof the archive\ntop\n"
    assert "/data/link" in done.err


def test_another_id_map_shows_the_same_files_and_both_are_removed_with_the_image(
    launcher: Launcher, layout: str
) -> None:
    expected = shown(launcher, spec(layout, writable="ephemeral"))
    found = shown(launcher, spec(layout, writable="ephemeral") + '[ids]\nmap = "single"\n')
    plain = {path: replace(entry, uid=None, gid=None) for path, entry in found.items()}
    assert plain == {path: replace(entry, uid=None, gid=None) for path, entry in expected.items()}
    layers = os.listdir(launcher.state / "images/layers")
    assert len({name.partition("-")[0] for name in layers}) == 3
    removed = succeed(launcher, "image", "rm", "--all")
    assert removed["removed"] == [layout]
    assert len(removed["layers"]) == len(layers)
    assert os.listdir(launcher.state / "images/layers") == []


@pytest.mark.parametrize("owner", [(0, 0), (5, 6)])
def test_all_images_can_be_removed_also_with_files_of_other_ids(
    owner: tuple[int, int], launcher: Launcher
) -> None:
    closed = [
        directory(b"closed", mode=0o700, uid=owner[0], gid=owner[1]),
        file(b"closed/f", b"x", mode=0o600, uid=owner[0], gid=owner[1]),
    ]
    image = Image(layers=(tar(*closed),))
    write_layout(launcher.directory / "layout", image)
    succeed(launcher, "image", "import", f"oci:{launcher.directory}/layout", "it:1")
    assert len(os.listdir(launcher.state / "images/layers")) == 1
    succeed(launcher, "image", "rm", "--all")
    for part in ("layers", "blobs/sha256", "partial", "manifests"):
        assert os.listdir(launcher.state / "images" / part) == []


def test_an_image_stays_while_a_sandbox_runs_over_it(launcher: Launcher, layout: str) -> None:
    succeed(launcher, "image", "import", layout, "it:1")
    with launcher.start(
        spec("image:it:1", writable="ephemeral"), ["sh", "-c", "echo go; sleep 1000"]
    ) as supervisor:
        assert first_line(supervisor) == "go"
        (run_id,) = launcher.runs()
        for words in (("image", "rm", "it:1"), ("rm", "image:it:1")):
            done = sandbox(launcher, *words)
            assert done.status == 125
            assert f"image it:1 is in use by the running sandbox {run_id}" in done.err
        assert succeed(launcher, "image", "rm", "--all")["removed"] == []
        assert succeed(launcher, "image", "prune", "--all")["layers"] == []
        supervisor.terminate()
        assert supervisor.wait(PATIENCE) == 128 + 15
    assert len(succeed(launcher, "image", "rm", "it:1")["layers"]) == 3


def test_an_image_stays_while_a_persistent_layer_is_over_it(launcher: Launcher, layout: str) -> None:
    succeed(launcher, "image", "import", layout, "it:1")
    text = spec("image:it:1")
    assert launcher.up(text, ["sh", "-c", "echo x > /data/new; rm /data/linked"]).status == 0
    assert launcher.up(text, ["cat", "/data/new"]).out == "x\n"
    changes = {(row["kind"], row["path"]) for row in succeed(launcher, "diff", "box")["changes"]}
    assert {("A", "/data/new"), ("D", "/data/linked")} <= changes
    done = sandbox(launcher, "image", "rm", "it:1")
    assert done.status == 125
    assert "image it:1 is in use by layer:box" in done.err
    # Another image of that name is not the one that the layer is over.
    write_layout(launcher.directory / "other", Image(layers=(BOTTOM,)))
    succeed(launcher, "image", "import", f"oci:{launcher.directory}/other", "it:1")
    succeed(launcher, "image", "prune")
    refused = launcher.up(text, ["true"])
    assert refused.status == 125
    assert "layers" in refused.err
    succeed(launcher, "image", "import", layout, "it:1")
    assert launcher.up(text, ["cat", "/data/new"]).out == "x\n"
    assert sandbox(launcher, "rm", "layer:box").status == 0
    assert len(succeed(launcher, "image", "rm", "it:1")["layers"]) == 3


def test_an_image_stays_while_kept_changes_are_over_it(launcher: Launcher, layout: str) -> None:
    text = spec(layout, writable="ephemeral")
    done = launcher.up(text, ["touch", "/data/new"], options=["--keep-changes"])
    assert done.status == 0
    shutil.rmtree(launcher.directory / "layout")
    (identity,) = os.listdir(launcher.state / "changes")
    done = sandbox(launcher, "image", "rm", layout)
    assert done.status == 125
    assert f"is in use by changes:{identity}" in done.err
    assert succeed(launcher, "image", "prune")["removed"] == []
    assert ("A", "/data/new") in {
        (row["kind"], row["path"]) for row in succeed(launcher, "diff", identity)["changes"]
    }
    assert sandbox(launcher, "rm", f"changes:{identity}").status == 0
    # Its file is gone, so nothing can use it any more.
    assert succeed(launcher, "image", "prune")["removed"] == [layout]
    assert os.listdir(launcher.state / "images/layers") == []


NOT_FOR_A_START = (
    "sandbox.images.tar",
    "sandbox.images.unpack",
    "sandbox.images.importing",
    "sandbox.images.transports",
    "sandbox.images.oci",
    "sandbox.images.blobs",
    "sandbox.images.collection",
    "sandbox.images.registry",
)


def imported_by(launcher: Launcher, text: str) -> set[str]:
    """Return the names of the modules that a start of *text* imports."""
    arguments = launcher.arguments(text, ["true"])
    done = subprocess.run(
        [arguments[0], "-X", "importtime", *arguments[1:]],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
        env=launcher.environ,
    )
    lines = (line.split("|") for line in done.stderr.splitlines() if line.startswith("import time:"))
    return {parts[2].strip() for parts in lines if len(parts) == 3}


def test_a_start_of_an_unpacked_image_imports_no_code_that_reads_images(
    launcher: Launcher, layout: str
) -> None:
    text = spec(layout, writable="ephemeral")
    assert launcher.up(text, ["true"]).status == 0
    found = imported_by(launcher, text)
    assert "sandbox.images.resolve" in found
    assert [name for name in NOT_FOR_A_START if name in found] == []
    plain = imported_by(launcher, spec("dir:/", writable="ephemeral"))
    new = (*NOT_FOR_A_START, "sandbox.images.resolve", "sandbox.images.stored_images", "sandbox.plan.images")
    assert [name for name in new if name in plain] == []


@pytest.mark.parametrize("kind", ["oci", "docker-archive", "image"])
def test_the_verbs_on_files_accept_images(kind: str, launcher: Launcher, layout: str) -> None:
    layer = {"oci": layout, "docker-archive": "docker-archive:./it.tar:a:1", "image": "image:it:1"}[kind]
    text = spec(layer, writable="ephemeral")
    if kind != "docker-archive":
        succeed(launcher, "image", "import", layout, "it:1")
        assert launcher.up(text, ["true"]).status == 0
    file_ = launcher.write(text)
    assert sandbox(launcher, "fmt", file_).status == 0
    config = sandbox(launcher, "config", file_)
    assert config.status == 0
    assert f'"{layer.replace("./", str(launcher.directory) + "/")}"' in config.out
    assert sandbox(launcher, "check", file_).status == 0
    checked = sandbox(launcher, "check", "--here", file_)
    if kind == "docker-archive":
        assert checked.status == 1
        assert "it.tar" in checked.out + checked.err
        return
    assert checked.status == 0, checked.err
    doctor = json.loads(sandbox(launcher, "doctor", "--json", file_).out)
    (judged,) = [one for one in doctor["checks"] if one["id"] == "file"]
    assert judged["level"] in ("ok", "warning"), judged
    assert sandbox(launcher, "add", file_, "root.layers", "image:other:2").status == 0
    assert '"image:other:2"' in Path(file_).read_text()
    missing = sandbox(launcher, "check", "--here", file_)
    assert missing.status != 0
    assert "image:other:2 is not in the image store" in missing.err + missing.out


def test_a_second_start_imports_nothing_and_a_changed_layout_is_imported_again(
    launcher: Launcher, layout: str
) -> None:
    text = spec(layout, writable="ephemeral")
    assert launcher.up(text, ["true"]).status == 0
    names = (launcher.state / "images/images.json").stat()
    blob = launcher.state / "images/blobs/sha256" / digest_of(SAMPLE.blobs()[0])[7:]
    blob.unlink()  # a start does not need it
    assert launcher.up(text, ["true"]).status == 0
    assert (launcher.state / "images/images.json").stat() == names
    changed = replace(SAMPLE, config={**SAMPLE.config, "Env": ["OF=changed"]})
    write_layout(launcher.directory / "layout", changed)
    assert launcher.up(text, ["sh", "-c", "echo $OF"]).out == "changed\n"
    check_store(launcher)
