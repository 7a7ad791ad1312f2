"""Unpacked image layers in a mount: whiteouts hide only lower layers, and hard links to lower files are one file."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
from collections.abc import Sequence
from hashlib import sha256

import pytest

from tests.mount.support import Union, now_and_remounted
from tests.support.tree import snapshot
from tests.unit.sandbox.images.tars import directory, extract, file, hard_link, symlink, tar

pytestmark = pytest.mark.fusermount

BASE = tar(
    directory(b"d", mode=0o700),
    file(b"d/lower", b"lower"),
    directory(b"d/sub"),
    file(b"d/sub/deep", b"deep"),
    file(b"f", b"lower"),
    hard_link(b"f2", b"f"),
)


def union_of(base: str, *archives: bytes, writable: bool = True) -> Union:
    """Unpack *archives*, bottom first, each above the earlier ones, and return their union."""
    places: list[str] = []
    for number, data in enumerate(archives):
        place = os.path.join(base, f"layer{number}")
        extract(data, place, *places)
        places.insert(0, place)
    return Union(base, places, writable=writable)


SIBLINGS = [file(b".wh.d"), directory(b"d", mode=0o711), file(b"d/own", b"own")]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
def test_a_directory_beside_its_whiteout_is_the_one_of_its_layer(base: str, order: tuple[int, ...]) -> None:
    with union_of(base, BASE, tar(*(SIBLINGS[place] for place in order))) as union:
        for _ in now_and_remounted(union):
            seen = snapshot(union.path)
            assert set(seen) == {b".", b"d", b"d/own", b"f", b"f2"}
            assert (seen[b"d"].mode, seen[b"d/own"].data) == (0o711, b"own")


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=str)
def test_a_file_beside_its_whiteout_is_the_one_of_its_layer(base: str, order: tuple[int, ...]) -> None:
    parts = [file(b".wh.f"), file(b"f", b"own")]
    with union_of(base, BASE, tar(*(parts[place] for place in order))) as union:
        assert snapshot(union.path)[b"f"].data == b"own"


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
def test_an_opaque_directory_has_what_its_layer_has_wherever_the_mark_stands(
    base: str, order: tuple[int, ...]
) -> None:
    parts = [file(b"d/.wh..wh..opq"), file(b"d/own", b"own"), file(b"d/sub/own", b"own")]
    with union_of(base, BASE, tar(*(parts[place] for place in order))) as union:
        for _ in now_and_remounted(union):
            assert set(snapshot(union.path)) >= {b"d/own", b"d/sub", b"d/sub/own"}
            assert not {b"d/lower", b"d/sub/deep"} & set(snapshot(union.path))


def test_records_of_aufs_hide_nothing_and_are_not_shown(base: str) -> None:
    with union_of(
        base, BASE, tar(file(b".wh..wh.aufs"), file(b".wh..wh.d"), file(b"d/.wh..wh.orph"))
    ) as union:
        assert set(snapshot(union.path)) == {b".", b"d", b"d/lower", b"d/sub", b"d/sub/deep", b"f", b"f2"}


def test_a_hard_link_to_a_lower_file_is_one_file_with_it_in_the_union(base: str) -> None:
    with union_of(base, BASE, tar(hard_link(b"h", b"d/sub/deep"))) as union:
        for _ in now_and_remounted(union):
            assert os.path.samefile(f"{union.path}/h", f"{union.path}/d/sub/deep")
            assert os.stat(f"{union.path}/h").st_nlink == 2
        assert os.stat(f"{union.path}/d").st_mode & 0o7777 == 0o700
        with open(f"{union.path}/h", "ab") as writer:
            writer.write(b" and more")
        for _ in now_and_remounted(union):
            for name in ("h", "d/sub/deep"):
                with open(f"{union.path}/{name}", "rb") as reader:
                    assert reader.read() == b"deep and more"


def test_a_hard_link_over_three_layers_ends_at_the_copy_of_the_middle_one(base: str) -> None:
    archives = [BASE, tar(hard_link(b"h", b"f")), tar(hard_link(b"again", b"h"))]
    with union_of(base, *archives, writable=False) as union:
        assert len({os.stat(f"{union.path}/{name}").st_ino for name in ("again", "h")}) == 1
        assert snapshot(union.path)[b"again"].data == b"lower"


def write_layout(place: str, archives: Sequence[bytes]) -> None:
    """Write an image of *archives*, bottom first, as an OCI layout with the tag `test`; see image-layout.md of the image-spec."""
    blobs = os.path.join(place, "blobs/sha256")
    os.makedirs(blobs)

    def add(content: bytes, kind: str) -> dict[str, object]:
        digest = sha256(content).hexdigest()
        with open(os.path.join(blobs, digest), "wb") as blob:
            blob.write(content)
        media_type = f"application/vnd.oci.image.{kind}"
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content)}

    diff_ids = [f"sha256:{sha256(archive).hexdigest()}" for archive in archives]
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": [{"created_by": "test"} for _ in archives],
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": add(json.dumps(config).encode(), "config.v1+json"),
        "layers": [add(archive, "layer.v1.tar") for archive in archives],
    }
    described = add(json.dumps(manifest).encode(), "manifest.v1+json")
    described["annotations"] = {"org.opencontainers.image.ref.name": "test"}
    for name, value in (
        ("oci-layout", {"imageLayoutVersion": "1.0.0"}),
        ("index.json", {"schemaVersion": 2, "manifests": [described]}),
    ):
        with open(os.path.join(place, name), "w", encoding="utf-8") as file:
            json.dump(value, file)


#: Layers above BASE.
CHANGES = {
    "a link to a lower file": tar(hard_link(b"h", b"d/sub/deep"), hard_link(b"d/i", b"f")),
    "a directory that only the lower layer lists": tar(file(b"d/new", b"new"), file(b"d/sub/x/y", b"y")),
    "a whiteout after its sibling": tar(directory(b"d"), file(b"d/own", b"own"), file(b"d/.wh.lower")),
    "an opaque directory": tar(directory(b"d/sub"), file(b"d/sub/.wh..wh..opq"), file(b"d/sub/own", b"own")),
    "a file that becomes a directory": tar(directory(b"f"), file(b"f/in", b"in")),
    "a directory that becomes a link": tar(symlink(b"d", b"f")),
    "a replaced file with another name": tar(file(b"f", b"new", mode=0o600)),
}


@pytest.mark.umoci
@pytest.mark.parametrize("change", CHANGES)
def test_the_union_of_the_layers_is_the_tree_that_umoci_unpacks(base: str, change: str) -> None:
    archives = [BASE, CHANGES[change]]
    write_layout(f"{base}/image", archives)
    rootless = ["--rootless"] if os.geteuid() else []
    command = ["umoci", "unpack", *rootless, "--image", f"{base}/image:test", f"{base}/bundle"]
    subprocess.run(command, check=True, stderr=subprocess.PIPE)
    expected = snapshot(f"{base}/bundle/rootfs", ids=not rootless)
    with union_of(base, *archives) as union:
        seen = snapshot(union.path, ids=not rootless)
    # The mode of the root is not in the layers.
    del seen[b"."], expected[b"."]
    assert seen == expected
