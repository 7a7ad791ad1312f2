"""Mounts, each in a fresh user and mount namespace."""

from __future__ import annotations

import errno
import os
from typing import Any

import pytest

from sandbox.kernel import _libc, idmaps, mounts, namespaces, process, trees
from sandbox.kernel.mountinfo import MountEntry, parse_mountinfo
from sandbox.kernel.mounts import MountFlags
from tests.kernel.support import fork_and_run, refusal

pytestmark = pytest.mark.userns

O_DIR = os.O_PATH | os.O_DIRECTORY
MS_SHARED = 1 << 20
FALLBACK = pytest.mark.parametrize("use_setattr", [True, False], ids=["mount_setattr", "remount"])


def entry_at(path: str) -> MountEntry:
    """The topmost mount at *path*."""
    with open("/proc/self/mountinfo") as file:
        return [entry for entry in parse_mountinfo(file.read()) if entry.mount_point == path][-1]


def enter_deeper_namespaces() -> None:
    """Enter a user and mount namespace below the present one: what is mounted now came from a more privileged one."""
    process.set_dumpable(True)  # a change of ids made /proc/self root's
    namespaces.unshare(["user", "mount"])
    for name, text in (("setgroups", "deny"), ("uid_map", "0 0 1"), ("gid_map", "0 0 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def tmpfs(path: str, **options: Any) -> None:
    fd = os.open(path, O_DIR)
    mounts.mount_tmpfs(fd, **options)
    os.close(fd)


def touch(path: str) -> None:
    with open(path, "w"):
        pass


@pytest.fixture
def tree(open_directory) -> str:
    """Directories to mount on."""
    for name in ("source", "source/sub", "source/sub/deep", "target", "root"):
        os.mkdir(f"{open_directory}/{name}")
        os.chmod(f"{open_directory}/{name}", 0o777)
    for name, content in (("source/file", "content"), ("plain", "")):
        with open(f"{open_directory}/{name}", "w") as file:
            file.write(content)
    return open_directory


def test_tmpfs_has_the_size_mode_and_inodes_that_were_asked_for(in_namespaces, tree):
    def inside() -> object:
        tmpfs(f"{tree}/target", size=1 << 20, mode=0o1700, inodes=10)
        found = os.statvfs(f"{tree}/target")
        mode = os.stat(f"{tree}/target").st_mode & 0o7777
        return found.f_blocks * found.f_frsize, found.f_files, mode, list(entry_at(f"{tree}/target").options)

    assert in_namespaces(inside) == [1 << 20, 10, 0o1700, ["rw", "nosuid", "nodev", "relatime"]]


def test_a_directory_within_is_opened_past_no_link_and_no_mount(in_namespaces, tree):
    def inside() -> object:
        tmpfs(f"{tree}/source/sub/deep")
        os.symlink("sub", f"{tree}/source/link")
        source = os.open(f"{tree}/source", O_DIR)
        found = os.path.samestat(os.fstat(mounts.open_within(source, "sub")), os.stat(f"{tree}/source/sub"))
        paths = ("link", "sub/deep", "..", "/source", "file", "absent")
        return found, [refusal(mounts.open_within, source, path) for path in paths]

    assert in_namespaces(inside) == [True, ["ELOOP", "EXDEV", "EXDEV", "EXDEV", "ENOTDIR", "ENOENT"]]


def test_a_refused_option_is_reported_with_the_kernel_s_own_words(in_namespaces, tree):
    def inside() -> object:
        fd = os.open(f"{tree}/target", O_DIR)
        try:
            mounts.mount_filesystem("tmpfs", fd, options={"colour": "red"}, flags=MountFlags())
        except OSError as error:
            return [error.errno, error.strerror, error.filename]

    number, text, path = in_namespaces(inside)
    assert number == errno.EINVAL
    assert "mount tmpfs: fsconfig colour" in text
    assert "Unknown parameter 'colour'" in text
    assert path == f"{tree}/target"


@FALLBACK
def test_a_read_only_bind_holds_for_every_mount_below_it(in_namespaces, tree, use_setattr):
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
    """The reason for what the test before this one asks for."""

    def inside() -> object:
        lock_a_tmpfs(f"{tree}/source/sub")
        mounts.bind(os.open(f"{tree}/source/sub", O_DIR), os.open(f"{tree}/target", O_DIR))
        flags = _libc.MS_REMOUNT | _libc.MS_BIND | _libc.MS_RDONLY
        return refusal(_libc.mount, "none", f"{tree}/target", None, flags)

    assert in_namespaces(inside) == "EPERM"


@FALLBACK
def test_every_flag_of_a_bind_is_set_on_it_and_below(in_namespaces, tree, use_setattr):
    def inside() -> object:
        # Not below the test's own directory: that one's file system may have flags already.
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
    """As on machines where an initramfs has mounted /dev/pts and the system mounts it again."""

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
def test_what_only_real_root_may_reach_is_bound_by_a_descriptor_opened_before_the_change_of_ids(tree):
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


def test_a_bind_that_would_uncover_what_the_host_covers_is_refused(in_namespaces, tree):
    def inside() -> object:
        root, target = os.open("/", O_DIR), os.open(f"{tree}/target", O_DIR)
        return refusal(mounts.bind, root, target, recursive=False), refusal(mounts.bind, root, target)

    assert in_namespaces(inside) == ["EINVAL", None]


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
            mounts.path_of(mounts.open_in_root(root, name))
            for name in ("absolute", "up", "/../..", "/source")
        ]
        return (
            found,
            refusal(mounts.open_in_root, root, "magic"),
            refusal(mounts.open_in_root, root, "/proc/1/cwd"),
        )

    expected = [f"{tree}/root/source", f"{tree}/root/source", f"{tree}/root", f"{tree}/root/source"]
    found, magic, direct = in_namespaces(inside)
    assert found == expected
    assert magic == "EXDEV"
    assert direct in {
        "EXDEV",
        "EACCES",
    }  # without the capability to trace process 1 the link cannot even be read


def test_a_target_that_must_be_a_directory_is_refused_otherwise(tree):
    root = os.open(tree, O_DIR)
    try:
        assert refusal(mounts.open_in_root, root, "plain", directory=True) == "ENOTDIR"
        assert refusal(mounts.open_in_root, root, "nothing") == "ENOENT"
        os.close(mounts.open_in_root(root, "plain"))
    finally:
        os.close(root)


def test_proc_shows_the_new_pid_namespace_only(in_namespaces, tree):
    def inside() -> object:
        mounts.mount_proc(os.open(f"{tree}/target", O_DIR))
        pids = [name for name in os.listdir(f"{tree}/target") if name.isdigit()]
        return pids, os.getpid(), list(entry_at(f"{tree}/target").options)

    pids, own, options = in_namespaces(inside, kinds=("mount", "pid"))
    assert pids == ["1"]
    assert own == 1
    assert {"nosuid", "nodev", "noexec"} <= set(options)


def test_proc_is_refused_where_the_host_s_is_partly_covered_for_good(in_namespaces, tree):
    def inside() -> object:
        mounts.mask(os.open("/", O_DIR), ["/proc/sys"], os.open("/dev/null", os.O_PATH))
        enter_deeper_namespaces()
        namespaces.unshare(["pid"])
        reader, writer = os.pipe()
        if os.fork() == 0:
            try:
                os.write(writer, str(refusal(mounts.mount_proc, os.open(f"{tree}/target", O_DIR))).encode())
            finally:
                os._exit(0)
        os.wait()
        return os.read(reader, 10).decode()

    assert in_namespaces(inside) == "EPERM"


def test_sysfs_is_read_only_and_shows_the_new_network_namespace(in_namespaces, tree):
    def inside() -> object:
        mounts.mount_sysfs(os.open(f"{tree}/target", O_DIR))
        options = list(entry_at(f"{tree}/target").options)
        return os.listdir(f"{tree}/target/class/net"), options[0]

    assert in_namespaces(inside, kinds=("mount", "net")) == [["lo"], "ro"]


def test_sysfs_is_refused_with_the_host_s_network_namespace(in_namespaces, tree):
    def inside() -> object:
        return refusal(mounts.mount_sysfs, os.open(f"{tree}/target", O_DIR))

    assert in_namespaces(inside) == "EPERM"


def test_devpts_is_a_new_instance_whose_terminals_work(in_namespaces, tree):
    def inside() -> object:
        mounts.mount_devpts(os.open(f"{tree}/target", O_DIR))
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
        return refusal(mounts.mount_devpts, os.open(f"{tree}/target", O_DIR), tty_gid=5)

    assert in_namespaces(inside) == (None if in_namespaces.has_whole_map() else "EINVAL")
    assert in_namespaces(inside, single_id=True) == "EINVAL"


def test_mqueue_needs_an_ipc_namespace_of_one_s_own(in_namespaces, tree):
    def inside() -> object:
        return refusal(mounts.mount_mqueue, os.open(f"{tree}/target", O_DIR))

    assert in_namespaces(inside, kinds=("mount", "ipc")) is None
    assert in_namespaces(inside) == "EPERM"


def test_after_pivot_nothing_of_the_host_is_mounted_or_reachable(in_namespaces, tree):
    def inside() -> object:
        tmpfs(f"{tree}/root")
        os.makedirs(f"{tree}/root/proc")
        root = os.open(f"{tree}/root", O_DIR)
        mounts.mount_proc(mounts.open_in_root(root, "proc"))
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


@pytest.mark.parametrize("single_id", [False, True], ids=["whole map", "single id"])
def test_masked_paths_are_empty_and_read_only_paths_are_so(in_namespaces, tree, single_id):
    def inside() -> object:
        null = os.open("/dev/null", os.O_PATH)
        tmpfs(f"{tree}/root")
        os.makedirs(f"{tree}/root/proc")
        os.makedirs(f"{tree}/root/sys")
        root = os.open(f"{tree}/root", O_DIR)
        mounts.mount_proc(mounts.open_in_root(root, "/proc"))
        mounts.mount_sysfs(mounts.open_in_root(root, "/sys"))
        mounts.mask(root, mounts.MASKED_PATHS, null)
        mounts.make_read_only(root, mounts.READONLY_PATHS)
        below = f"{tree}/root"
        with open(f"{below}/proc/keys") as file:
            keys = file.read()
        firmware = os.listdir(f"{below}/sys/firmware") if os.path.isdir(f"{below}/sys/firmware") else []
        write = refusal(os.open, f"{below}/proc/sys/net/ipv4/ip_forward", os.O_WRONLY)
        read_only = [
            bool(os.statvfs(below + path).f_flag & os.ST_RDONLY)
            for path in mounts.READONLY_PATHS
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


def test_directories_above_what_is_masked_are_held_and_those_above_the_root_are_not(in_namespaces, tree):
    def inside() -> object:
        null, root = os.open("/dev/null", os.O_PATH), os.open(f"{tree}/source", O_DIR)
        mounts.mask(root, ["/sub/deep"], null)
        moved = [refusal(os.rename, f"{tree}/{name}", f"{tree}/moved") for name in ("source/sub", "source")]
        return moved, entry_at(f"{tree}/moved/sub").mount_point

    assert in_namespaces(inside) == [["EBUSY", None], f"{tree}/moved/sub"]


def test_masking_leaves_out_what_is_not_there(in_namespaces, tree):
    def inside() -> object:
        null, root = os.open("/dev/null", os.O_PATH), os.open(f"{tree}/source", O_DIR)
        mounts.mask(root, ["/nothing", "/file/below", "/file"], null)
        mounts.make_read_only(root, ["/nothing", "/sub"])
        with open(f"{tree}/source/file") as file:
            return file.read(), refusal(touch, f"{tree}/source/sub/x")

    assert in_namespaces(inside) == ["", "EROFS"]


@pytest.mark.fuse
@pytest.mark.parametrize("single_id", [False, True], ids=["whole map", "single id"])
def test_fuse_is_mounted_nodev_and_needs_no_server_for_that(in_namespaces, tree, single_id):
    def inside(fuse_fd: int) -> object:
        root = mounts.mount_fuse(fuse_fd, os.open(f"{tree}/target", O_DIR), posix_acl=True)
        entry = entry_at(f"{tree}/target")
        path, kind = mounts.path_of(root), entry.fstype
        os.close(fuse_fd)  # the last descriptor: the connection ends, and no request can hang
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
        assert in_namespaces(lambda: refusal(mounts.mount_fuse, outer, os.open(target, O_DIR))) == "EINVAL"
    finally:
        os.close(outer)


def test_masking_by_the_beginning_of_a_name_hides_all_that_begin_so(in_namespaces, tree):
    for name in ("cpu0", "cpu1", "cpux", "other"):
        os.makedirs(f"{tree}/source/{name}/throttle")
        os.chmod(f"{tree}/source/{name}/throttle", 0o777)
    with open(f"{tree}/source/cpu", "w") as file:
        file.write("content")

    def inside() -> object:
        null, root = os.open("/dev/null", os.O_PATH), os.open(f"{tree}/source", O_DIR)
        mounts.mask(root, ["/cpu*/throttle", "/fi*", "/nothing/x*", "/file/x*"], null)
        mounts.make_read_only(root, ["/ot*"])
        refused = [refusal(touch, f"{tree}/source/{name}/throttle/x") for name in ("cpu0", "cpu1", "other")]
        with open(f"{tree}/source/file") as file, open(f"{tree}/source/cpu") as other:
            return refused, file.read(), other.read()

    assert in_namespaces(inside) == [["EROFS", "EROFS", "EROFS"], "", "content"]


def test_what_is_made_read_only_stays_executable(in_namespaces, tree):
    def inside() -> object:
        root = os.open(tree, O_DIR)
        tmpfs(f"{tree}/source", flags=MountFlags())
        mounts.make_read_only(root, ["/source"])
        return list(entry_at(f"{tree}/source").options)

    assert "noexec" not in in_namespaces(inside)


@FALLBACK
def test_flags_are_added_to_a_mount_that_is_there_and_not_below_it(in_namespaces, tree, use_setattr):
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


def test_paths_below_a_directory_lead_nowhere_out_of_it(tree):
    os.symlink("/source", f"{tree}/root/absolute")
    os.symlink("../source", f"{tree}/root/up")
    os.symlink("sub/deep", f"{tree}/source/within")
    os.symlink("../source/sub", f"{tree}/source/out-and-in")
    root, source = os.open(f"{tree}/root", O_DIR), os.open(f"{tree}/source", O_DIR)
    try:
        refused = [refusal(mounts.open_beneath, root, path) for path in ("absolute", "up", "..", "/source")]
        assert refused == ["EXDEV"] * 4
        assert refusal(mounts.open_beneath, source, "out-and-in") == "EXDEV"
        assert refusal(mounts.open_beneath, source, "file", directory=True) == "ENOTDIR"
        within = mounts.open_beneath(source, "within")
        assert mounts.path_of(within) == f"{tree}/source/sub/deep"
        os.close(within)
        assert refusal(mounts.open_in_root, source, "/within", links=False) == "ELOOP"
    finally:
        os.close(root)
        os.close(source)


def test_a_source_is_opened_without_following_a_link_that_came_there(tree):
    os.symlink("sub", f"{tree}/source/link")
    os.close(mounts.open_real(f"{os.path.realpath(tree)}/source/sub", directory=True))
    for path in ("source/link", "source/link/deep"):
        assert refusal(mounts.open_real, f"{os.path.realpath(tree)}/{path}") == "ELOOP"


def test_a_path_that_is_swapped_for_a_link_meanwhile_never_leads_out(tree):
    """The race that a path string would lose: the swap falls between looking and opening."""
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
            for opener in (mounts.open_beneath, mounts.open_in_root):
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
    # Beneath, the link is an escape; in the root, ".." stays there, and the root has no "source".
    assert {"EXDEV", "ENOENT"} <= refused <= {"EXDEV", "ENOENT", "EAGAIN"}


def test_a_copy_of_a_slave_shows_what_is_mounted_later_and_others_do_not(in_namespaces, tree):
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
