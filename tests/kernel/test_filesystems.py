"""New file systems, each mounted in a fresh user and mount namespace."""

from __future__ import annotations

import errno
import os

import pytest

from sandbox.kernel import filesystems, masked_paths, namespaces, open_paths
from sandbox.kernel.mount_flags import MountFlags
from tests.kernel.support import O_DIR, enter_deeper_namespaces, entry_at, refusal, tmpfs

pytestmark = pytest.mark.userns


def test_tmpfs_has_the_requested_size_mode_and_inodes(in_namespaces, tree):
    def inside() -> object:
        tmpfs(f"{tree}/target", size=1 << 20, mode=0o1700, inodes=10)
        found = os.statvfs(f"{tree}/target")
        mode = os.stat(f"{tree}/target").st_mode & 0o7777
        return found.f_blocks * found.f_frsize, found.f_files, mode, list(entry_at(f"{tree}/target").options)

    assert in_namespaces(inside) == [1 << 20, 10, 0o1700, ["rw", "nosuid", "nodev", "relatime"]]


def test_a_refused_option_is_reported_with_the_kernels_message(in_namespaces, tree):
    def inside() -> object:
        fd = os.open(f"{tree}/target", O_DIR)
        try:
            filesystems.mount_filesystem("tmpfs", fd, options={"colour": "red"}, flags=MountFlags())
        except OSError as error:
            return [error.errno, error.strerror, error.filename]

    number, text, path = in_namespaces(inside)
    assert number == errno.EINVAL
    assert "mount tmpfs: fsconfig colour" in text
    assert "Unknown parameter 'colour'" in text
    assert path == f"{tree}/target"


def test_proc_shows_the_new_pid_namespace_only(in_namespaces, tree):
    def inside() -> object:
        filesystems.mount_proc(os.open(f"{tree}/target", O_DIR))
        pids = [name for name in os.listdir(f"{tree}/target") if name.isdigit()]
        return pids, os.getpid(), list(entry_at(f"{tree}/target").options)

    pids, own, options = in_namespaces(inside, kinds=("mount", "pid"))
    assert pids == ["1"]
    assert own == 1
    assert {"nosuid", "nodev", "noexec"} <= set(options)


def test_proc_is_refused_where_locked_mounts_cover_parts_of_the_hosts(in_namespaces, tree):
    def inside() -> object:
        masked_paths.mask(os.open("/", O_DIR), ["/proc/sys"], os.open("/dev/null", os.O_PATH))
        enter_deeper_namespaces()
        namespaces.unshare(["pid"])
        reader, writer = os.pipe()
        if os.fork() == 0:
            try:
                os.write(
                    writer, str(refusal(filesystems.mount_proc, os.open(f"{tree}/target", O_DIR))).encode()
                )
            finally:
                os._exit(0)
        os.wait()
        return os.read(reader, 10).decode()

    assert in_namespaces(inside) == "EPERM"


def test_sysfs_is_read_only_and_shows_the_new_network_namespace(in_namespaces, tree):
    def inside() -> object:
        filesystems.mount_sysfs(os.open(f"{tree}/target", O_DIR))
        options = list(entry_at(f"{tree}/target").options)
        return os.listdir(f"{tree}/target/class/net"), options[0]

    assert in_namespaces(inside, kinds=("mount", "net")) == [["lo"], "ro"]


def test_sysfs_is_refused_with_the_hosts_network_namespace(in_namespaces, tree):
    def inside() -> object:
        return refusal(filesystems.mount_sysfs, os.open(f"{tree}/target", O_DIR))

    assert in_namespaces(inside) == "EPERM"


def test_devpts_is_a_new_instance_whose_terminals_work(in_namespaces, tree):
    def inside() -> object:
        filesystems.mount_devpts(os.open(f"{tree}/target", O_DIR))
        # os.openpty() would use the host's /dev/ptmx.
        ptmx = os.open(f"{tree}/target/ptmx", os.O_RDWR | os.O_NOCTTY)
        import fcntl
        import struct

        fcntl.ioctl(ptmx, 0x40045431, struct.pack("i", 0))  # TIOCSPTLCK: unlock
        number = struct.unpack("i", fcntl.ioctl(ptmx, 0x80045430, bytes(4)))[0]  # TIOCGPTN
        terminal = os.open(f"{tree}/target/{number}", os.O_RDWR | os.O_NOCTTY)
        os.write(terminal, b"hello")
        status = os.fstat(terminal)
        return (
            number,
            os.read(ptmx, 10).decode(),
            status.st_mode & 0o777,
            sorted(os.listdir(f"{tree}/target")),
        )

    assert in_namespaces(inside) == [0, "hello", 0o600, ["0", "ptmx"]]


def test_devpts_gives_terminals_to_the_tty_group_where_it_is_mapped(in_namespaces, tree):
    def inside() -> object:
        return refusal(filesystems.mount_devpts, os.open(f"{tree}/target", O_DIR), tty_gid=5)

    assert in_namespaces(inside) == (None if in_namespaces.has_whole_map() else "EINVAL")
    assert in_namespaces(inside, single_id=True) == "EINVAL"


def test_mqueue_needs_a_new_ipc_namespace(in_namespaces, tree):
    def inside() -> object:
        return refusal(filesystems.mount_mqueue, os.open(f"{tree}/target", O_DIR))

    assert in_namespaces(inside, kinds=("mount", "ipc")) is None
    assert in_namespaces(inside) == "EPERM"


@pytest.mark.fuse
@pytest.mark.parametrize("single_id", [False, True], ids=["whole map", "single id"])
def test_fuse_is_mounted_nodev_without_a_server(in_namespaces, tree, single_id):
    def inside(fuse_fd: int) -> object:
        root = filesystems.mount_fuse(fuse_fd, os.open(f"{tree}/target", O_DIR), posix_acl=True)
        entry = entry_at(f"{tree}/target")
        path, kind = open_paths.path_of(root), entry.fstype
        os.close(fuse_fd)  # Closing the last descriptor ends the connection, so no request can hang.
        return (
            path,
            kind,
            list(entry.options),
            list(entry.super_options),
            refusal(os.listdir, f"{tree}/target"),
        )

    path, kind, options, super_options, listing = in_namespaces(inside, with_fuse=True, single_id=single_id)
    assert path == f"{tree}/target"
    assert kind == "fuse"
    assert {"nodev", "nosuid"} <= set(options)
    assert {"user_id=0", "group_id=0", "default_permissions", "allow_other"} <= set(super_options)
    assert listing == "ENOTCONN"


@pytest.mark.fuse
def test_a_fuse_descriptor_of_another_user_namespace_is_refused(in_namespaces, tree):
    outer = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    try:
        target = f"{tree}/target"
        assert (
            in_namespaces(lambda: refusal(filesystems.mount_fuse, outer, os.open(target, O_DIR))) == "EINVAL"
        )
    finally:
        os.close(outer)
