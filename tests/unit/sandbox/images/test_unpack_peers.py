"""GNU tar and this package unpack the same archive to the same tree."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.tree import Dir, Fifo, File, HardLink, Node, Symlink, make_tree, snapshot
from tests.unit.sandbox.images.tars import extract

TREE: dict[str, Node] = {
    "bin": Symlink(b"usr/bin"),
    "usr": Dir(
        {
            "bin": Dir(
                {
                    "tool": File(b"#!/bin/sh\n" * 5000, mode=0o755, mtime_ns=1_600_000_000_123_456_789),
                    "set-id": File(b"x", mode=0o6755),
                    "other": HardLink("usr/bin/tool"),
                    "again": HardLink("usr/bin/set-id"),
                },
                mtime_ns=1_500_000_000_000_000_001,
            ),
            "lib": Dir({}, mode=0o2755),
        },
        mtime_ns=1_400_000_000_000_000_000,
    ),
    "tmp": Dir({}, mode=0o1777),
    "closed": Dir({"f": File(b"", mode=0o400)}, mode=0o500, mtime_ns=1_300_000_000_000_000_000),
    "pipe": Fifo(mode=0o600),
    "absolute": Symlink(b"/etc/passwd"),
    "empty": File(b"", mode=0o644, mtime_ns=999_999_999),
    "blocks": File(b"b" * 1024, mode=0o644),
    "big": File(b"0123456789abcdef" * 50_000, mode=0o604),
    "with space\nand line": File(b"n"),
}
LONG_NAMES: dict[bytes, Node] = {
    b"d" * 120: {b"e" * 120: {b"f" * 200: File(b"deep"), b"link": Symlink(b"t" * 300)}},
    b"\xff\xfe": File(b"not utf-8"),
}
EXTRA: dict[str, Node] = {
    "attributes": File(b"x", xattrs={"user.binary": bytes(range(256)), "user.text": b"v", "user.a=b": b"="}),
    "attributes-dir": Dir({}, xattrs={"user.on-dir": b"1"}),
}


def write_sparse(path: Path) -> None:
    """Write a file with more extents than one header of any format can hold, and a hole at its end."""
    with open(path, "wb") as file:
        for number in range(60):
            file.seek(number * 131072)
            file.write(b"%05d" % number * 100)
        file.truncate(20 << 20)


def pack(source: Path, archive: Path, *options: str) -> None:
    subprocess.run(["tar", "-C", source, *options, "-cf", archive, "."], check=True, stderr=subprocess.PIPE)


FORMS = [
    ("v7", []),
    ("ustar", []),
    *((form, sparse) for form in ("oldgnu", "gnu") for sparse in ([], ["--sparse"])),
    ("posix", []),
    *(("posix", ["--sparse", f"--sparse-version={version}"]) for version in ("0.0", "0.1", "1.0")),
]


@pytest.mark.parametrize(("form", "sparse"), FORMS, ids=lambda value: "".join(value) or "no-holes")
def test_the_tree_is_the_one_that_gnu_tar_makes(form: str, sparse: list[str], tmp_path: Path) -> None:
    options = [f"--format={form}", "--numeric-owner", *sparse]
    source = tmp_path / "source"
    tree = dict(TREE)
    if form == "v7":
        del tree["pipe"]
    make_tree(source, tree)
    if form in {"gnu", "oldgnu", "posix"}:
        make_tree(source, LONG_NAMES)
    if form == "posix":
        make_tree(source, EXTRA)
        options += ["--xattrs"]
    if sparse:
        write_sparse(source / "sparse")
    archive = tmp_path / "a.tar"
    pack(source, archive, *options)
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    theirs.mkdir()
    attributes = ["--xattrs", "--xattrs-include=user.*"]
    subprocess.run(["tar", "-C", theirs, "--numeric-owner", *attributes, "-xpf", archive], check=True)
    report = extract(archive.read_bytes(), ours, single_id=os.geteuid() != 0)
    expected = snapshot(theirs, nlink=True, mtime=True)
    assert snapshot(ours, nlink=True, mtime=True) == expected
    assert len(expected) == report.entries
    if sparse:
        status = os.stat(ours / "sparse")
        assert status.st_blocks * 512 < status.st_size // 4


def test_lists_of_an_incremental_backup_with_times_in_the_header_are_read(tmp_path: Path) -> None:
    source = tmp_path / "source"
    make_tree(source, {"d": {"f": b"x"}})
    archive = tmp_path / "a.tar"
    # The directories of an incremental archive have a member type that no layer uses, so only files are compared.
    subprocess.run(
        ["tar", "-C", source, "--format=gnu", "--listed-incremental=snar", "-cf", archive, "d/f"],
        check=True,
        cwd=tmp_path,
    )
    extract(archive.read_bytes(), tmp_path / "ours")
    assert (tmp_path / "ours/d/f").read_bytes() == b"x"


@pytest.mark.parametrize(
    ("option", "program"), [("-z", "gzip"), ("-j", "bzip2"), ("-J", "xz"), ("--zstd", "zstd")]
)
def test_what_the_programs_compress_is_read(option: str, program: str, tmp_path: Path) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"needs {program}")
    source = tmp_path / "source"
    make_tree(source, TREE)
    pack(source, tmp_path / "a.tar", option)
    extract((tmp_path / "a.tar").read_bytes(), tmp_path / "ours")
    ids = os.geteuid() != 0
    assert snapshot(tmp_path / "ours", ids=ids, nlink=True) == snapshot(source, ids=ids, nlink=True)
