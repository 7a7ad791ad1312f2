"""Opening paths below a directory, and attempts to escape from it."""

from __future__ import annotations

import errno
import os

import pytest

from sandbox.kernel import mounts, open_paths, trees
from tests.kernel.support import O_DIR, fork_and_run, refusal, tmpfs

pytestmark = pytest.mark.userns


def test_a_directory_is_opened_without_crossing_a_link_or_a_mount(in_namespaces, tree):
    def inside() -> object:
        tmpfs(f"{tree}/source/sub/deep")
        os.symlink("sub", f"{tree}/source/link")
        source = os.open(f"{tree}/source", O_DIR)
        found = os.path.samestat(
            os.fstat(open_paths.open_within(source, "sub")), os.stat(f"{tree}/source/sub")
        )
        paths = ("link", "sub/deep", "..", "/source", "file", "absent")
        return found, [refusal(open_paths.open_within, source, path) for path in paths]

    assert in_namespaces(inside) == [True, ["ELOOP", "EXDEV", "EXDEV", "EXDEV", "ENOTDIR", "ENOENT"]]


def test_paths_below_the_root_never_lead_outside(in_namespaces, tree):
    os.symlink("/source", f"{tree}/root/absolute")
    os.symlink("../../source", f"{tree}/root/up")
    os.makedirs(f"{tree}/root/source")
    os.symlink("/proc/self/root", f"{tree}/root/magic")
    os.makedirs(f"{tree}/root/proc")

    def inside() -> object:
        root = os.open(f"{tree}/root", O_DIR)
        proc, target = os.open("/proc", O_DIR), os.open(f"{tree}/root/proc", O_DIR)
        mounts.bind(proc, target)
        found = [
            open_paths.path_of(open_paths.open_in_root(root, name))
            for name in ("absolute", "up", "/../..", "/source")
        ]
        return (
            found,
            refusal(open_paths.open_in_root, root, "magic"),
            refusal(open_paths.open_in_root, root, "/proc/1/cwd"),
        )

    expected = [f"{tree}/root/source", f"{tree}/root/source", f"{tree}/root", f"{tree}/root/source"]
    found, magic, direct = in_namespaces(inside)
    assert found == expected
    assert magic == "EXDEV"
    assert direct in {
        "EXDEV",
        "EACCES",
    }  # without the permission to trace process 1, the link cannot even be read


def test_a_target_that_must_be_a_directory_is_refused_otherwise(tree):
    root = os.open(tree, O_DIR)
    try:
        assert refusal(open_paths.open_in_root, root, "plain", directory=True) == "ENOTDIR"
        assert refusal(open_paths.open_in_root, root, "nothing") == "ENOENT"
        os.close(open_paths.open_in_root(root, "plain"))
    finally:
        os.close(root)


def test_paths_below_a_directory_lead_nowhere_out_of_it(tree):
    os.symlink("/source", f"{tree}/root/absolute")
    os.symlink("../source", f"{tree}/root/up")
    os.symlink("sub/deep", f"{tree}/source/within")
    os.symlink("../source/sub", f"{tree}/source/out-and-in")
    root, source = os.open(f"{tree}/root", O_DIR), os.open(f"{tree}/source", O_DIR)
    try:
        refused = [
            refusal(open_paths.open_beneath, root, path) for path in ("absolute", "up", "..", "/source")
        ]
        assert refused == ["EXDEV"] * 4
        assert refusal(open_paths.open_beneath, source, "out-and-in") == "EXDEV"
        assert refusal(open_paths.open_beneath, source, "file", directory=True) == "ENOTDIR"
        within = open_paths.open_beneath(source, "within")
        assert open_paths.path_of(within) == f"{tree}/source/sub/deep"
        os.close(within)
        assert refusal(open_paths.open_in_root, source, "/within", links=False) == "ELOOP"
    finally:
        os.close(root)
        os.close(source)


def test_a_source_is_opened_without_following_a_link_that_replaced_it(tree):
    os.symlink("sub", f"{tree}/source/link")
    os.close(open_paths.open_real(f"{os.path.realpath(tree)}/source/sub", directory=True))
    for path in ("source/link", "source/link/deep"):
        assert refusal(open_paths.open_real, f"{os.path.realpath(tree)}/{path}") == "ELOOP"


def test_a_directory_beneath_is_opened_at_any_depth_and_never_through_a_link(tmp_path):
    (tmp_path / "real" / "inner").mkdir(parents=True)
    (tmp_path / "real" / "link").symlink_to("inner")
    (tmp_path / "file").touch()
    names = [b"d" * 200] * 40
    top = os.open(tmp_path, os.O_PATH)
    try:
        for path, error in (
            (b"real/link", "ELOOP"),
            (b"real/link/x", "ELOOP"),
            (b"..", "EXDEV"),
            (b"file", "ENOTDIR"),
            (b"absent", "ENOENT"),
        ):
            assert refusal(open_paths.open_directory_beneath, top, path) == error, path
        here = os.dup(top)
        for name in names:
            os.mkdir(name, dir_fd=here)
            below = os.open(name, os.O_PATH, dir_fd=here)
            os.close(here)
            here = below
        found = open_paths.open_directory_beneath(top, b"/".join(names))
        assert os.path.samestat(os.fstat(found), os.fstat(here))
        os.close(found)
        os.close(here)
        found = open_paths.open_directory_beneath(top, b"")
        assert os.path.samestat(os.fstat(found), os.fstat(top))
        os.close(found)
        trees.remove_contents(top)
    finally:
        os.close(top)


def test_a_path_that_is_swapped_for_a_link_meanwhile_never_leads_out(tree):
    """A path string would lose this race: the exchange happens between the check and the open."""
    os.mkdir(f"{tree}/root/inside")
    os.mkdir(f"{tree}/root/inside/sub")
    os.symlink("../../source", f"{tree}/root/link")
    outside = os.stat(f"{tree}/source/sub").st_ino
    root = os.open(f"{tree}/root", O_DIR)

    ours = os.getpid()

    def swap() -> bool:
        while os.getppid() == ours:
            trees.exchange(f"{tree}/root/inside", f"{tree}/root/link")
        return True

    swapper = fork_and_run(swap)
    try:
        found, refused = set(), set()
        for _ in range(20_000):
            for opener in (open_paths.open_beneath, open_paths.open_in_root):
                try:
                    fd = opener(root, "inside/sub")
                except OSError as error:
                    refused.add(errno.errorcode[error.errno or 0])
                    continue
                found.add(os.fstat(fd).st_ino)
                os.close(fd)
    finally:
        os.kill(swapper, 9)
        os.waitpid(swapper, 0)
        os.close(root)
    assert outside not in found
    assert len(found) == 1
    # With RESOLVE_BENEATH the link is an escape. With RESOLVE_IN_ROOT ".." stays in the root, which has no "source".
    assert {"EXDEV", "ENOENT"} <= refused <= {"EXDEV", "ENOENT", "EAGAIN"}
