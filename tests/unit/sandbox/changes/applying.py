"""A union over one directory, whose changes are applied to that directory."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from sandbox.changes import apply, apply_plan
from sandbox.changes.apply_plan import Plan, Rules
from sandbox.changes.host_check import examine
from sandbox.changes.host_tree import HostTree
from sandbox.changes.step_order import Step
from sandbox.errors import SandboxError
from tests.support.tree import Dir, Entry, File, HardLink, Symlink, Tree, snapshot
from tests.unit.sandbox.changes.union_changes import archive_of, rows_of
from tests.unit.unionfs.client import Client
from unionfs.formats.whiteout import WhiteoutFormat
from unionfs.upper.format import WantedFormat

ROOT = os.geteuid() == 0

LOWER: Tree = {
    "changed": File(b"old", mode=0o640),
    "deleted": {"x": b"1", "y": {"z": b"2"}},
    "moved": {"kept": b"3", "changed": b"4", "deleted": b"5"},
    "one": b"6",
    "other": b"7",
    "new-app": {"bin": b"8", "lib": {"a": b"9"}},
    "app": {"bin": b"10", "lib": {"a": b"11", "b": b"12"}, "etc": b"13"},
    "file-then-directory": b"14",
    "directory-then-file": {"x": b"15"},
    "names": {"first": b"16", "second": HardLink("names/first")},
    "out": {"of": {"here": b"17"}},
    "mode": Dir({}, mode=0o755),
    "link": Symlink(b"old"),
    "sparse": File(b"18", size=1 << 20),
    "file": b"19",
    "over": b"20",
}


@dataclass(slots=True)
class Sandbox:
    """A union over one directory, which is written to."""

    union: Client
    host: Path

    def plan(self, *paths: str, exclude: tuple[str, ...] = ()) -> Plan:
        return apply_plan.make(
            rows_of(self.union), Rules(paths=tuple(map(os.fsencode, paths)), exclude=exclude)
        )

    def archive(self, plan: Plan) -> bytes:
        return archive_of(self.union, plan.members)


@contextlib.contextmanager
def sandbox_over(lower: Tree) -> Iterator[Sandbox]:
    before = os.umask(0)
    base = Path(tempfile.mkdtemp(prefix="sandbox-apply-"))
    union = Client(base, [lower], WantedFormat(whiteouts=WhiteoutFormat.OVERLAY))
    try:
        yield Sandbox(union, union.lowers[0])
    finally:
        union.close()
        subprocess.run(["chmod", "-R", "u+rwx", base], check=True)
        shutil.rmtree(base)
        os.umask(before)


def execute(
    host: Path, plan: Plan, archive: bytes, on_step: Callable[[Step], None] = lambda _step: None
) -> apply.Applied:
    fd = os.open(host, os.O_PATH | os.O_DIRECTORY)
    try:
        return apply.execute(plan, HostTree(fd), io.BytesIO(archive), lambda uid, gid: (uid, gid), on_step)
    finally:
        os.close(fd)


def refused(
    host: Path, plan: Plan, archive: bytes, on_step: Callable[[Step], None] = lambda _step: None
) -> str:
    with pytest.raises(SandboxError) as caught:
        execute(host, plan, archive, on_step)
    assert caught.value.hint
    return caught.value.message


def conflicts(host: Path, plan: Plan) -> list[str]:
    fd = os.open(host, os.O_PATH | os.O_DIRECTORY)
    try:
        return [conflict.text() for conflict in examine(plan, HostTree(fd), lambda uid, gid: (uid, gid))]
    finally:
        os.close(fd)


def change_everything(union: Client) -> None:
    """Do something of every kind."""
    union.write("/changed", b"new contents")
    for path in (
        "/deleted/x",
        "/deleted/y/z",
        "/moved/deleted",
        "/app/bin",
        "/app/lib/a",
        "/app/lib/b",
        "/app/etc",
    ):
        union.unlink(path)
    for path in ("/deleted/y", "/deleted", "/app/lib", "/app"):
        union.rmdir(path)
    union.rename("/moved", "/target")
    union.write("/target/changed", b"new")
    union.create("/target/new", b"new")
    union.rename("/one", "/swap")
    union.rename("/other", "/one")
    union.rename("/swap", "/other")
    union.rename("/new-app", "/app")
    union.unlink("/file-then-directory")
    union.mkdir("/file-then-directory", 0o750)
    union.create("/file-then-directory/x", b"new")
    union.unlink("/directory-then-file/x")
    union.rmdir("/directory-then-file")
    union.create("/directory-then-file", b"new")
    union.write("/names/first", b"new")
    union.rename("/out/of/here", "/here")
    union.rmdir("/out/of")
    union.rmdir("/out")
    union.chmod("/mode", 0o700)
    union.setxattr("/mode", "user.color", b"blue")
    union.unlink("/link")
    union.symlink("/link", "new")
    union.write("/sparse", b"new", 500_000)
    union.mkdir("/added", 0o755)
    union.mknod("/added/fifo", stat.S_IFIFO | 0o640)
    union.create("/added/\udcff", b"new")
    union.link("/added/\udcff", "/added/again")
    union.chmod("/added", 0o555)
    union.rename("/file", "/over")
    if ROOT:
        union.chown("/changed", 12, 34)
        union.mknod("/added/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    union.end_request()


def shown(union: Client) -> dict[bytes, Entry]:
    """Return what GNU cp would see: the union's objects as entries."""
    found = {}
    for path, entry in union.show().items():
        found[os.fsencode(path.lstrip("/")) or b"."] = (
            stat.S_IFMT(entry.mode), None if stat.S_ISLNK(entry.mode) else entry.mode, entry.uid, entry.gid,
            entry.data, entry.target, entry.rdev, entry.mtime_ns, entry.xattrs,
        )  # fmt: skip
    return found  # type: ignore[return-value]


def on_host(host: Path) -> dict[bytes, object]:
    """Return the same of a directory."""
    found: dict[bytes, object] = {}
    for path, entry in snapshot(host, mtime=True).items():
        info = os.lstat(os.path.join(os.fsencode(host), path))
        is_link, is_device = entry.type == "symlink", entry.type in ("char", "block")
        found[path] = (
            stat.S_IFMT(info.st_mode), None if is_link else info.st_mode, info.st_uid, info.st_gid, entry.data,
            entry.target, info.st_rdev if is_device else 0, None if entry.type == "dir" else entry.mtime_ns,
            tuple(sorted(entry.xattrs.items())),
        )  # fmt: skip
    return found
