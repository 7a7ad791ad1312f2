"""Paths that are masked or read-only, in a fresh user and mount namespace."""

from __future__ import annotations

import os

import pytest

from sandbox.kernel import filesystems, masked_paths, open_paths
from sandbox.kernel.mount_flags import MountFlags
from tests.kernel.support import O_DIR, entry_at, refusal, tmpfs, touch

pytestmark = pytest.mark.userns


@pytest.mark.parametrize("single_id", [False, True], ids=["whole map", "single id"])
def test_masked_paths_are_empty_and_read_only_paths_cannot_be_written(in_namespaces, tree, single_id):
    def inside() -> object:
        null = os.open("/dev/null", os.O_PATH)
        tmpfs(f"{tree}/root")
        os.makedirs(f"{tree}/root/proc")
        os.makedirs(f"{tree}/root/sys")
        root = os.open(f"{tree}/root", O_DIR)
        filesystems.mount_proc(open_paths.open_in_root(root, "/proc"))
        filesystems.mount_sysfs(open_paths.open_in_root(root, "/sys"))
        masked_paths.mask(root, masked_paths.MASKED_PATHS, null)
        masked_paths.make_read_only(root, masked_paths.READONLY_PATHS)
        below = f"{tree}/root"
        with open(f"{below}/proc/keys") as file:
            keys = file.read()
        firmware = os.listdir(f"{below}/sys/firmware") if os.path.isdir(f"{below}/sys/firmware") else []
        write = refusal(os.open, f"{below}/proc/sys/net/ipv4/ip_forward", os.O_WRONLY)
        read_only = [
            bool(os.statvfs(below + path).f_flag & os.ST_RDONLY)
            for path in masked_paths.READONLY_PATHS
            if os.path.exists(below + path)
        ]
        create = refusal(touch, f"{below}/sys/firmware/x")
        return keys, firmware, write, read_only, create, len(os.listdir(f"{below}/proc/sys"))

    kinds = ("mount", "pid", "net")
    keys, firmware, write, read_only, create, entries = in_namespaces(
        inside, kinds=kinds, single_id=single_id
    )
    assert (keys, firmware, write, create) == ("", [], "EROFS", "EROFS")
    assert len(read_only) >= 3
    assert all(read_only)
    assert entries > 3


def test_directories_above_a_masked_path_are_pinned_and_those_above_the_root_are_not(in_namespaces, tree):
    def inside() -> object:
        null, root = os.open("/dev/null", os.O_PATH), os.open(f"{tree}/source", O_DIR)
        masked_paths.mask(root, ["/sub/deep"], null)
        moved = [refusal(os.rename, f"{tree}/{name}", f"{tree}/moved") for name in ("source/sub", "source")]
        return moved, entry_at(f"{tree}/moved/sub").mount_point

    assert in_namespaces(inside) == [["EBUSY", None], f"{tree}/moved/sub"]


def test_masking_skips_paths_that_do_not_exist(in_namespaces, tree):
    def inside() -> object:
        null, root = os.open("/dev/null", os.O_PATH), os.open(f"{tree}/source", O_DIR)
        masked_paths.mask(root, ["/nothing", "/file/below", "/file"], null)
        masked_paths.make_read_only(root, ["/nothing", "/sub"])
        with open(f"{tree}/source/file") as file:
            return file.read(), refusal(touch, f"{tree}/source/sub/x")

    assert in_namespaces(inside) == ["", "EROFS"]


def test_masking_by_a_prefix_hides_all_names_with_it(in_namespaces, tree):
    for name in ("cpu0", "cpu1", "cpux", "other"):
        os.makedirs(f"{tree}/source/{name}/throttle")
        os.chmod(f"{tree}/source/{name}/throttle", 0o777)
    with open(f"{tree}/source/cpu", "w") as file:
        file.write("content")

    def inside() -> object:
        null, root = os.open("/dev/null", os.O_PATH), os.open(f"{tree}/source", O_DIR)
        masked_paths.mask(root, ["/cpu*/throttle", "/fi*", "/nothing/x*", "/file/x*"], null)
        masked_paths.make_read_only(root, ["/ot*"])
        refused = [refusal(touch, f"{tree}/source/{name}/throttle/x") for name in ("cpu0", "cpu1", "other")]
        with open(f"{tree}/source/file") as file, open(f"{tree}/source/cpu") as other:
            return refused, file.read(), other.read()

    assert in_namespaces(inside) == [["EROFS", "EROFS", "EROFS"], "", "content"]


def test_read_only_paths_stay_executable(in_namespaces, tree):
    def inside() -> object:
        root = os.open(tree, O_DIR)
        tmpfs(f"{tree}/source", flags=MountFlags())
        masked_paths.make_read_only(root, ["/source"])
        return list(entry_at(f"{tree}/source").options)

    assert "noexec" not in in_namespaces(inside)
