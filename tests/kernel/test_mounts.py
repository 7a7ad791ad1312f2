"""Bind mounts, trees of mounts and pivot_root(2), each in a fresh user and mount namespace."""

from __future__ import annotations

import errno
import os

import pytest

from sandbox.kernel import _libc, constants, filesystems, idmaps, mounts, namespaces, open_paths
from sandbox.kernel.mount_flags import MountFlags
from sandbox.kernel.mountinfo import parse_mountinfo
from tests.kernel.support import O_DIR, enter_deeper_namespaces, entry_at, fork_and_run, refusal, tmpfs, touch

pytestmark = pytest.mark.userns
MS_SHARED = 1 << 20
FALLBACK = pytest.mark.parametrize("use_setattr", [True, False], ids=["mount_setattr", "remount"])


@FALLBACK
def test_a_read_only_bind_applies_to_every_mount_below_it(in_namespaces, tree, use_setattr):
    def inside() -> object:
        tmpfs(f"{tree}/source/sub")
        os.mkdir(f"{tree}/source/sub/deeper")
        tmpfs(f"{tree}/source/sub/deeper")
        source, target = os.open(f"{tree}/source", O_DIR), os.open(f"{tree}/target", O_DIR)
        mounts.bind(source, target, read_only=True, use_setattr=use_setattr)
        places = ("target", "target/sub", "target/sub/deeper", "source", "source/sub/deeper")
        return [refusal(touch, f"{tree}/{place}/new") for place in places]

    assert in_namespaces(inside) == ["EROFS", "EROFS", "EROFS", None, None]


def lock_a_tmpfs(path: str) -> None:
    tmpfs(path, flags=MountFlags(nosuid=True, nodev=True, noexec=True))
    enter_deeper_namespaces()


@FALLBACK
def test_a_bind_keeps_the_locked_flags_of_its_source_and_adds_its_own(in_namespaces, tree, use_setattr):
    def inside() -> object:
        lock_a_tmpfs(f"{tree}/source/sub")
        source, target = os.open(f"{tree}/source", O_DIR), os.open(f"{tree}/target", O_DIR)
        mounts.bind(source, target, read_only=True, use_setattr=use_setattr)
        return [list(entry_at(f"{tree}/{name}/sub").options) for name in ("source", "target")]

    source, target = in_namespaces(inside)
    assert source == ["rw", "nosuid", "nodev", "noexec", "relatime"]
    assert target == ["ro", "nosuid", "nodev", "noexec", "relatime"]


def test_locked_flags_cannot_be_left_out_of_a_remount(in_namespaces, tree):
    """A bind mount must keep the locked flags for this reason."""

    def inside() -> object:
        lock_a_tmpfs(f"{tree}/source/sub")
        mounts.bind(os.open(f"{tree}/source/sub", O_DIR), os.open(f"{tree}/target", O_DIR))
        flags = constants.MS_REMOUNT | constants.MS_BIND | constants.MS_RDONLY
        return refusal(_libc.mount, "none", f"{tree}/target", None, flags)

    assert in_namespaces(inside) == "EPERM"


@FALLBACK
def test_every_flag_of_a_bind_is_set_on_it_and_below(in_namespaces, tree, use_setattr):
    def inside() -> object:
        # Not below the test's own directory, whose file system may have flags already.
        tmpfs(f"{tree}/source/sub", flags=MountFlags())
        source, target = os.open(f"{tree}/source", O_DIR), os.open(f"{tree}/target", O_DIR)
        mounts.bind(source, target, nosuid=True, nodev=True, noexec=True, use_setattr=use_setattr)
        return list(entry_at(f"{tree}/target").options), list(entry_at(f"{tree}/target/sub").options)

    for options in in_namespaces(inside):
        assert {"rw", "nosuid", "nodev", "noexec"} <= set(options)


@FALLBACK
def test_a_mount_that_another_covers_is_no_obstacle_to_a_read_only_bind(in_namespaces, tree, use_setattr):
    def inside() -> object:
        os.makedirs(f"{tree}/source/sub/deep", exist_ok=True)
        tmpfs(f"{tree}/source/sub/deep")
        tmpfs(f"{tree}/source/sub")
        source, target = os.open(f"{tree}/source", O_DIR), os.open(f"{tree}/target", O_DIR)
        mounts.bind(source, target, read_only=True, use_setattr=use_setattr)
        return refusal(touch, f"{tree}/target/sub/x"), os.listdir(f"{tree}/target/sub")

    assert in_namespaces(inside) == ["EROFS", []]


@FALLBACK
def test_a_mount_on_the_root_of_another_is_no_obstacle_to_a_read_only_bind(in_namespaces, tree, use_setattr):
    """Some machines have this: an initramfs has mounted /dev/pts, and the system mounts it again."""

    def inside() -> object:
        for _ in range(3):
            tmpfs(f"{tree}/source/sub")
        source, target = os.open(f"{tree}/source", O_DIR), os.open(f"{tree}/target", O_DIR)
        mounts.bind(source, target, read_only=True, use_setattr=use_setattr)
        return refusal(touch, f"{tree}/target/sub/x")

    assert in_namespaces(inside) == "EROFS"


def test_a_file_is_bound_on_a_file(in_namespaces, tree):
    def inside() -> object:
        source, target = os.open(f"{tree}/source/file", os.O_PATH), os.open(f"{tree}/plain", os.O_PATH)
        mounts.bind(source, target, read_only=True)
        with open(f"{tree}/plain") as file:
            return file.read(), refusal(touch, f"{tree}/plain")

    assert in_namespaces(inside) == ["content", "EROFS"]


def test_a_directory_on_a_file_is_an_error_that_names_both(in_namespaces, tree):
    def inside() -> object:
        source, target = os.open(f"{tree}/source", O_DIR), os.open(f"{tree}/plain", os.O_PATH)
        try:
            mounts.bind(source, target)
        except OSError as error:
            return [error.errno, error.filename, error.filename2]

    assert in_namespaces(inside) == [errno.ENOTDIR, f"{tree}/source", f"{tree}/plain"]


def test_a_source_opened_before_the_mount_namespace_was_made_is_refused(in_namespaces, tree):
    source = os.open(f"{tree}/source", O_DIR)
    try:
        target = f"{tree}/target"
        assert in_namespaces(lambda: refusal(mounts.bind, source, os.open(target, O_DIR))) == "EINVAL"
    finally:
        os.close(source)


@pytest.mark.root
def test_a_source_that_only_real_root_may_reach_is_bound_by_a_descriptor_opened_before_the_change_of_ids(
    tree,
):
    os.mkdir(f"{tree}/source/private")
    os.chmod(f"{tree}/source/private", 0o700)
    with open(f"{tree}/source/private/file", "w") as file:
        file.write("content")
    range_map = idmaps.root_map()
    ready, made = os.pipe()
    mapped, go = os.pipe()

    def inside() -> bool:
        os.close(go)
        namespaces.unshare(["user"])
        namespaces.unshare(["mount"])
        mounts.make_private()
        source = os.open(f"{tree}/source/private/file", os.O_PATH)
        os.write(made, b"x")
        os.read(mapped, 1)
        os.setresuid(0, 0, 0)
        unreachable = refusal(os.open, f"{tree}/source/private/file", os.O_PATH) == "EACCES"
        mounts.bind(source, os.open(f"{tree}/plain", os.O_PATH))
        with open(f"{tree}/plain") as file:
            return unreachable and file.read() == "content"

    pid = fork_and_run(inside)
    try:
        assert os.read(ready, 1) == b"x"
        idmaps.write_maps(pid, range_map, range_map)
        os.write(go, b"x")
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    finally:
        for fd in (ready, made, mapped, go):
            os.close(fd)


def test_a_bind_that_would_uncover_directories_below_locked_mounts_is_refused(in_namespaces, tree):
    def inside() -> object:
        root, target = os.open("/", O_DIR), os.open(f"{tree}/target", O_DIR)
        return refusal(mounts.bind, root, target, recursive=False), refusal(mounts.bind, root, target)

    assert in_namespaces(inside) == ["EINVAL", None]


def test_after_pivot_nothing_of_the_host_is_mounted_or_reachable(in_namespaces, tree):
    def inside() -> object:
        tmpfs(f"{tree}/root")
        os.makedirs(f"{tree}/root/proc")
        root = os.open(f"{tree}/root", O_DIR)
        filesystems.mount_proc(open_paths.open_in_root(root, "proc"))
        mounts.pivot(root)
        os.close(root)
        with open("/proc/self/mountinfo") as file:
            points = [entry.mount_point for entry in parse_mountinfo(file.read())]
        return os.listdir("/"), os.getcwd(), points, os.listdir("/../.."), refusal(os.stat, tree)

    names, cwd, points, above, host = in_namespaces(inside, kinds=("mount", "pid"))
    assert names == above == ["proc"]
    assert cwd == "/"
    assert points == ["/", "/proc"]
    assert host == "ENOENT"


def test_pivot_to_a_directory_that_is_no_mount_is_refused(in_namespaces, tree):
    assert in_namespaces(lambda: refusal(mounts.pivot, os.open(f"{tree}/root", O_DIR))) == "EINVAL"


@FALLBACK
def test_flags_are_added_to_an_existing_mount_and_not_below_it(in_namespaces, tree, use_setattr):
    def inside() -> object:
        tmpfs(f"{tree}/target")
        os.mkdir(f"{tree}/target/sub")
        tmpfs(f"{tree}/target/sub")
        mounts.restrict(os.open(f"{tree}/target", O_DIR), MountFlags(read_only=True), use_setattr=use_setattr)
        options = set(entry_at(f"{tree}/target").options)
        return (
            refusal(touch, f"{tree}/target/x"),
            refusal(touch, f"{tree}/target/sub/x"),
            {"nosuid", "nodev"} <= options,
        )

    assert in_namespaces(inside) == ["EROFS", None, True]


def test_a_copy_of_a_slave_shows_later_mounts_and_other_copies_do_not(in_namespaces, tree):
    def inside() -> object:
        tmpfs(f"{tree}/source")
        for name in ("before", "later"):
            os.mkdir(f"{tree}/source/{name}")
        _libc.mount("none", f"{tree}/source", None, MS_SHARED)
        ready, made = os.pipe()
        go, mounted = os.pipe()

        def deeper() -> bool:
            enter_deeper_namespaces()
            source = os.open(f"{tree}/source", O_DIR)
            copy, other = mounts.copy_tree(source), mounts.copy_tree(source)
            mounts.make_private()
            flags = MountFlags(nosuid=True)
            mounts.attach_tree(copy, os.open(f"{tree}/target", O_DIR), flags, source="source")
            mounts.bind(source, os.open(f"{tree}/root", O_DIR))
            os.close(other)
            os.write(made, b"x")
            os.read(go, 1)
            return os.listdir(f"{tree}/target/later") == ["new"] and os.listdir(f"{tree}/root/later") == []

        child = fork_and_run(deeper)
        os.read(ready, 1)
        tmpfs(f"{tree}/source/later")
        os.mkdir(f"{tree}/source/later/new")
        os.write(mounted, b"x")
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    assert in_namespaces(inside) == 0
