"""POSIX access control lists on a mount are kept, inherited, enforced, and copied up."""

from __future__ import annotations

import errno
import os
import stat
import struct
import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.mount.support import SERVER, environment, make_union, now_and_remounted

pytestmark = pytest.mark.fusermount

ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"
_NONE = (1 << 32) - 1
_OTHER_USER = 4321


def acl(user: int, group: int, other: int, *, named: tuple[int, int] | None = None) -> bytes:
    """Return a list with these permissions; *named* is a further user and its permissions."""
    entries = [(0x01, user, _NONE), (0x04, group, _NONE), (0x20, other, _NONE)]
    if named is not None:
        entries[1:2] = [(0x02, named[1], named[0]), (0x04, group, _NONE), (0x10, 7, _NONE)]
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


@pytest.fixture
def _lists(base: str) -> None:
    try:
        os.setxattr(base, DEFAULT, acl(7, 7, 7))
        os.removexattr(base, DEFAULT)
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        pytest.skip("the file system of the temporary directory has no access control lists")


def as_user(uid: int, action: Callable[[], object]) -> int:
    """Run *action* as *uid* without groups; return its errno, or 0 if it succeeded."""
    child = os.fork()
    if child == 0:
        status = 255
        try:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            action()
            status = 0
        except OSError as error:
            status = error.errno or 255
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


@pytest.mark.usefixtures("_lists")
def test_a_list_is_kept_over_copy_up_and_a_remount(base: str) -> None:
    me = os.geteuid()
    union = make_union(base, {"f": b"x" * 50_000, "d": {}})
    os.setxattr(f"{base}/lower0/f", ACCESS, acl(6, 4, 0, named=(me, 5)))
    os.setxattr(f"{base}/lower0/d", DEFAULT, acl(7, 5, 0, named=(me, 3)))
    expected = os.getxattr(f"{base}/lower0/f", ACCESS)
    with union:
        os.utime(f"{union.path}/f")
        os.utime(f"{union.path}/d")
        for _ in now_and_remounted(union):
            assert os.getxattr(f"{union.path}/f", ACCESS) == expected
            assert os.getxattr(f"{union.path}/d", DEFAULT) == os.getxattr(f"{base}/lower0/d", DEFAULT)
        # The group class is the mask then (acl(5)).
        os.chmod(f"{union.path}/f", 0o600)
        assert os.getxattr(f"{union.path}/f", ACCESS) == os.getxattr(f"{union.upper}/f", ACCESS)
        assert stat.S_IMODE(os.stat(f"{union.path}/f").st_mode) == 0o600


@pytest.mark.whiteouts  # the server cannot look for marks with names in a directory that it may not search
@pytest.mark.usefixtures("_lists")
def test_objects_made_in_a_directory_inherit_its_list(base: str) -> None:
    with make_union(base, {"d": {"gone": b"", "gonedir": {}}, "plain": {}}) as union:
        plain = f"{base}/plain"
        os.mkdir(plain)
        default = acl(7, 5, 1, named=(os.geteuid(), 2))
        os.unlink(f"{union.path}/d/gone")
        os.rmdir(f"{union.path}/d/gonedir")
        for directory in (f"{union.path}/d", plain):
            os.setxattr(directory, DEFAULT, default)
            for name, make in (("new", os.mkdir), ("gonedir", os.mkdir), ("gone", os.mknod), ("f", os.mknod)):
                make(f"{directory}/{name}", 0o666)
            if SERVER != "pyfuse3":  # pyfuse3 does not support O_TMPFILE
                with open(os.open(directory, os.O_TMPFILE | os.O_RDWR, 0o666), "wb") as file:
                    at = os.open(directory, os.O_PATH)
                    os.link(f"/proc/self/fd/{file.fileno()}", "unnamed", dst_dir_fd=at, follow_symlinks=True)
                    os.close(at)
        names = ["new", "gonedir", "gone", "f", *(["unnamed"] if SERVER != "pyfuse3" else [])]
        for _ in now_and_remounted(union):
            for name in names:
                ours, theirs = f"{union.path}/d/{name}", f"{plain}/{name}"
                assert os.stat(ours).st_mode == os.stat(theirs).st_mode, name
                assert sorted(os.listxattr(ours)) == sorted(os.listxattr(theirs)), name
                for attribute in os.listxattr(theirs):
                    assert os.getxattr(ours, attribute) == os.getxattr(theirs, attribute), name


@pytest.mark.root
@pytest.mark.usefixtures("_lists")
def test_a_list_grants_access_to_the_users_that_it_names_only(base: str) -> None:
    os.chmod(base, 0o755)
    with make_union(base, {"f": b"secret"}) as union:
        path = f"{union.path}/f"
        os.chmod(path, 0o600)
        assert as_user(_OTHER_USER, lambda: read(path)) == errno.EACCES
        os.setxattr(path, ACCESS, acl(6, 0, 0, named=(_OTHER_USER, 4)))
        for _ in now_and_remounted(union):
            assert as_user(_OTHER_USER, lambda: read(path)) == 0
            assert as_user(_OTHER_USER + 1, lambda: read(path)) == errno.EACCES


@pytest.mark.root
@pytest.mark.usefixtures("_lists")
def test_a_list_set_by_a_user_outside_of_the_group_clears_the_set_group_id_bit(base: str) -> None:
    os.chmod(base, 0o755)
    with make_union(base, {"f": b""}) as union:
        path = f"{union.path}/f"
        os.chown(path, _OTHER_USER, 99)
        os.chmod(path, 0o2750)
        assert as_user(_OTHER_USER, lambda: os.setxattr(path, ACCESS, acl(7, 5, 0, named=(1, 4)))) == 0
        assert not os.stat(path).st_mode & stat.S_ISGID
        os.chmod(path, 0o2750)
        os.setxattr(path, ACCESS, acl(7, 5, 0, named=(1, 4)))  # root may
        assert os.stat(path).st_mode & stat.S_ISGID


@pytest.mark.usefixtures("_lists")
def test_without_acl_support_no_list_is_shown_or_accepted(base: str) -> None:
    union = make_union(base, {"f": b""}, options="noacl")
    os.setxattr(f"{base}/lower0/f", ACCESS, acl(6, 4, 0, named=(os.geteuid(), 5)))
    with union:
        assert os.listxattr(f"{union.path}/f") == []
        with pytest.raises(OSError) as caught:
            os.setxattr(f"{union.path}/f", ACCESS, acl(6, 4, 0))
        assert caught.value.errno == errno.EOPNOTSUPP


@pytest.mark.root
@pytest.mark.usefixtures("_lists")
def test_lists_are_enforced_in_a_user_namespace(base: str) -> None:
    os.chmod(base, 0o755)
    script = (
        "import os, sys, struct; path = sys.argv[1]; "
        "value = struct.pack('<I', 2) + b''.join(struct.pack('<HHI', *e) for e in "
        "[(1, 6, 2**32-1), (2, 4, 77), (4, 0, 2**32-1), (16, 4, 2**32-1), (32, 0, 2**32-1)]); "
        "os.setxattr(path, 'system.posix_acl_access', value); "
        "assert os.getxattr(path, 'system.posix_acl_access') == value; "
        "os.setresgid(77, 77, 77); os.setresuid(77, 77, 77); print(open(path).read())"
    )
    wrapper = ["unshare", "--user", "--map-users=0:0:100000", "--map-groups=0:0:100000", "--mount"]
    for name in ("lower0", "upper", "work", "mnt"):
        os.makedirs(f"{base}/{name}", exist_ok=True)
    with open(f"{base}/lower0/f", "w", encoding="ascii") as file:
        file.write("secret")
    os.chmod(f"{base}/lower0/f", 0o600)
    command = (
        f'"$1" -m unionfs -o lowerdir={base}/lower0,upperdir={base}/upper,workdir={base}/work {base}/mnt '
        f'&& "$1" -c "$2" {base}/mnt/f; status=$?; umount {base}/mnt; exit $status'
    )
    done = subprocess.run(
        [*wrapper, "sh", "-c", command, "sh", sys.executable, script],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout.strip(), done.stderr, done.returncode) == ("secret", "", 0)


@pytest.mark.root
def test_with_owners_in_attributes_a_default_list_puts_no_set_id_bit_on_disk(base: str) -> None:
    with make_union(base, {"d/f": b""}, options="xattr_permissions=2", writable=True) as union:
        os.mkdir(f"{union.path}/new")
        os.setxattr(f"{union.upper}/new", DEFAULT, acl(7, 7, 7, named=(_OTHER_USER, 7)))
        os.chown(f"{union.path}/new", 1000, 1000)
        os.mknod(f"{union.path}/new/s", stat.S_IFREG | 0o755)
        subprocess.run(
            [sys.executable, "-c", _MAKE_SET_ID, f"{union.path}/new/t"], check=True, env=environment()
        )
        assert os.stat(f"{union.path}/new/t").st_uid == 1000
        assert os.stat(f"{union.path}/new/t").st_mode & stat.S_ISUID
        on_disk = os.stat(f"{union.upper}/new/t")
        assert on_disk.st_uid == 0
        assert not on_disk.st_mode & stat.S_ISUID


_MAKE_SET_ID = """
import os, sys
fd = os.open(os.path.dirname(sys.argv[1]), os.O_PATH)
os.setresgid(1000, 1000, 1000)
os.setresuid(1000, 1000, 1000)
os.umask(0)
os.close(os.open("/proc/self/fd/%d/t" % fd, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o4755))
"""
