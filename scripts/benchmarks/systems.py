"""Mount the measured file systems, each for one measurement, or copy the layers to a plain directory."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.workload import PROJECT

SUBJECT = "unionfs"
#: Options with which `sandbox up` mounts a stack of stored layers.
_SERVED = ",server=direct,open_requests=off"
#: With an index of the lower layers. It is built before the mount is usable, so only its use is timed.
_INDEXED = ",index_build=first,immutable,index_dir="
OPTIMIZATIONS = "spin threads negative validity contents symlinks flush killpriv readdirplus".split()
#: Other servers and options of unionfs.
OTHER_SERVERS = {
    "unionfs-unindexed": _SERVED,
    "unionfs-opened": ",server=direct,open_requests=on",
    "unionfs-pyfuse3": ",server=pyfuse3",
}
#: One system for each optimization, which the variable UNIONFS_DISABLE disables, to measure its effect
#: (docs/unionfs/speed.md).
DISABLED = {f"without-{name}": name for name in OPTIMIZATIONS}
#: The writable layer ends with the sandbox, so nothing has to be synced. All three file systems support this option.
_VOLATILE = ",volatile"
#: Measured only on request.
ON_REQUEST = (*OTHER_SERVERS, *DISABLED)
BASELINE = "fuse-overlayfs"
NAMES = (SUBJECT, *ON_REQUEST, BASELINE, "overlay", "native")

#: Seconds for a mount or unmount on a busy machine.
PATIENCE = 60.0
#: mount(8) must pass longer options by mount(2), because fsconfig(2) takes at most 256 bytes.
_FSCONFIG = 255


@dataclass(frozen=True, kw_only=True, slots=True)
class System:
    """A way to get a union of layers: one column of the result."""

    name: str
    #: Why it cannot run here; None if it can.
    missing: str | None
    #: Returns the command for options and mount point; None for the plain directory.
    command: Callable[[str, str], list[str]] | None = None
    #: The command serves until the unmount; otherwise it returns after mounting.
    serves: bool = True
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Stack:
    """Layers in one directory, top first. Plain copies of them are kept in the same directory."""

    directory: str
    layers: Sequence[str]

    @property
    def names(self) -> list[str]:
        """Return the layers relative to the directory: short enough for five hundred in the page that mount(2) takes."""
        return [os.path.relpath(layer, self.directory) for layer in self.layers]


@dataclass(frozen=True, slots=True)
class Mount:
    """A mounted tree."""

    root: str
    #: The process id of its server, if there is one.
    server: int | None = None

    def cpu(self) -> float:
        """Return the CPU seconds of the server's threads; 0 if unknown."""
        total = 0
        try:
            for task in os.listdir(f"/proc/{self.server}/task") if self.server else []:
                with open(f"/proc/{self.server}/task/{task}/schedstat") as file:
                    total += int(file.read().split()[0])
        except (FileNotFoundError, ProcessLookupError):
            return 0.0  # the kernel has no such statistics, or the server has ended, which makes its clients fail
        return total / 1e9


def find_python() -> str:
    """Return the interpreter with the dependencies of unionfs: that of $VENV or of .venv, or else the running one."""
    for venv in (os.environ.get("VENV"), os.path.join(PROJECT, ".venv")):
        if venv and os.access(candidate := os.path.join(venv, "bin", "python"), os.X_OK):
            return candidate
    return sys.executable


def lacks(python: str, *modules: str) -> str | None:
    """Return why *python* cannot import *modules* of this checkout; None if it can."""
    done = subprocess.run(
        [python, "-c", f"import {', '.join(modules)}"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": PROJECT},
    )
    said = done.stderr.strip().splitlines() or [f"ended with {done.returncode}"]
    return f"{python}: {said[-1]}" if done.returncode else None


@functools.cache
def _indexes() -> str:
    """Return a directory for indexes of layers, which is removed at exit."""
    path = tempfile.mkdtemp(prefix="unionfs-indexes-")
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


def find_systems(python: str, *, durable: bool = False) -> list[System]:
    """Return all systems, each with the reason why it cannot run here, if there is one.

    *durable*: sync to disk, as for a writable layer that is kept.
    """
    promise = "" if durable else _VOLATILE
    root = os.geteuid() == 0
    # For ordinary users, the set-user-ID program fusermount3 mounts and unmounts.
    no_mount = (
        None
        if root or shutil.which("fusermount3")
        else "fusermount3 is not installed (apt-get install fuse3)"
    )
    if no_mount is None and not os.access("/dev/fuse", os.R_OK | os.W_OK):
        no_mount = "/dev/fuse cannot be opened (see scripts/quickstart)"
    with open("/proc/filesystems") as file:
        overlay = "overlay" in file.read().split()

    def union(name: str, serving: str, *, indexed: bool = False, disabled: str = "") -> System:
        return System(
            name=name,
            missing=no_mount or lacks(python, "pyfuse3", "unionfs.cli"),
            command=lambda options, mount: [
                *(python, "-m", "unionfs", "-f", "-o"),
                options + serving + promise + (_INDEXED + _indexes() if indexed else ""),
                mount,
            ],
            environment={"PYTHONPATH": PROJECT, "UNIONFS_DISABLE": disabled},
        )

    return [
        union(SUBJECT, _SERVED, indexed=True),
        *(union(name, serving) for name, serving in OTHER_SERVERS.items()),
        *(union(name, _SERVED, indexed=True, disabled=one) for name, one in DISABLED.items()),
        System(
            name=BASELINE,
            missing=no_mount
            or (None if shutil.which(BASELINE) else "not installed (apt-get install fuse-overlayfs)"),
            command=lambda options, mount: [*(BASELINE, "-f", "-o", options + promise, mount)],
        ),
        System(
            name="overlay",
            missing="needs root"
            if not root
            else None
            if overlay
            else "needs the kernel module (modprobe overlay)",
            command=lambda options, mount: [
                *("mount", "-t", "overlay", "overlay", "-o", options + promise, mount)
            ],
            serves=False,
        ),
        System(name="native", missing=None),
    ]


@contextlib.contextmanager
def mounted(system: System, stack: Stack, changes: Sequence[str] | None) -> Iterator[Mount]:
    """Yield a fresh union with an empty writable layer, and unmount and remove it at the end.

    *changes* is that of the workload (see :class:`~benchmarks.workload.Workload`).
    """
    if system.command is None:
        with plain(stack, changes) as copy:
            yield Mount(copy)
        return
    directory = tempfile.mkdtemp(dir=stack.directory)
    upper, work, mount = (os.path.join(directory, name) for name in ("upper", "work", "mount"))
    for path in (upper, work, mount):
        os.mkdir(path)
    options = f"lowerdir={':'.join(stack.names)},upperdir={upper},workdir={work}"
    environment = {**os.environ, **system.environment}
    if len(options) > _FSCONFIG:
        environment["LIBMOUNT_FORCE_MOUNT2"] = "always"
    try:
        # A file instead of a pipe: a server with much output must not wait for a reader.
        with tempfile.TemporaryFile("w+") as output:
            process: subprocess.Popen[bytes] | None = None
            try:
                with signals_later():
                    process = subprocess.Popen(
                        system.command(options, mount),
                        cwd=stack.directory,
                        env=environment,
                        stdin=subprocess.DEVNULL,
                        stdout=output,
                        stderr=output,
                    )
                _wait_for_mount(system, process, mount)
                yield Mount(mount, process.pid if system.serves else None)
            except OSError as error:
                output.seek(0)
                said = output.read().strip().splitlines()[-3:]
                raise OSError(f"{error}{': ' if said else ''}{' / '.join(said)}") from error
            finally:
                if process is not None:
                    with signals_later():
                        _end(system, process, mount)
    finally:
        # Kernel OverlayFS makes directories with mode 0 in the work directory.
        subprocess.run(["chmod", "-R", "u+rwX", directory], check=False)
        shutil.rmtree(directory)


@contextlib.contextmanager
def signals_later() -> Iterator[None]:
    """Defer SIGINT and SIGTERM. If they interrupted the start or end of a server, it would remain, with its mount."""
    came: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda number, _: came.append(number)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for late in came:
            os.kill(os.getpid(), late)


def _wait_for_mount(system: System, process: subprocess.Popen[bytes], mount: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not os.path.ismount(mount):
        status = process.poll()
        if status is not None and (status != 0 or not os.path.ismount(mount)):
            raise OSError(f"{system.name} ended with {status}")
        if time.monotonic() > deadline:
            raise OSError(f"{system.name} mounted nothing in {PATIENCE:.0f} seconds")
        time.sleep(0.002)


def _end(system: System, process: subprocess.Popen[bytes], mount: str) -> None:
    """Unmount, and wait until the server has ended. Otherwise its end would be measured as work of the next system."""
    with contextlib.suppress(OSError):
        _wait_for_mount(system, process, mount)  # a mount that appears later would remain
    if is_mounted(mount):
        unmount(mount)
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def is_mounted(path: str) -> bool:
    """Return whether *path* is a mount point, even if its server has died: this sends no request to the server."""
    wanted = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
    with open("/proc/self/mountinfo") as file:
        return any(_unescape(line.split()[4]) == wanted for line in file)


def _unescape(field: str) -> str:
    """Return a path of mountinfo with its octal escapes decoded (proc(5))."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


def unmount(mount: str) -> None:
    """Unmount *mount*; lazily if it stays busy."""
    # fusermount3 fails without /etc/mtab; umount(8) lets users unmount their own FUSE mounts.
    by_umount = os.geteuid() == 0 or not os.path.exists("/etc/mtab")
    command = ["umount", mount] if by_umount else ["fusermount3", "-u", mount]
    for _ in range(50):
        if subprocess.run(command, capture_output=True, check=False).returncode == 0:
            return
        time.sleep(0.1)
    subprocess.run([*command[:-1], "--lazy" if by_umount else "-z", mount], check=True)


@contextlib.contextmanager
def plain(stack: Stack, changes: Sequence[str] | None) -> Iterator[str]:
    """Yield the merged layers as a directory: a shared one, or a new one with the parts that the workload changes."""
    if changes is None:
        shared = os.path.join(stack.directory, "plain")
        if not os.path.isdir(shared):
            os.mkdir(shared)
            merge(stack.layers, shared, "")
        yield shared
        return
    target = tempfile.mkdtemp(dir=stack.directory)
    try:
        for part in changes:
            merge(stack.layers, target, part)
        yield target
    finally:
        subprocess.run(["chmod", "-R", "u+rwX", target], check=False)
        shutil.rmtree(target)


def merge(layers: Sequence[str], target: str, part: str) -> None:
    """Copy *part* of all layers into *target*. The layers contain no whiteouts."""
    os.makedirs(os.path.join(target, part), exist_ok=True)
    for layer in reversed(layers):
        if os.path.isdir(os.path.join(layer, part)):
            source, copy = os.path.join(layer, part, "."), os.path.join(target, part)
            subprocess.run(["cp", "-a", "--reflink=auto", source, copy], check=True)


def drop_caches() -> None:
    """Drop the page, dentry and inode caches. Only root may; for other users, only the fresh mount is cold."""
    os.sync()
    if os.geteuid() == 0:
        with contextlib.suppress(OSError), open("/proc/sys/vm/drop_caches", "w") as file:
            file.write("3")
