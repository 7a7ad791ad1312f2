"""Files whose content exists in memory only."""

from __future__ import annotations

import os
import stat

import pytest

from sandbox.kernel import memory_file, open_paths
from tests.kernel.support import refusal
from tests.support.requirements import has_subordinate_ids

pytestmark = pytest.mark.userns

PAGE = os.sysconf("SC_PAGE_SIZE")
O_DIR = os.O_PATH | os.O_DIRECTORY


@pytest.mark.parametrize("single_id", [False, True], ids=["whole map", "single id"])
@pytest.mark.parametrize("size", [0, 6, PAGE, 5 * PAGE + 1])
def test_a_file_in_memory_has_the_content_and_cannot_be_written(
    in_namespaces, open_directory, size, single_id
):
    place, target = f"{open_directory}/place", f"{open_directory}/target"
    os.mkdir(place)
    os.chmod(place, 0o777)
    with open(target, "w") as file:
        file.write("below")
    text = b"x" * size

    def inside() -> object:
        os.umask(0o077)  # the umask must have no effect
        target_fd, place_fd = os.open(target, os.O_PATH), os.open(place, O_DIR)
        fd, _ = memory_file.mount(text, target_fd, place_fd, mode=0o754, noexec=True)
        info = os.stat(target)
        with open(target, "rb") as file:
            same = file.read() == text
        flags = os.statvfs(target).f_flag & (os.ST_RDONLY | os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC)
        return (
            same,
            [stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid],
            refusal(os.open, target, os.O_WRONLY),
            refusal(os.chmod, target, 0o777),
            flags.bit_count(),
            open_paths.mount_id(fd) == open_paths.mount_id(os.open(target, os.O_PATH)),
        )

    found = in_namespaces(inside, single_id=single_id)
    assert found == [True, [0o754, 0, 0], "EROFS", "EROFS", 4, True]
    with open(target) as file:
        assert file.read() == "below"


def test_the_file_stays_when_the_mount_that_it_was_made_in_is_gone(in_namespaces, open_directory):
    place, target = f"{open_directory}/place", f"{open_directory}/target"
    os.mkdir(place)
    os.chmod(place, 0o777)
    with open(target, "w"):
        pass

    def inside() -> object:
        from sandbox.kernel import _libc, constants

        fd, _ = memory_file.mount(
            b"kept", os.open(target, os.O_PATH), os.open(place, O_DIR), mode=0o644, noexec=False
        )
        os.close(fd)
        _libc.umount2(place, constants.MNT_DETACH)
        with open(target) as file:
            return file.read(), os.listdir(place)

    assert in_namespaces(inside) == ["kept", []]


@pytest.mark.skipif(os.geteuid() != 0 and not has_subordinate_ids(), reason="this account has a single id")
def test_a_file_changes_its_owner_and_keeps_its_mode_while_it_is_mounted_read_only(
    in_namespaces, open_directory
):
    place, target = f"{open_directory}/place", f"{open_directory}/target"
    os.mkdir(place)
    os.chmod(place, 0o777)
    with open(target, "w"):
        pass

    def inside() -> object:
        target_fd, place_fd = os.open(target, os.O_PATH), os.open(place, O_DIR)
        _, file_fd = memory_file.mount(b"", target_fd, place_fd, mode=0o6750, noexec=False)
        memory_file.change_owner(file_fd, 7, 8)
        info = os.stat(target)
        return [stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid], refusal(os.chown, target, 9, 9)

    assert in_namespaces(inside) == [[0o6750, 7, 8], "EROFS"]


def test_a_file_cannot_be_mounted_on_a_directory(in_namespaces, open_directory):
    for name in ("place", "target"):
        os.mkdir(f"{open_directory}/{name}")
        os.chmod(f"{open_directory}/{name}", 0o777)

    def inside() -> object:
        target, place = (os.open(f"{open_directory}/{name}", O_DIR) for name in ("target", "place"))
        return refusal(memory_file.mount, b"", target, place, mode=0o644, noexec=False)

    assert in_namespaces(inside) == "ENOTDIR"
