"""Bundles are complete or not there, and runc and crun run them."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.errors import ImageError
from sandbox.images.oci.image_config import ImageConfig, ProcessDefaults
from sandbox.images.oci.platforms import Platform
from sandbox.kernel.idmaps import IdMap, auto_map, parse_subid, root_map, single_map
from sandbox.oci_runtime.bundle import find_user, write_bundle
from sandbox.oci_runtime.runtime_config import BundleOptions
from tests.support.requirements import RUNTIME_PATH, account, has_hybrid_cgroups
from unionfs._stdlib.dataclasses import replace

ROOT = os.geteuid() == 0
FILES = {
    "etc/passwd": b"root:x:0:0::/root:/bin/sh\nuser:x:10:20::/home:/bin/sh\n",
    "etc/group": b"root:x:0:\nmine:x:20:\nfirst:x:30:user\nsecond:x:40:other,user\n",
}
MAPS = BundleOptions(
    uid_map=(IdMap(inside=0, outside=0, count=65536),), gid_map=(IdMap(inside=0, outside=0, count=35),)
)


class Tree:
    """A root file system with FILES and more, owned by *owner*. It records what was called."""

    def __init__(self, owner: int = -1, failing: bool = False, **links: str) -> None:
        self.calls: list[str] = []
        self._owner = owner
        self._failing = failing
        self._links = links

    def extract(self, directory: int) -> None:
        self.calls.append("extract")
        if self._failing:
            raise OSError(28, "full")
        root = Path(f"/proc/self/fd/{directory}")
        assert list(root.iterdir()) == []
        for name, data in FILES.items():
            (root / name).parent.mkdir(exist_ok=True)
            (root / name).write_bytes(data)
        (root / "bin").mkdir()
        if os.path.exists("/bin/busybox"):
            shutil.copy("/bin/busybox", root / "bin/busybox")
            for name in ("sh", "id", "cat", "ls", "grep", "hostname", "pwd", "touch", "env"):
                (root / "bin" / name).symlink_to("busybox")
        (root / "work").mkdir()
        for path in (root, *root.rglob("*")):
            os.chown(path, self._owner, self._owner, follow_symlinks=False)
        os.fchown(directory, self._owner, self._owner)

    def discard(self, directory: int) -> None:
        self.calls.append("discard")
        for path in Path(f"/proc/self/fd/{directory}").iterdir():
            shutil.rmtree(path)


def image(**process: object) -> ImageConfig:
    defaults = ProcessDefaults(**process)  # type: ignore[arg-type]
    return ImageConfig(platform=Platform(os="linux", architecture="amd64"), diff_ids=(), process=defaults)


def test_a_bundle_has_the_tree_and_its_configuration(tmp_path: Path) -> None:
    path = tmp_path / "bundle"
    tree = Tree()
    write_bundle(str(path), image(user="user", env=("NAME=\u00fc",)), tree, BundleOptions())
    assert sorted(os.listdir(path)) == ["config.json", "rootfs"]
    document = json.loads((path / "config.json").read_bytes().decode("utf-8"))
    assert document["root"]["path"] == "rootfs"
    assert document["process"]["user"] == {"uid": 10, "gid": 20, "additionalGids": [30, 40]}
    assert document["process"]["env"][0] == "NAME=\u00fc"
    assert (path / "rootfs/etc/passwd").read_bytes() == FILES["etc/passwd"]
    assert tree.calls == ["extract"]


def test_supplementary_groups_that_runc_refuses_are_left_out_with_a_notice(tmp_path: Path) -> None:
    for name, options, groups in (
        ("a", BundleOptions(), [30, 40]),
        ("b", replace(MAPS, rootless=True), None),
    ):
        notices = write_bundle(str(tmp_path / name), image(user="user"), Tree(), options)
        document = json.loads((tmp_path / name / "config.json").read_bytes())
        assert document["process"]["user"].get("additionalGids") == groups
        assert len(notices) == (groups is None)


def test_other_users_cannot_reach_the_files_of_a_bundle_with_the_ids_of_the_host(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        write_bundle(str(tmp_path / "bundle"), image(), Tree(), BundleOptions())
        ids = root_map()
        write_bundle(str(tmp_path / "mapped"), image(), Tree(), BundleOptions(uid_map=ids, gid_map=ids))
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "bundle").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "mapped").stat().st_mode) == 0o711
    assert stat.S_IMODE((tmp_path / "bundle/rootfs").stat().st_mode) == 0o755


def test_an_empty_directory_is_filled_and_another_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "bundle"
    path.mkdir(mode=0o750)
    write_bundle(str(path), image(), Tree(), BundleOptions())
    assert stat.S_IMODE(path.stat().st_mode) == 0o750
    tree = Tree()
    with pytest.raises(ImageError, match="a directory that is not empty"):
        write_bundle(str(path), image(), tree, BundleOptions())
    assert tree.calls == []
    assert sorted(os.listdir(path)) == ["config.json", "rootfs"]


@pytest.mark.parametrize("exists", [False, True])
@pytest.mark.parametrize(("failing", "calls"), [(True, ["extract"]), (False, ["extract", "discard"])])
def test_a_failure_leaves_everything_as_it_was(
    failing: bool, calls: list[str], exists: bool, tmp_path: Path
) -> None:
    path = tmp_path / "bundle"
    if exists:
        path.mkdir()
    tree = Tree(failing=failing)
    with pytest.raises(OSError if failing else ImageError):
        write_bundle(str(path), image(user="nobody"), tree, BundleOptions())
    assert tree.calls == calls
    assert path.exists() is exists
    assert not exists or os.listdir(path) == []


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("", (0, 0, ())),
        ("0", (0, 0, ())),
        ("root", (0, 0, ())),
        ("10", (10, 20, ())),
        ("user", (10, 20, (30, 40))),
        ("user:first", (10, 30, ())),
        ("user:50", (10, 50, ())),
        ("77", (77, 0, ())),
        ("77:88", (77, 88, ())),
        ("4294967294:mine", (4294967294, 20, ())),
    ],
)
def test_users_are_found_as_the_specification_demands(
    user: str, expected: tuple[int, int, tuple[int, ...]], tmp_path: Path
) -> None:
    with_root(tmp_path)
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        found = find_user(fd, image(user=user), BundleOptions())
    finally:
        os.close(fd)
    assert (found.uid, found.gid, found.groups) == expected


@pytest.mark.parametrize(
    ("user", "options", "reason"),
    [
        ("other", BundleOptions(), "the image's user other: user other is not in the sandbox's /etc/passwd"),
        ("root:none", BundleOptions(), "group none is not in"),
        (":0", BundleOptions(), "user  is not in"),
        ("4294967295", BundleOptions(), "4294967295 is larger than any id"),
        ("9" * 5000, BundleOptions(), "9{20} is larger than any id"),
        ("\u0661", BundleOptions(), "is not in the sandbox's /etc/passwd"),
        ("a\x1b[31m", BundleOptions(), r"the image's user a\\x1b\[31m"),
        ("70000", MAPS, "user 70000 is not in the id map of the bundle"),
        ("user:50", MAPS, "group 50 is not in the id map"),
        ("user", MAPS, "group 40 is not in the id map"),
    ],
)
def test_a_user_that_cannot_be_had_is_refused(
    user: str, options: BundleOptions, reason: str, tmp_path: Path
) -> None:
    with_root(tmp_path)
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(ImageError, match=reason) as caught:
            find_user(fd, image(user=user), options)
    finally:
        os.close(fd)
    assert caught.value.hint


def with_root(path: Path) -> None:
    """Make a root file system in *path* whose /etc leads out of it unless links are resolved in the root."""
    (path / "real").mkdir()
    for name, data in FILES.items():
        (path / "real" / os.path.basename(name)).write_bytes(data)
    (path / "etc").symlink_to("/real")


# -- runtimes ------------------------------------------------------------------------------------------

#: What the program in a bundle prints about itself.
REPORT = (
    "pwd; id -u; id -g; id -G; hostname; ls /sys/class/net; ls /dev/pts /dev/shm; grep -E '^(CapEff|NoNewPrivs)' "
    "/proc/self/status; touch /new && echo written; cat /proc/self/uid_map; env | grep ^NAME"
)


@pytest.fixture
def base() -> Iterator[Path]:
    """A directory that other ids can reach, on a file system with programs."""
    path = Path(tempfile.mkdtemp(dir="/var/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def run(runtime: str, base: Path, bundle: Path) -> list[str]:
    """Run *bundle*; return the lines that it prints."""
    command = [
        runtime,
        "--root",
        str(base / "state"),
        "run",
        "--bundle",
        str(bundle),
        f"sandbox-{os.getpid()}",
    ]
    if runtime == "crun":
        command[1:1] = ["--cgroup-manager", "disabled"]
        if ROOT and has_hybrid_cgroups():
            view = 'mount -t cgroup2 none /sys/fs/cgroup && exec "$@"'
            command = ["unshare", "--mount", "sh", "-c", view, "sh", *command]
    (base / "runtime").mkdir(exist_ok=True)
    done = subprocess.run(
        command,
        env={"PATH": RUNTIME_PATH, "XDG_RUNTIME_DIR": str(base / "runtime"), "HOME": str(base)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


RUNTIMES = [pytest.param(name, marks=getattr(pytest.mark, name)) for name in ("runc", "crun")]


def options_of_this_account(kind: str) -> tuple[BundleOptions, int]:
    """Return options for a bundle with the ids *kind*, and the id of the host that owns the files of its root."""
    uid, gid = os.geteuid(), os.getegid()
    if kind == "host":
        return BundleOptions(), -1
    if kind == "single":
        return BundleOptions(uid_map=single_map(uid), gid_map=single_map(gid), rootless=not ROOT), -1
    if kind == "root":
        return BundleOptions(uid_map=root_map(), gid_map=root_map()), root_map()[0].outside
    maps = [
        auto_map(own, parse_subid(Path(path).read_text(), uid, account()))
        for own, path in ((uid, "/etc/subuid"), (gid, "/etc/subgid"))
    ]
    return BundleOptions(uid_map=maps[0], gid_map=maps[1], rootless=not ROOT), -1


@pytest.mark.busybox
@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("host", marks=pytest.mark.root),
        pytest.param("root", marks=pytest.mark.root),
        pytest.param("single", marks=pytest.mark.userns),
        pytest.param("subordinate", marks=pytest.mark.newuidmap),
    ],
)
def test_a_runtime_runs_the_bundle_as_its_root(runtime: str, kind: str, base: Path) -> None:
    options, owner = options_of_this_account(kind)
    process = image(cmd=("sh", "-c", REPORT), env=("NAME=value",), working_dir="/work")
    write_bundle(str(base / "bundle"), process, Tree(owner), options)
    lines = run(runtime, base, base / "bundle")
    assert lines[:6] == ["/work", "0", "0", "0", "sandbox", "lo"]
    assert "CapEff:\t00000000800405fb" in lines
    assert "NoNewPrivs:\t1" in lines
    assert "written" in lines
    assert lines[-1] == "NAME=value"
    if options.uid_map:
        rows = [[entry.inside, entry.outside, entry.count] for entry in options.uid_map]
        assert [list(map(int, line.split())) for line in lines[-1 - len(rows) : -1]] == rows


@pytest.mark.busybox
@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("host", marks=pytest.mark.root),
        pytest.param("root", marks=pytest.mark.root),
        pytest.param("subordinate", marks=pytest.mark.newuidmap),
    ],
)
def test_a_runtime_runs_the_bundle_as_the_image_s_user(runtime: str, kind: str, base: Path) -> None:
    options, owner = options_of_this_account(kind)
    process = image(cmd=("-c", REPORT + "; echo end"), entrypoint=("/bin/sh",), user="user")
    notices = write_bundle(str(base / "bundle"), process, Tree(owner), options)
    lines = run(runtime, base, base / "bundle")
    groups = lines.pop(3)
    assert lines[:5] == ["/", "10", "20", "sandbox", "lo"]
    # For an ordinary user, runc leaves the group of the caller, which is 0 inside.
    assert groups in (("20 30 40",) if ROOT else ("20", "20 0"))
    assert ROOT is not any("no supplementary groups (30, 40)" in notice for notice in notices)
    assert "CapEff:\t0000000000000000" in lines
    assert "written" not in lines
    assert lines[-1] == "end"


@pytest.mark.busybox
@pytest.mark.userns
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_root_that_is_read_only_cannot_be_written(runtime: str, base: Path) -> None:
    ids = single_map(os.geteuid()), single_map(os.getegid())
    options = BundleOptions(uid_map=ids[0], gid_map=ids[1], rootless=not ROOT, read_only=True)
    process = image(cmd=("sh", "-c", "touch /new || echo refused"))
    write_bundle(str(base / "bundle"), process, Tree(), options)
    assert run(runtime, base, base / "bundle") == ["refused"]
