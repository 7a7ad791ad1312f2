"""Invalid stacks are refused before any change, and without leaving descriptors open."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from unionfs.assemble import LayerSource, StackSource, open_stack, source_from_options
from unionfs.errors import UnionError
from unionfs.options import Options

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """Return a directory with one directory for each role, each of which has a subdirectory."""
    for name in ("lower", "other", "upper", "work", "mnt"):
        (tmp_path / name / "inner").mkdir(parents=True)
    (tmp_path / "link").symlink_to("lower")
    return tmp_path


def source(base: Path, mountpoint: str = "mnt", **changes: str) -> StackSource:
    """Open a stack, with the directories in *changes* instead of the defaults."""
    names = {"lower": "lower", "upper": "upper", "work": "work"} | changes
    options = Options(
        lowerdirs=(str(base / "other"), str(base / names["lower"])),
        upperdir=str(base / names["upper"]),
        workdir=str(base / names["work"]),
    )
    return source_from_options(options, str(base / mountpoint))


def test_directories_apart_are_opened_top_first(base: Path) -> None:
    found = source(base)
    fs = open_stack(found)
    assert [layer.root.stat().st_ino for layer in fs.inode_table.layers] == [
        (base / name).stat().st_ino for name in ("upper", "other", "lower")
    ]
    fs.close()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lower": "absent"}, "lowerdir {base}/absent: No such file or directory"),
        ({"mountpoint": "absent"}, "mount point {base}/absent: No such file or directory"),
        ({"upper": "lower"}, "upperdir {base}/lower is the same directory as lowerdir {base}/lower"),
        ({"upper": "lower/inner"}, "upperdir {base}/lower/inner is inside lowerdir {base}/lower"),
        ({"lower": "upper/inner"}, "lowerdir {base}/upper/inner is inside upperdir {base}/upper"),
        ({"work": "upper"}, "upperdir {base}/upper is the same directory as workdir {base}/upper"),
        ({"work": "upper/inner"}, "workdir {base}/upper/inner is inside upperdir {base}/upper"),
        ({"upper": "work/inner"}, "upperdir {base}/work/inner is inside workdir {base}/work"),
        ({"work": "link/inner"}, "workdir {base}/link/inner is inside lowerdir {base}/lower"),
        ({"mountpoint": "lower/inner"}, "mount point {base}/lower/inner is inside layer {base}/lower"),
        ({"mountpoint": "upper"}, "mount point {base}/upper is the same directory as layer {base}/upper"),
        ({"mountpoint": "link"}, "mount point {base}/link is the same directory as layer {base}/lower"),
        ({"mountpoint": "work/inner"}, "mount point {base}/work/inner is inside layer {base}/work"),
    ],
    ids=str,
)
def test_directories_that_contain_each_other_are_refused_by_name(
    base: Path, changes: dict[str, str], message: str
) -> None:
    with pytest.raises(UnionError) as caught:
        source(base, **changes)
    assert message.format(base=base) in str(caught.value)


def test_a_file_is_no_layer(base: Path) -> None:
    (base / "file").write_bytes(b"")
    with pytest.raises(UnionError, match="Not a directory"):
        source(base, lower="file")


def test_a_stack_that_cannot_be_opened_closes_what_was_given(base: Path) -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    fds = [os.open(base / name, os.O_PATH) for name in ("lower", "upper")]
    elsewhere = os.open("/proc/self", os.O_PATH)
    with pytest.raises(UnionError, match="different file systems"):
        open_stack(StackSource(lowers=(LayerSource(fd=fds[0]),), upper_fd=fds[1], work_fd=elsewhere))
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_five_hundred_layers_are_one_union(tmp_path: Path) -> None:
    for number in range(500):
        (tmp_path / f"{number}" / "d").mkdir(parents=True)
        (tmp_path / f"{number}" / "d" / f"f{number}").write_bytes(b"")
    lowers = tuple(LayerSource(fd=os.open(tmp_path / f"{number}", os.O_PATH)) for number in range(500))
    fs = open_stack(StackSource(lowers=lowers))
    directory = fs.inode_table.lookup(fs.inode_table.root, b"d")
    stream = fs.directories.open(directory.ino)
    assert len(list(fs.directories.entries(stream, 0))) == 502
    fs.trim()
    fs.close()


def test_earlier_layers_lie_above_all_other_lower_layers(base: Path) -> None:
    fds = [os.open(base / name, os.O_PATH) for name in ("lower", "other")]
    with pytest.raises(UnionError, match="give the earlier layers first"):
        open_stack(StackSource(lowers=(LayerSource(fd=fds[0]), LayerSource(fd=fds[1], earlier=True))))


def test_a_mount_reads_an_earlier_layer_like_the_writable_one_and_closes_its_work_directory(
    base: Path,
) -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    os.setxattr(base / "other", "user.unionfs.whiteouts", b"overlay")
    os.setxattr(base / "other", "user.unionfs.features", b"redirect")
    fds = {name: os.open(base / name, os.O_PATH) for name in ("lower", "other", "upper", "work")}
    earlier = LayerSource(fd=fds["other"], earlier=True, work_fd=os.open(base / "mnt", os.O_PATH))
    fs = open_stack(
        StackSource(
            lowers=(earlier, LayerSource(fd=fds["lower"])), upper_fd=fds["upper"], work_fd=fds["work"]
        )
    )
    upper, other, lower = fs.inode_table.layers
    assert (upper.earlier, other.earlier, lower.earlier) == (False, True, False)
    assert not other.frozen
    assert (other.policy.redirect, other.policy.metacopy, other.policy.aufs) == (True, False, False)
    fs.close()
    assert sorted(os.listdir("/proc/self/fd")) == before
