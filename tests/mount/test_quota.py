"""size= and inodes= bound the writable layer, and programs see the bounds."""

from __future__ import annotations

import errno
import os
import subprocess

import pytest

from tests.mount.support import make_union, wait_until

pytestmark = pytest.mark.fusermount

MIB = 1 << 20


def test_a_program_fills_the_layer_to_its_bound_and_no_further(base: str) -> None:
    with make_union(base, {"lower": b"x" * 100}, options="size=2m") as union:
        assert os.statvfs(union.path).f_blocks * os.statvfs(union.path).f_frsize == 2 * MIB
        done = subprocess.run(
            ["dd", "if=/dev/zero", f"of={union.path}/f", "bs=64k", "count=100"],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "LC_ALL": "C"},
        )
        assert done.returncode == 1
        assert "No space left on device" in done.stderr
        assert 2 * MIB - 65536 <= os.stat(f"{union.path}/f").st_size <= 2 * MIB
        assert os.statvfs(union.path).f_bavail * os.statvfs(union.path).f_frsize < 65536
        with open(f"{union.path}/lower", "rb") as file:
            assert len(file.read()) == 100
        os.unlink(f"{union.path}/f")

        def fits_again() -> bool:
            try:
                with open(f"{union.path}/g", "wb") as file:
                    file.write(b"y" * MIB)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                return False
            return True

        wait_until(fits_again, "the space of the deleted file is free again")


def test_inodes_bounds_the_number_of_objects(base: str) -> None:
    with make_union(base, {}, options="inodes=10") as union:
        with pytest.raises(OSError) as caught:
            for number in range(20):
                os.mkdir(f"{union.path}/{number}")
        assert caught.value.errno == errno.ENOSPC
        assert len(os.listdir(union.path)) == 10
        assert os.statvfs(union.path).f_favail == 0
        union.remount()
        with pytest.raises(OSError) as caught:
            os.mkdir(f"{union.path}/more")
        assert caught.value.errno == errno.ENOSPC
        os.rmdir(f"{union.path}/0")
        wait_until(lambda: os.statvfs(union.path).f_favail == 1, "the directory is forgotten")
        os.mkdir(f"{union.path}/more")


def test_space_of_a_truncated_file_can_be_used_at_once(base: str) -> None:
    with make_union(base, {}, options="size=1m") as union:
        for _ in range(3):
            with open(f"{union.path}/f", "wb", buffering=0) as file:
                assert file.write(b"x" * (MIB // 2)) == MIB // 2
                with pytest.raises(OSError, match="No space left"):
                    while file.write(b"x" * 65536):
                        pass


@pytest.mark.parametrize("what", ["names", "links", "attributes"])
def test_objects_without_contents_count_too(base: str, what: str) -> None:
    with make_union(base, {}, options="size=256k") as union:
        with open(f"{union.path}/file", "wb"):
            pass
        try:
            for number in range(1500):
                path = f"{union.path}/{'n' * 240}{number}"
                if what == "links":
                    os.link(f"{union.path}/file", path)
                    continue
                with open(path, "wb"):
                    pass
                if what == "attributes":
                    os.setxattr(path, "user.x", b"y" * 3000)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
        taken = sum(os.lstat(entry.path).st_blocks for entry in os.scandir(union.upper) if "link" not in what)
        taken += os.stat(union.upper).st_blocks
        assert taken * 512 <= 256 * 1024 + 16384


def test_a_bound_beyond_64_bits_does_not_overflow_in_statfs(base: str) -> None:
    with make_union(base, {}, options="size=999999999999999t") as union:
        assert os.statvfs(union.path).f_bavail > 0
