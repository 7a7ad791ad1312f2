"""Path resolution: it finds the same objects as the kernel, and reports each symbolic link."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from sandbox.kernel.walk import Link, walk


def resolved(path: str) -> tuple[str | None, list[tuple[str, str]]]:
    links: list[Link] = []
    fd, place = walk(path, links)
    os.close(fd)
    return None if place is None else place.path, [(link.place.path, link.target) for link in links]


def test_every_link_is_met_in_the_order_of_the_way(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/file").touch()
    (tmp_path / "first").symlink_to("second")
    (tmp_path / "second").symlink_to(tmp_path / "a")
    (tmp_path / "a/up").symlink_to("../a/b")
    assert resolved(f"{tmp_path}/first/./up/../b/file") == (
        f"{tmp_path}/a/b/file",
        [
            (f"{tmp_path}/first", "second"),
            (f"{tmp_path}/second", f"{tmp_path}/a"),
            (f"{tmp_path}/a/up", "../a/b"),
        ],
    )


def test_chain_has_the_identity_of_everything_on_the_way(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    links: list[Link] = []
    fd, place = walk(f"{tmp_path}/a", links)
    os.close(fd)
    assert place is not None
    above = [*reversed(Path(place.path).parents), Path(place.path)]
    assert place.chain == tuple((path.stat().st_dev, path.stat().st_ino) for path in above)


def test_random_trees_are_resolved_as_the_kernel_does(tmp_path: Path) -> None:
    chance = random.Random(12)
    names = ["a", "b", "c"]
    for _ in range(60):
        place = tmp_path / "/".join(chance.choices(names, k=chance.randint(1, 3)))
        try:
            kind = chance.randrange(3)
            if kind == 0:
                place.mkdir(parents=True)
            elif kind == 1:
                place.write_text("")
            else:
                target = "/".join(chance.choices([*names, "..", "."], k=chance.randint(1, 3)))
                place.symlink_to(target if chance.random() < 0.7 else f"{tmp_path}/{target}")
        except OSError:
            continue
    seen = set()
    for _ in range(1500):
        path = f"{tmp_path}/" + "/".join(chance.choices([*names, "..", ".", ""], k=chance.randint(1, 5)))
        expected: object
        found: object
        try:
            info = os.stat(path)
            expected = (os.path.realpath(path), info.st_ino)
        except OSError as error:
            expected = error.errno
        try:
            found = (resolved(path)[0], os.stat(path).st_ino)
        except OSError as error:
            found = error.errno
        assert found == expected, path
        seen.add(type(expected) if isinstance(expected, tuple) else expected)
    assert len(seen) > 2  # existing paths, and missing ones for several reasons


def test_links_met_before_a_failure_are_known(tmp_path: Path) -> None:
    (tmp_path / "dangling").symlink_to("nowhere")
    links: list[Link] = []
    with pytest.raises(FileNotFoundError):
        walk(f"{tmp_path}/dangling", links)
    assert [link.place.path for link in links] == [f"{tmp_path}/dangling"]


def test_circle_of_links_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").symlink_to("y")
    (tmp_path / "y").symlink_to("x")
    with pytest.raises(OSError, match="Too many levels"):
        walk(f"{tmp_path}/x", [])


def test_links_of_proc_that_are_no_paths_are_followed_by_the_kernel(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    try:
        path, links = resolved(f"/proc/self/fd/{reader}")
        assert path is None
        assert links[0][0] == "/proc/self"
    finally:
        os.close(reader)
        os.close(writer)


def test_link_that_the_kernel_does_not_follow_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As fs.protected_symlinks does for another user's link in a sticky directory."""
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")

    def refuse(path: str) -> os.stat_result:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr("sandbox.kernel.walk.os.stat", refuse)
    assert resolved(f"{tmp_path}/file")[1] == []
    with pytest.raises(PermissionError):
        resolved(f"{tmp_path}/link")
