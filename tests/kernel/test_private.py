"""The paths at which mounts show a directory, and its hiding there, compared with the kernel's results."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Iterator
from typing import Any

import pytest

from sandbox.kernel import filesystems, masked_paths, mounts, open_paths
from sandbox.kernel.mountinfo import Location, location, parse_mountinfo, paths_to, visible
from sandbox.plan.operations import HideDirectory
from sandbox.runtime.rootfs import volumes
from tests.kernel.support import refusal

pytestmark = pytest.mark.userns

O_DIR = os.O_PATH | os.O_DIRECTORY


def table() -> list[Any]:
    with open("/proc/self/mountinfo") as file:
        return visible(parse_mountinfo(file.read()))


def identity(path: str) -> tuple[int, int]:
    info = os.lstat(path)
    return info.st_dev, info.st_ino


def directories(top: str, depth: int = 12) -> Iterator[str]:
    """Yield *top* and every directory below it, across mounts."""
    yield top
    if depth:
        with os.scandir(top) as entries:
            names = sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
        for name in names:
            yield from directories(f"{top}/{name}", depth - 1)


def bind(source: str, target: str, *, recursive: bool) -> None:
    from_fd, to_fd = os.open(source, O_DIR), os.open(target, O_DIR)
    try:
        mounts.bind(from_fd, to_fd, recursive=recursive)
    finally:
        os.close(from_fd)
        os.close(to_fd)


@pytest.mark.parametrize("seed", range(12))
def test_every_path_at_which_a_directory_is_shown_is_found_and_no_other(
    in_namespaces: Any, open_directory: str, seed: int
) -> None:
    """The expected paths are found by a walk that compares inodes."""
    base = os.path.realpath(open_directory)
    for a in "abc":
        for b in "abc":
            for c in "ab":
                os.makedirs(f"{base}/{a}/{b}/{c}")
    wanted = f"{base}/a/b"

    def inside() -> object:
        # In a file system of its own, or in that of the other directories.
        chance = random.Random(seed)
        if chance.random() < 0.3:
            fd = os.open(f"{base}/a", O_DIR)
            filesystems.mount_tmpfs(fd)
            os.makedirs(f"{base}/a/b/c")
        place = location(table(), wanted)
        assert isinstance(place, Location)
        whole, parts = identity(wanted), {identity(path) for path in directories(wanted)}
        wrong: list[object] = []
        compared = 0
        for _ in range(7):
            names = list(directories(base, 5))
            bind(chance.choice(names), chance.choice(names), recursive=chance.random() < 0.5)
            entries = table()
            tops = list(directories(base, 4))
            for top in chance.sample(tops, min(8, len(tops))):
                told = list(paths_to(entries, top, place))
                seen = list(directories(top))
                expected = {path for path in seen if identity(path) == whole}
                missing = expected - set(told)
                compared += len(expected)
                loose = [
                    path
                    for path in seen
                    if identity(path) in parts
                    and not any(path == one or path.startswith(f"{one}/") for one in told)
                ]
                too_many = [one for one in told if identity(one) not in parts]
                if missing or loose or too_many:
                    wrong.append((top, sorted(missing), loose, too_many))
        return wrong, compared

    wrong, compared = in_namespaces(inside)
    assert wrong == []
    assert compared > 0


class FakeWorkspace:
    """Stands for a workspace whose new root is *root*, with a volume mounted in it."""

    def __init__(self, root: str, target: str) -> None:
        self.root_fd = os.open(root, O_DIR)
        self.mounted = {target: os.open(root + target, O_DIR)}
        self.held: set[int] = set()

    def own_mounts(self) -> tuple[int, ...]:
        return tuple(map(open_paths.mount_id, (self.root_fd, *self.mounted.values())))


@pytest.mark.parametrize(
    ("path", "given", "expected"),
    [
        ("sub/deep", "right", None),
        ("sub/deep", "another", errno.ESTALE),
        ("sub/deep", "none", None),
        ("link/deep", "right", errno.ELOOP),
        ("sub/link", "right", errno.ELOOP),
        ("file/deep", "right", errno.ENOTDIR),
        ("gone/deep", "right", errno.ENOENT),
        ("gone/deep", "none", None),
    ],
)
def test_a_directory_is_hidden_if_it_is_the_private_one_and_no_link_leads_to_it(
    in_namespaces: Any, open_directory: str, path: str, given: str, expected: int | None
) -> None:
    base = os.path.realpath(open_directory)
    os.makedirs(f"{base}/root/v")
    os.makedirs(f"{base}/source/sub/deep")
    os.makedirs(f"{base}/source/elsewhere")
    for name, to in {"link": "sub", "sub/link": "deep"}.items():
        os.symlink(to, f"{base}/source/{name}")
    with open(f"{base}/source/file", "w") as file:
        file.write("")
    for top, _, _ in os.walk(base):
        os.chmod(top, 0o777)
    right = identity(f"{base}/source/sub/deep")

    def inside() -> object:
        bind(f"{base}/source", f"{base}/root/v", recursive=True)
        operation = HideDirectory(
            name="state directory",
            source="/state",
            variable="X",
            volume="/v",
            path=path,
            identity={"right": right, "another": (right[0], right[1] + 1), "none": None}[given],
        )
        workspace: Any = FakeWorkspace(f"{base}/root", "/v")
        try:
            volumes.hide(operation, workspace)
        except OSError as error:
            return error.errno, None
        v = f"{base}/root/v"
        return None, [
            refusal(os.rename, f"{v}/sub", f"{v}/moved"),
            refusal(os.mkdir, f"{v}/sub/deep/new"),
            # Another path of this mount namespace to the same directory cannot be moved either.
            refusal(os.rename, f"{base}/source/sub", f"{base}/source/moved"),
        ]

    failed, refused = in_namespaces(inside)
    assert failed == expected
    if expected is None and path == "sub/deep":
        assert refused == ["EBUSY", "EROFS", "EBUSY"]


def test_directories_above_a_mount_of_the_host_in_a_volume_are_pinned_when_something_below_is_masked(
    in_namespaces: Any, open_directory: str
) -> None:
    base = os.path.realpath(open_directory)
    os.makedirs(f"{base}/root/v")
    os.makedirs(f"{base}/source/above/disk")
    os.makedirs(f"{base}/disk/a/secret")
    os.makedirs(f"{base}/disk/b/secret")
    for top, _, _ in os.walk(base):
        os.chmod(top, 0o777)

    def inside() -> object:
        bind(f"{base}/disk", f"{base}/source/above/disk", recursive=False)
        bind(f"{base}/source", f"{base}/root/v", recursive=True)
        workspace = FakeWorkspace(f"{base}/root", "/v")
        null = os.open("/dev/null", os.O_PATH)
        paths = ["/v/above/disk/a/secret", "/v/above/disk/b/secret"]
        masked_paths.mask(workspace.root_fd, paths, null, own=workspace.own_mounts())
        moved = [
            refusal(os.rename, f"{base}/root/v/above", f"{base}/root/v/moved"),
            *(
                refusal(os.rename, f"{base}/root/v/above/disk/{name}", f"{base}/root/v/above/disk/moved")
                for name in "ab"
            ),
        ]
        return moved, [refusal(os.mkdir, f"{base}/root{path}/x") for path in paths]

    assert in_namespaces(inside) == [["EBUSY"] * 3, ["EROFS"] * 2]
