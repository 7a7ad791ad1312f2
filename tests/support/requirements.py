"""pytest plugin: requirements of tests as markers. Each requirement is probed once.

A test with an unmet requirement is skipped with a sentence that names the missing thing and the remedy. With
SANDBOX_TESTS_STRICT=1 it fails instead, unless root cannot provide the thing on this machine (`Missing.removable` is
false).
"""

from __future__ import annotations

import errno
import functools
import os
import shutil
import stat
import sysconfig
import tempfile

import pytest

from tests.support.network_probes import probe_networks, probe_pasta, probe_slirp4netns
from tests.support.probing import Missing, Probe, account, try_command

STRICT = os.environ.get("SANDBOX_TESTS_STRICT") == "1"


def has_subordinate_ids() -> bool:
    """Return whether both /etc/subuid and /etc/subgid have a range for this account."""
    uid = os.geteuid()
    owners = {account(), str(uid)}
    for path in ("/etc/subuid", "/etc/subgid"):
        try:
            with open(path) as file:
                if not any(line.split(":")[0] in owners for line in file if ":" in line):
                    return False
        except FileNotFoundError:
            return False
    return True


def probe_root() -> Missing | None:
    """Real root: id 0 in a user namespace that maps every id."""
    if os.geteuid() != 0:
        return Missing("root", "run the tests as root as well", removable=False)
    with open("/proc/self/uid_map") as file:
        if file.read().split() != ["0", "0", "4294967295"]:
            return Missing("root outside a user namespace", removable=False)
    return None


def probe_userns() -> Missing | None:
    """A user namespace that allows mounts."""
    failure = try_command("unshare", "--user", "--map-root-user", "--mount", "true")
    if failure is None:
        return None
    return Missing(
        f"user namespaces: {failure}",
        "see the sysctls kernel.unprivileged_userns_clone, user.max_user_namespaces "
        "and kernel.apparmor_restrict_unprivileged_userns",
    )


def probe_newuidmap() -> Missing | None:
    """A range of subordinate ids, and the set-user-ID programs that map it."""
    if not has_subordinate_ids():
        return Missing(
            f"subordinate ids of {account()}",
            f"usermod --add-subuids, --add-subgids {account()}",
            removable=False,
        )
    for program in ("newuidmap", "newgidmap"):
        if shutil.which(program) is None:
            return Missing(program, "apt-get install uidmap")
    failure = try_command("unshare", "--user", "--map-root-user", "--map-auto", "true")
    return Missing(f"newuidmap: {failure}", "see subuid(5)") if failure is not None else None


def probe_fuse() -> Missing | None:
    """/dev/fuse, open to this account."""
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        remedy = (
            "modprobe fuse"
            if error.errno in {errno.ENOENT, errno.ENODEV, errno.ENXIO}
            else "chmod 666 /dev/fuse"
        )
        return Missing(f"/dev/fuse: {error.strerror}", remedy)
    return None


def probe_fusermount() -> Missing | None:
    """fusermount3, which mounts for the stand-alone `unionfs` command of an ordinary user."""
    if shutil.which("fusermount3") is None:
        return Missing("fusermount3", "apt-get install fuse3")
    return probe_fuse()


def probe_cgroup() -> Missing | None:
    """A writable cgroup with a memory controller: v1 as root, v2 by delegation."""
    found = "no cgroup hierarchy with a memory controller is mounted"
    for mount_point, path in memory_cgroups():
        directory = os.path.join(mount_point + path, f"sandbox-test-probe-{os.getpid()}")
        try:
            os.mkdir(directory)
        except OSError as error:
            found = f"{os.path.dirname(directory)}: {error.strerror}"
        else:
            os.rmdir(directory)
            return None
    # For an ordinary user, the session manager delegates the cgroup before the tests start.
    return Missing(
        f"a writable cgroup: {found}",
        "systemd-run --user --scope -p Delegate=yes, around the tests",
        os.geteuid() == 0,
    )


def memory_cgroups() -> list[tuple[str, str]]:
    """Return (mount point, path of this process in it) of the hierarchies with a memory controller, v1 first."""
    with open("/proc/self/cgroup") as cgroups, open("/proc/self/mountinfo") as mounts:
        v1, v2 = _cgroup_mounts(cgroups.read(), mounts.read())
    return [*v1, *(place for place in v2 if _lists_memory("".join(place)))]


@functools.lru_cache(maxsize=4)  # the check for leaks reads the same mounts twice in each test
def _cgroup_mounts(cgroups: str, mounts: str) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Return (mount point, path) of the memory controller of version 1, and of version 2."""
    paths = {line.split(":")[1]: line.split(":", 2)[2] for line in cgroups.splitlines()}
    v1: list[tuple[str, str]] = []
    v2: list[tuple[str, str]] = []
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        fields, (fs_type, _, options) = before.split(), after.split()
        if fs_type == "cgroup" and "memory" in options.split(","):
            own = next((path for names, path in paths.items() if "memory" in names.split(",")), "/")
            v1.insert(0, (fields[4], own))
        elif fs_type == "cgroup2":
            v2.append((fields[4], paths.get("", "/")))
    return v1, v2


def _lists_memory(directory: str) -> bool:
    try:
        with open(os.path.join(directory, "cgroup.controllers")) as file:
            return "memory" in file.read().split()
    except OSError:
        return False


def probe_overlay() -> Missing | None:
    """The kernel's OverlayFS, mountable by this account. Tests compare unionfs with it."""
    with open("/proc/filesystems") as file:
        if "overlay" not in file.read().split():
            return Missing("the kernel's OverlayFS", "modprobe overlay")
    options = "lowerdir=l,upperdir=u,workdir=w" + ("" if os.geteuid() == 0 else ",userxattr")
    with tempfile.TemporaryDirectory() as scratch:
        script = f'cd "{scratch}" && mkdir l u w m && mount -t overlay -o {options} overlay m && rm -rf w'
        enter = (
            ["unshare", "--mount"]
            if os.geteuid() == 0
            else ["unshare", "--user", "--map-root-user", "--mount"]
        )
        failure = try_command(*enter, "sh", "-c", script)
    # An upper directory may be on tmpfs or ext4, but not on another union file system, as in a container.
    return (
        Missing(f"the kernel's OverlayFS: {failure}", "set TMPDIR to a tmpfs")
        if failure is not None
        else None
    )


def probe_whiteouts() -> Missing | None:
    """A directory for temporary files in which the whiteouts of kernel OverlayFS can be made. OverlayFS itself refuses them."""
    with tempfile.TemporaryDirectory() as scratch:
        failure = why_no_whiteouts(scratch)
    if failure is None:
        return None
    return Missing(
        f"whiteouts (character devices 0:0) in {tempfile.gettempdir()}: {failure}", "set TMPDIR to a tmpfs"
    )


def why_no_whiteouts(directory: str) -> str | None:
    """Return why no character device 0:0 can be made in *directory*; None if one can."""
    path = os.path.join(directory, f".whiteout-{os.getpid()}")
    try:
        os.mknod(path, stat.S_IFCHR, os.makedev(0, 0))
    except OSError as error:
        return error.strerror
    os.unlink(path)
    return None


def probe_ranges() -> Missing | None:
    """A directory for temporary files on a file system that zeroes ranges and reports allocated blocks. tmpfs does not."""
    with tempfile.NamedTemporaryFile() as file:
        failure = try_command("fallocate", "--zero-range", "--length", "4096", file.name)
    if failure is None:
        return None
    lack = f"FALLOC_FL_ZERO_RANGE in {tempfile.gettempdir()}: {failure}"
    return Missing(lack, "set TMPDIR to a directory on ext4, XFS or Btrfs", removable=False)


def probe_ext4() -> Missing | None:
    """An ext4 file system in a file: needs mkfs.ext4, a loop device, and root to mount it."""
    if os.geteuid() != 0:
        return Missing("root, which mounts a file of the disk", removable=False)
    if shutil.which("mkfs.ext4") is None:
        return Missing("mkfs.ext4", "apt-get install e2fsprogs")
    with tempfile.TemporaryDirectory() as scratch:
        script = f'cd "{scratch}" && mkdir m && truncate -s 4M i && mkfs.ext4 -q i && mount -o loop i m && umount m'
        failure = try_command("unshare", "--mount", "sh", "-c", script)
    return None if failure is None else Missing(f"a loop device: {failure}", "modprobe loop")


def probe_fuse_overlayfs() -> Missing | None:
    """fuse-overlayfs, with which results and speed are compared."""
    if shutil.which("fuse-overlayfs") is None:
        return Missing("fuse-overlayfs", "apt-get install fuse-overlayfs")
    return probe_fuse()


def probe_rootfs() -> Missing | None:
    """A Debian root file system: given in SANDBOX_TEST_ROOTFS, or what scripts/mkrootfs needs to make one."""
    given = os.environ.get("SANDBOX_TEST_ROOTFS")
    if given:
        return None if os.access(given, os.R_OK) else Missing(f"$SANDBOX_TEST_ROOTFS: {given} cannot be read")
    if shutil.which("mmdebstrap") is None:
        return Missing("mmdebstrap", "apt-get install mmdebstrap")
    return None if os.geteuid() == 0 else probe_newuidmap()


def _program(name: str, package: str) -> Probe:
    def probe() -> Missing | None:
        return None if shutil.which(name) is not None else Missing(name, f"apt-get install {package}")

    probe.__doc__ = f"The program {name}."
    return probe


def probe_busybox() -> Missing | None:
    """A statically linked BusyBox, which makes a minimal root file system."""
    if (
        try_command("unshare", "--user", "--map-root-user", "/usr/sbin/chroot", "/bin", "/busybox", "true")
        is None
    ):
        return None
    return Missing("a static /bin/busybox", "apt-get install busybox-static")


#: PATH of runtimes and their programs: Debian has runc in /usr/sbin, which is not in the PATH of an ordinary user.
RUNTIME_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"


def probe_runc() -> Missing | None:
    """The runtime runc, and user namespaces for an ordinary user."""
    if shutil.which("runc", path=RUNTIME_PATH) is None:
        return Missing("runc", "apt-get install runc")
    return probe_userns()


def probe_crun() -> Missing | None:
    """The runtime crun, user namespaces, and cgroups of one version, which root makes for itself."""
    if shutil.which("crun", path=RUNTIME_PATH) is None:
        return Missing("crun", "apt-get install crun")
    if os.geteuid() != 0 and has_hybrid_cgroups():
        return Missing("cgroups of one version, not both, as crun requires", removable=False)
    return probe_userns()


def has_hybrid_cgroups() -> bool:
    """Return whether cgroups of both versions are mounted, as systemd does in its hybrid mode."""
    return os.path.exists("/sys/fs/cgroup/unified/cgroup.procs")


def probe_podman() -> Missing | None:
    """Podman and runc for an ordinary user. unionfs mounts their storage."""
    if os.geteuid() == 0:
        return Missing("an ordinary account", "podman is tested rootless", removable=False)
    for program in ("podman", "runc"):
        if shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin") is None:
            return Missing(program, f"apt-get install {program}")
    if not os.access("/dev/shm", os.W_OK | os.X_OK):
        return Missing("/dev/shm, where podman has its locks", "mount -t tmpfs -o mode=1777 shm /dev/shm")
    return probe_newuidmap() or probe_fuse()


def probe_buildah() -> Missing | None:
    """Buildah and runc for an ordinary user. It builds from scratch, without a network."""
    if os.geteuid() == 0:
        return Missing("an ordinary account", "buildah is tested rootless", removable=False)
    for program in ("buildah", "runc"):
        if shutil.which(program, path=RUNTIME_PATH) is None:
            return Missing(program, f"apt-get install {program}")
    return probe_newuidmap()


def probe_pjdfstest() -> Missing | None:
    """A built checkout of pjdfstest in $PJDFSTEST, a suite of POSIX semantics."""
    given = os.environ.get("PJDFSTEST")
    if given is None:
        return Missing(
            "pjdfstest",
            "git clone https://github.com/pjd/pjdfstest && cd pjdfstest && autoreconf -ifs && ./configure && make, "
            "then set PJDFSTEST to that directory",
        )
    if not os.access(os.path.join(given, "pjdfstest"), os.X_OK):
        return Missing(
            f"$PJDFSTEST: {given}/pjdfstest is no program", "autoreconf -ifs && ./configure && make"
        )
    return None


def probe_unionmount_testsuite() -> Missing | None:
    """A checkout of unionmount-testsuite in $UNIONMOUNT_TESTSUITE, the suite of kernel OverlayFS."""
    given = os.environ.get("UNIONMOUNT_TESTSUITE")
    if given is None:
        return Missing(
            "unionmount-testsuite",
            "git clone https://github.com/amir73il/unionmount-testsuite, "
            "then set UNIONMOUNT_TESTSUITE to that directory",
        )
    if not os.access(os.path.join(given, "run"), os.X_OK):
        return Missing(f"$UNIONMOUNT_TESTSUITE: {given}/run is no program")
    if shutil.which("mount.fuse3") is None:
        return Missing("mount.fuse3", "apt-get install fuse3")
    return None


def probe_xfstests() -> Missing | None:
    """A built checkout of xfstests in $XFSTESTS, the suite of the kernel's file systems; no Debian package has it."""
    given = os.environ.get("XFSTESTS")
    if given is None:
        return Missing("xfstests", "set XFSTESTS to a built checkout of xfstests-dev (git.kernel.org)")
    for name in ("fsx", "fsstress"):
        if not os.access(os.path.join(given, "ltp", name), os.X_OK):
            return Missing(f"$XFSTESTS: {given}/ltp/{name} is no program", "build it there")
    return None


def probe_vm() -> Missing | None:
    """Tools that run a command in a Debian virtual machine, in $SANDBOX_TEST_VM: a stock systemd and cgroups version 2."""
    given = os.environ.get("SANDBOX_TEST_VM")
    if given is None:
        remedy = "set SANDBOX_TEST_VM to a directory with build-image and run-in-vm"
        return Missing("the tools of the virtual machine", remedy)
    for name in ("build-image", "run-in-vm"):
        if not os.access(os.path.join(given, name), os.X_OK):
            return Missing(f"$SANDBOX_TEST_VM: {given}/{name} is no program")
    for program, package in (("qemu-system-x86_64", "qemu-system-x86"), ("qemu-img", "qemu-utils")):
        if shutil.which(program) is None:
            return Missing(program, f"apt-get install {package}")
    if sysconfig.get_python_version() != "3.13":
        return Missing("Python 3.13, which the machine has: it gets our packages", removable=False)
    return None


def not_long() -> Missing | None:
    """Tests that take minutes or hours."""
    return Missing("--long was not given", removable=False)


PROBES: dict[str, Probe] = {
    "root": probe_root,
    "userns": probe_userns,
    "newuidmap": probe_newuidmap,
    "fuse": probe_fuse,
    "fusermount": probe_fusermount,
    "cgroup": probe_cgroup,
    "networks": probe_networks,
    "overlay": probe_overlay,
    "ext4": probe_ext4,
    "whiteouts": probe_whiteouts,
    "ranges": probe_ranges,
    "lsattr": _program("lsattr", "e2fsprogs"),
    "fuse_overlayfs": probe_fuse_overlayfs,
    "rootfs": probe_rootfs,
    "busybox": probe_busybox,
    "bash": _program("bash", "bash"),
    "zsh": _program("zsh", "zsh"),
    "fish": _program("fish", "fish"),
    "man": _program("man", "man-db"),
    "qemu_user": _program("qemu-aarch64", "qemu-user"),
    "clang": _program("clang-19", "clang-19 lld-19 llvm-19"),
    "pjdfstest": probe_pjdfstest,
    "runc": probe_runc,
    "crun": probe_crun,
    "podman": probe_podman,
    "buildah": probe_buildah,
    "umoci": _program("umoci", "umoci"),
    "skopeo": _program("skopeo", "skopeo"),
    "docker_registry": _program("docker-registry", "docker-registry"),
    "pasta": probe_pasta,
    "slirp4netns": probe_slirp4netns,
    "openssl": _program("openssl", "openssl"),
    "vm": probe_vm,
    "unionmount_testsuite": probe_unionmount_testsuite,
    "xfstests": probe_xfstests,
    "stress_ng": _program("stress-ng", "stress-ng"),
    "xfs": _program("mkfs.xfs", "xfsprogs"),
}


def require(name: str) -> None:
    """Skip or fail a running test if the requirement *name* is unmet, as its marker would."""
    lack = missing(name)
    if lack is None:
        return
    if STRICT and lack.removable:
        pytest.fail(f"needs {lack}", pytrace=False)
    pytest.skip(f"needs {lack}")


@functools.cache
def missing(name: str) -> Missing | None:
    """Return the unmet requirement of the marker *name* on this machine, or None."""
    return PROBES[name]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --long."""
    parser.addoption("--long", action="store_true", help="also run the tests marked long: minutes to hours")


def pytest_configure(config: pytest.Config) -> None:
    """Declare the markers. The docstring of each probe describes its marker."""
    for name, probe in PROBES.items():
        config.addinivalue_line("markers", f"{name}: {(probe.__doc__ or '').strip()}")
    config.addinivalue_line("markers", f"long: {not_long.__doc__} They run with --long.")
    config.addinivalue_line(
        "markers",
        "twice: An account with one id is as one with many. Where scripts/test runs both, the latter's run has it, beside root's.",
    )
    config.addinivalue_line(
        "markers",
        "once: An account changes nothing about it. Where scripts/test runs several, root's run has it.",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test that this machine cannot run; with SANDBOX_TESTS_STRICT=1 fail it."""
    if item.get_closest_marker("long") is not None and not item.config.getoption("--long"):
        pytest.skip(str(not_long()))
    for marker in item.iter_markers():
        if marker.name in PROBES:
            require(marker.name)
