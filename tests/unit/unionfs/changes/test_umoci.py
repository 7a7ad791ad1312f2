"""Layers as part of an image of the Open Container Initiative, unpacked by umoci.

umoci writes holes as zeros, and leaves out attributes with an empty value: Go's archive/tar takes an empty pax record for none.
It does not decode the names of attributes with "=". As an ordinary user (``--rootless``) it makes no devices and changes no
owners.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from tests.unit.unionfs.changes.archives import (
    LOWER,
    differences,
    facts_on_disk,
    links_in,
    links_on_disk,
    without_marks,
    without_sockets,
    written,
)
from tests.unit.unionfs.changes.test_layer_histories import SHORT, UnpackedHistories, comparable
from tests.unit.unionfs.changes.trees import Facts, shown_by
from tests.unit.unionfs.conftest import MakeUnion
from tests.unit.unionfs.operations import FORMS
from tests.unit.unionfs.support import Union

pytestmark = pytest.mark.umoci

ROOT = os.geteuid() == 0
_TYPE = "application/vnd.oci.image."


def packed(tree: Path) -> bytes:
    """Return *tree* as a layer, written by GNU tar."""
    command = [
        "tar",
        "--create",
        "--format=pax",
        "--sort=name",
        "--xattrs",
        "--xattrs-include=*",
        "--numeric-owner",
    ]
    done = subprocess.run(
        [*command, "--warning=no-file-ignored", "--directory", tree, "."], capture_output=True, check=True
    )
    return done.stdout


class Image:
    """A directory in the OCI image layout (image-spec, image-layout.md) with one image."""

    def __init__(self, path: Path, layers: list[bytes]) -> None:
        """Write the image of *layers*, bottom first, to *path*, which is made."""
        self.path = path
        (path / "blobs" / "sha256").mkdir(parents=True)
        (path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        config = {
            "architecture": "amd64",
            "os": "linux",
            "config": {},
            "rootfs": {
                "type": "layers",
                "diff_ids": ["sha256:" + hashlib.sha256(layer).hexdigest() for layer in layers],
            },
        }
        manifest = {
            "schemaVersion": 2,
            "config": self._blob("config.v1+json", json.dumps(config).encode()),
            "layers": [self._blob("layer.v1.tar", layer) for layer in layers],
        }
        described = self._blob("manifest.v1+json", json.dumps(manifest).encode())
        described["annotations"] = {"org.opencontainers.image.ref.name": "it"}
        (path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [described]}))

    def _blob(self, kind: str, data: bytes) -> dict[str, object]:
        digest = hashlib.sha256(data).hexdigest()
        (self.path / "blobs" / "sha256" / digest).write_bytes(data)
        return {"mediaType": _TYPE + kind, "digest": f"sha256:{digest}", "size": len(data)}

    def unpack(self, bundle: Path) -> Path:
        """Unpack the image; return the directory of its root file system."""
        rootless = [] if ROOT else ["--rootless"]
        done = subprocess.run(
            ["umoci", "unpack", *rootless, "--image", f"{self.path}:it", bundle],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return bundle / "rootfs"


def as_umoci_can(tree: dict[bytes, Facts]) -> dict[bytes, Facts]:
    """Return *tree* without attributes that are umoci's own, or that it leaves out."""
    return {
        path: facts._replace(
            xattrs=tuple((n, v) for n, v in facts.xattrs if v and n != "user.rootlesscontainers")
        )
        for path, facts in without_marks(without_sockets(tree)).items()
    }


def changed(union: Union) -> None:
    """Change *union* in every way."""
    union.chmod("big", 0o640)
    union.write("h1", b"THREE")
    union.rename("d", "moved")
    union.unlink("moved/b")
    union.unlink("b")
    union.mkdir("d")
    union.create("d/in", b"in place of the moved one")
    for path in ("e/a", "e/in/b"):
        union.unlink(path)
    union.rmdir("e/in")
    union.rmdir("e")
    union.create("e", b"in place of a directory")
    union.unlink("a")
    union.mkdir("a")
    union.create("a/in", b"in place of a file")
    union.create(os.fsdecode(b"\xff\n"), b"strange")
    union.create("l" * 200, b"long")
    union.setxattr("", "user.of", b"the root\0\n=")
    union.link("s", "again")
    union.mknod("fifo", stat.S_IFIFO | 0o600)
    union.mknod("sock", stat.S_IFSOCK | 0o755)
    union.create("holes", b"x")
    union.truncate("holes", 1 << 20)
    union.utime("holes", 1_234_567_890)


@pytest.mark.parametrize("form", sorted(FORMS))
def test_umoci_unpacks_what_the_union_shows(make_union: MakeUnion, tmp_path: Path, form: str) -> None:
    union = make_union(LOWER, form=FORMS[form])
    changed(union)
    if ROOT:
        union.chown("moved/a", 1000, 4_000_000_000)
        union.mknod("null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        union.setxattr(
            "holes", "security.capability", bytes.fromhex("0100000200040000000000000000000000000000")
        )
    image = Image(tmp_path / "image", [packed(union.lowers[0]), written(union, "layer")])
    rootfs = image.unpack(tmp_path / "bundle")
    shown = as_umoci_can(shown_by(union))
    assert differences(shown, as_umoci_can(facts_on_disk(rootfs))) == {}
    assert links_on_disk(rootfs) == links_in(union, shown)


def test_umoci_deletes_a_name_whose_whiteout_no_file_system_can_hold(
    make_union: MakeUnion, tmp_path: Path
) -> None:
    union = make_union({"n" * 255: b"", "keep": b""}, form=FORMS["overlay"])
    union.unlink("n" * 255)
    image = Image(tmp_path / "image", [packed(union.lowers[0]), written(union, "layer")])
    assert os.listdir(image.unpack(tmp_path / "bundle")) == ["keep"]


class UmociHistories(UnpackedHistories):
    """A union whose layer is unpacked by umoci at the end of each history."""

    def finish(self) -> None:
        """Unpack the layer over that of the tree that was there before."""
        assert self._lower is not None
        base = Path(tempfile.mkdtemp(dir=self._copies))
        image = Image(base / "image", [packed(self._lower[1]), written(self.union, "layer")])
        rootfs = image.unpack(base / "bundle")
        shown = as_umoci_can(comparable(shown_by(self.union)))
        assert differences(shown, as_umoci_can(comparable(facts_on_disk(rootfs)))) == {}
        assert links_on_disk(rootfs) == links_in(self.union, shown)


@pytest.mark.parametrize("form", sorted(FORMS))
def test_umoci_unpacks_what_the_union_shows_whatever_was_done(form: str) -> None:
    machine = type("Machine", (UmociHistories,), {"form": FORMS[form]})
    run_state_machine_as_test(machine, settings=settings(SHORT, max_examples=4, stateful_step_count=50))
