"""Mounts a union for a test with ``python -m unionfs`` in the foreground, and unmounts it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import IO, Self

from tests.support.requirements import require
from tests.support.tree import Tree, make_tree

PROJECT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
#: The server under test: direct, which is the command's default, pyfuse3, or unopened. Unopened is the direct server with
#: the launcher's options for an ephemeral sandbox over layers of its store: without OPEN, volatile, and with an index.
SERVER = os.environ.get("UNIONFS_TEST_SERVER", "direct")
_SERVER_OPTIONS = {
    "direct": "",
    "pyfuse3": "server=pyfuse3",
    "unopened": "open_requests=off,volatile",
}[SERVER]
#: Whether every union has an index of its lower layers, built before the mount is usable.
INDEXED = SERVER == "unopened" or os.environ.get("UNIONFS_TEST_INDEX") == "1"
#: Seconds that a mount or unmount may take on a busy machine.
PATIENCE = 60.0
#: A wrapper for a server without CAP_DAC_OVERRIDE. Servers of ordinary users never have it.
WITHOUT_OVERRIDE = (
    ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all"]
    if os.geteuid() == 0
    else []
)


def environment() -> dict[str, str]:
    """Return an environment in which Python imports the checkout's ``unionfs`` in any directory."""
    return {**os.environ, "PYTHONPATH": PROJECT}


def run_unionfs(
    *arguments: str, cwd: str | None = None, wrapper: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """Run the command to its end, through *wrapper* if that is given."""
    return subprocess.run(
        [*wrapper, sys.executable, "-m", "unionfs", *arguments],
        env=environment(),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def unmount(mountpoint: str, *, lazy: bool = False) -> None:
    """Unmount with the program that this account can use."""
    # fusermount3 fails without /etc/mtab; umount(8) lets users unmount their own FUSE mounts since util-linux 2.34.
    if os.geteuid() == 0 or not os.path.exists("/etc/mtab"):
        command = ["umount", *(["--lazy"] if lazy else []), mountpoint]
    else:
        command = ["fusermount3", "-u", *(["-z"] if lazy else []), mountpoint]
    subprocess.run(command, check=True, timeout=PATIENCE, capture_output=True)


def is_mounted(path: str) -> bool:
    """Return whether *path* is a mount point, without a request to the file system there."""
    with open("/proc/self/mountinfo", "rb") as file:
        return any(line.split(b" ")[4] == os.fsencode(path) for line in file)


def wait_until(condition: Callable[[], bool], what: str, seconds: float = PATIENCE) -> None:
    """Wait for *condition*; fail with *what* after *seconds*."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"still waiting after {seconds} s: {what}"
        time.sleep(0.005)


class Union:
    """Layers below one directory, and the server of their union while it is mounted.

    As a context manager it mounts and unmounts.
    """

    def __init__(
        self,
        base: str,
        lowers: Sequence[str],
        *,
        writable: bool = True,
        options: str = "",
        wrapper: Sequence[str] = (),
        server_options: str = _SERVER_OPTIONS,
        indexed: bool = INDEXED,
        archived: bool = False,
    ) -> None:
        """Describe a union of *lowers*, top first, without mounting it.

        Args:
            base: an empty directory for the mount point, the upper and the work directory.
            lowers: paths of the lower layers.
            writable: whether there is an upper directory.
            options: further options of ``-o``.
            wrapper: a command that runs the server, such as unshare(1).
            server_options: the options of ``-o`` that select SERVER.
            indexed: whether an index of *lowers* is built before the mount is usable.
            archived: whether *lowers* are packed into archives that are mounted in their place.
        """
        self.path = os.path.join(base, "mnt")
        self.upper = os.path.join(base, "upper")
        self.work = os.path.join(base, "work")
        self._log_path = os.path.join(base, "log")
        for path in (self.path, self.upper, self.work):
            os.makedirs(path, exist_ok=True)
        parts = ["lowerdir=" + ":".join(lowers)]
        if writable:
            parts += [f"upperdir={self.upper}", f"workdir={self.work}"]
        if indexed:
            indexes = os.path.join(base, "indexes")
            os.makedirs(indexes, mode=0o700, exist_ok=True)
            parts.append(f"index_dir={indexes},index_build=first")
        self.options = ",".join([*parts, *filter(None, [server_options, options])])
        self._wrapper = list(wrapper)
        self._module = "tests.mount.archive_server" if archived else "unionfs"
        self._log: IO[bytes] | None = None
        self.process: subprocess.Popen[bytes] | None = None
        #: Whether the server may write messages. Tests of failures set it.
        self.may_complain = False

    @property
    def pid(self) -> int:
        """The process id of the server."""
        assert self.process is not None
        return self.process.pid

    def log(self) -> str:
        """Return the output of the server."""
        with open(self._log_path, encoding="utf-8", errors="replace") as file:
            return file.read()

    def mount(self) -> Union:
        """Start the server and wait until the mount can be used."""
        assert self.process is None
        with open(self._log_path, "ab") as log:
            self.process = subprocess.Popen(
                [*self._wrapper, sys.executable, "-m", self._module, "-f", "-o", self.options, self.path],
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        device = os.stat(self.path).st_dev

        def usable() -> bool:
            assert self.process is not None
            if self.process.poll() is not None and "does not support overlay whiteouts" in self.log():
                require("whiteouts")
            assert self.process.poll() is None, f"the server ended: {self.log()}"
            return os.stat(self.path).st_dev != device

        try:
            wait_until(usable, "the mount can be used")
        except BaseException:
            self.kill()
            raise
        return self

    def unmount(self) -> None:
        """Unmount and wait for the server, which must end with status 0 and without messages."""
        assert self.process is not None
        unmount(self.path)
        status = self.process.wait(PATIENCE)
        self.process = None
        assert status == 0, f"the server ended with {status}: {self.log()}"
        assert self.may_complain or self.log() == ""

    def remount(self) -> Union:
        """Unmount and mount again, so that the mount shows the state on disk."""
        self.unmount()
        return self.mount()

    def terminate(self) -> int:
        """End the server with SIGTERM; return its exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(PATIENCE)
        self.process = None
        return status

    def kill(self) -> None:
        """End the server with SIGKILL and unmount the dead mount."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(PATIENCE)
            self.process = None
        if is_mounted(self.path):
            unmount(self.path, lazy=True)

    def __enter__(self) -> Self:
        self.mount()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process is None:
            return
        if kind is None:
            self.unmount()
        else:
            self.kill()


def make_union(
    base: str | os.PathLike[str],
    *lowers: Tree,
    upper: Tree | None = None,
    writable: bool = True,
    options: str = "",
    wrapper: Sequence[str] = (),
) -> Union:
    """Write *lowers* (top first) and *upper* below *base*, and return their unmounted union."""
    paths = []
    for number, lower in enumerate(lowers):
        paths.append(os.path.join(base, f"lower{number}"))
        make_tree(paths[-1], lower)
    union = Union(os.fspath(base), paths, writable=writable, options=options, wrapper=wrapper)
    if upper is not None:
        make_tree(union.upper, upper)
    return union


@contextmanager
def kernel_overlay(target: str, options: str, *, cwd: str | None = None) -> Iterator[str]:
    """Mount kernel OverlayFS on *target* as root. Paths may be relative to *cwd*, because an option has at most 255 bytes."""
    subprocess.run(["mount", "-t", "overlay", "-o", options, "overlay", target], check=True, cwd=cwd)
    try:
        yield target
    finally:
        subprocess.run(["umount", target], check=True)


@contextmanager
def fuse_overlayfs(target: str, layers: str, *, cwd: str | None = None) -> Iterator[str]:
    """Mount fuse-overlayfs on *target*, to write ``.wh.`` whiteouts."""
    before = os.stat(target).st_dev
    process = subprocess.Popen(
        ["fuse-overlayfs", "-f", "-o", layers, target],
        env={**os.environ, "FUSE_OVERLAYFS_DISABLE_OVL_WHITEOUT": "1"},
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: os.stat(target).st_dev != before, "fuse-overlayfs mounts")
        yield target
        unmount(target)
        process.wait(PATIENCE)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(PATIENCE)
            unmount(target, lazy=True)


def now_and_remounted(union: Union) -> Iterator[None]:
    """Run the body of a loop with *union* as it is, and again after a remount."""
    yield
    union.remount()
    yield


@contextmanager
def scratch(parent: str | None = None) -> Iterator[str]:
    """Yield a directory that is removed with everything in it, for any depth and modes."""
    path = tempfile.mkdtemp(prefix="unionfs-test-", dir=parent)
    try:
        yield path
    finally:
        subprocess.run(["chmod", "-R", "u+rwX", path], check=False, capture_output=True)
        subprocess.run(["rm", "-rf", "--one-file-system", path], check=True)


def inode_numbers(root: str) -> Mapping[bytes, int]:
    """Return the inode numbers of everything below *root* by relative path. Assert that readdir(3) has the same ones."""
    found: dict[bytes, int] = {b".": os.lstat(root).st_ino}
    pending = [b""]
    while pending:
        relative = pending.pop()
        with os.scandir(os.path.join(os.fsencode(root), relative)) as entries:
            for entry in entries:
                path = os.path.join(relative, entry.name)
                info = os.lstat(os.path.join(os.fsencode(root), path))
                assert entry.inode() == info.st_ino, path
                found[path] = info.st_ino
                if entry.is_dir(follow_symlinks=False):
                    pending.append(path)
    return found
