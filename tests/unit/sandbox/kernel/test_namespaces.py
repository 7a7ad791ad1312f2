"""Names of namespaces, and errors that occur without privileges."""

from __future__ import annotations

import errno
import os

import pytest

from sandbox.kernel import _libc, constants, namespaces


def test_names_become_one_set_of_flags():
    assert namespaces.flags_of(["mount", "pid"]) == 0x00020000 | 0x20000000
    assert namespaces.flags_of([]) == 0
    assert len(namespaces.FLAGS) == 8


def test_an_unknown_name_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match="unknown namespace 'network': one of user, mount, pid, net"):
        namespaces.unshare(["mount", "network"])


def test_joining_a_file_that_is_no_namespace_names_it(tmp_path):
    path = tmp_path / "x"
    path.write_text("")
    with pytest.raises(OSError) as caught:
        namespaces.join("net", str(path))
    assert caught.value.errno == errno.EINVAL
    assert caught.value.filename == str(path)


def test_joining_a_path_that_is_not_there_is_file_not_found():
    with pytest.raises(FileNotFoundError):
        namespaces.join("net", "/proc/self/ns/nothing")


def test_the_identity_of_a_namespace_is_the_kernel_s():
    assert namespaces.identity("net") == os.readlink("/proc/self/ns/net")
    assert namespaces.identity("mount", os.getpid()) == os.readlink("/proc/self/ns/mnt")


def test_a_failing_call_carries_errno_its_name_and_the_path():
    with pytest.raises(FileNotFoundError, match="openat2: No such file") as caught:
        _libc.openat2(constants.AT_FDCWD, "/nowhere/at/all", os.O_PATH)
    assert caught.value.filename == "/nowhere/at/all"


def test_openat2_stays_below_its_root(tmp_path):
    (tmp_path / "root").mkdir()
    (tmp_path / "root/link").symlink_to("../../../../../../../../etc")
    root_fd = os.open(tmp_path / "root", os.O_PATH)
    try:
        with pytest.raises(FileNotFoundError):
            _libc.openat2(root_fd, "link/passwd", os.O_PATH, 0, constants.RESOLVE_IN_ROOT)
        with pytest.raises(OSError) as caught:
            _libc.openat2(root_fd, "../root", os.O_PATH, 0, constants.RESOLVE_BENEATH)
        assert caught.value.errno == errno.EXDEV
    finally:
        os.close(root_fd)


def test_close_range_can_mark_instead_of_close():
    reader, writer = os.pipe()
    os.set_inheritable(reader, True)
    try:
        _libc.close_range(reader, reader, constants.CLOSE_RANGE_CLOEXEC)
        assert not os.get_inheritable(reader)
    finally:
        os.close(reader)
        os.close(writer)
