"""Images for tests of commit, export, registries and lock files: a root, changes of it, and what a sandbox shows of it."""

from __future__ import annotations

import gzip
import inspect
import json
import lzma
import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sandbox.images.compression import zstd_module
from tests.e2e.archive import Archive
from tests.e2e.support import PATIENCE, PYTHON, Launcher, sandbox
from tests.support import tree
from tests.support.tree import Entry

ROOT = os.geteuid() == 0
LARGE = bytes(range(256)) * 400
"""Large enough to be copied without its contents when its mode changes."""

#: One change of each kind below /data of `base`, by a program of this machine.
CHANGE = r"""
import os, socket
os.chdir("/data")
os.mkdir("new"); open("new/file", "w").write("new")
open("changed", "w").write("changed")
os.chmod("mode", 0o4711)
os.unlink("deleted")
os.unlink("gone/a"); os.unlink("gone/sub/b"); os.rmdir("gone/sub"); os.rmdir("gone")
os.unlink("replaced/old"); os.rmdir("replaced"); os.mkdir("replaced"); open("replaced/new", "w").write("in place")
os.rename("moved", "elsewhere"); os.unlink("elsewhere/inside"); open("elsewhere/added", "w").write("added")
open("name", "a").write(" and changed")
os.link("other", "third")
os.unlink("file-then-directory"); os.mkdir("file-then-directory"); open("file-then-directory/in", "w").write("it")
os.unlink("directory-then-link/x"); os.rmdir("directory-then-link"); os.symlink("new", "directory-then-link")
os.mkfifo("fifo", 0o640)
os.symlink("no\nwhere", "dangling")
open("sparse", "w").truncate(1 << 20)
os.setxattr("new/file", "user.mine", b"\0\1")
open("t" * 200 + "é", "w").write("long")
socket.socket(socket.AF_UNIX).bind("socket")
os.utime("changed", ns=(1_600_000_000_123_456_789, 1_600_000_000_123_456_789))
"""

_SNAPSHOT = f"{inspect.getsource(tree)}\nprint(repr(snapshot('/data', nlink=True, mtime=True)))"

VOLUME = '[[volumes]]\ntype = "bind"\nsource = "/usr"\ntarget = "/usr"\nread_only = true\n'


def run(*command: str | Path, env: Mapping[str, str] | None = None, ok: bool = True) -> str:
    """Run a program of another project; return its output."""
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        stdin=subprocess.DEVNULL,
        env=None if env is None else {**os.environ, **env},
    )
    assert not ok or done.returncode == 0, f"{' '.join(map(str, command))}: {done.stderr}"
    return done.stdout


def base(path: Path, compression: str = "", more: bytes = b"") -> Path:
    """Write an archive of a root with the objects that CHANGE changes, and with programs for podman; return its path.

    /usr is empty: `spec` mounts this machine's.
    """
    plain = path.with_suffix(".plain")
    archive = Archive(plain)
    for name in ("proc", "sys", "dev", "usr", "tmp", "etc", "opt", "data"):
        archive.add(name)
    for name in ("bin", "sbin", "lib", "lib64"):
        archive.add(name, kind=b"2", linkname=f"usr/{name}")
    archive.add("etc/passwd", b"root:x:0:0::/:/opt/sh\n")
    if os.path.exists("/bin/busybox"):
        archive.add("opt/busybox", Path("/bin/busybox").read_bytes(), mode=0o755)
        archive.add("opt/sh", kind=b"2", linkname="busybox")
    for name in ("gone", "gone/sub", "replaced", "moved", "directory-then-link"):
        archive.add(f"data/{name}")
    names = "changed deleted gone/a gone/sub/b replaced/old moved/inside moved/kept name file-then-directory"
    for name in (*names.split(), "directory-then-link/x"):
        archive.add(f"data/{name}", f"old {name}\n".encode())
    archive.add("data/mode", LARGE + more)
    archive.add("data/other", kind=b"1", linkname="data/name")
    archive.layer()
    content = plain.read_bytes()
    plain.unlink()
    if compression == "zstd":
        content = zstd_module("test").compress(content)
    elif compression:
        content = {"gzip": gzip.compress, "xz": lzma.compress}[compression](content)
    path.write_bytes(content)
    return path


def layout(directory: Path, archive: Path, tag: str = "1") -> str:
    """Make a layout with the image of *archive*, a plain tar, by umoci; return it as umoci and a layer name it."""
    if not (directory / "oci-layout").exists():
        run("umoci", "init", "--layout", directory)
    image = f"{directory}:{tag}"
    run("umoci", "new", "--image", image)
    run("umoci", "raw", "add-layer", "--image", image, archive, env={"TMPDIR": tempfile.gettempdir()})
    run("umoci", "config", "--image", image, "--config.env", "OF=umoci", "--config.cmd", "/opt/sh")
    return image


def spec(*layers: str, name: str = "box", more: str = "", writable: str = "persistent") -> str:
    """Return an environment file with *layers* that has this machine's /usr."""
    root = f'[sandbox]\nname = "{name}"\n[root]\nlayers = {json.dumps(layers)}\nwritable = "{writable}"\n'
    return f"{root}{more}{VOLUME}"


def change(launcher: Launcher, text: str, program: str = CHANGE, *options: str) -> None:
    """Run *program* in the sandbox of the environment file *text*."""
    done = launcher.up(text, [PYTHON, "-c", program], options=options)
    assert done.status == 0, done.err


def shown(launcher: Launcher, text: str) -> dict[bytes, Entry]:
    """Return the tree at /data that the sandbox of the environment file *text* shows, without sockets."""
    done = launcher.up(text, [PYTHON, "-c", _SNAPSHOT])
    assert done.status == 0, done.err
    found: dict[bytes, Entry] = eval(done.out, {"Entry": Entry})
    return {path: entry for path, entry in found.items() if entry.type != "socket"}


def succeed(launcher: Launcher, *arguments: str, **environ: str) -> Any:
    """Run `sandbox` with *arguments* and --json; return what it printed."""
    done = sandbox(launcher, *arguments, "--json", environ=environ)
    assert done.status == 0, (arguments, done.out, done.err)
    return json.loads(done.out)


def check_store(launcher: Launcher) -> None:
    """Assert that `image verify` finds nothing, and that `image prune` leaves nothing that is partial."""
    done = sandbox(launcher, "image", "verify")
    assert (done.status, done.out) == (0, ""), (done.out, done.err)
    assert sandbox(launcher, "image", "prune").status == 0
    assert list((launcher.state / "images").glob("partial/*")) == []


@contextmanager
def process(launcher: Launcher, *arguments: str, **environ: str) -> Iterator[subprocess.Popen[str]]:
    """Run `sandbox` with *arguments* in the background; it is killed at the end, with its children."""
    import sys

    with subprocess.Popen(
        [sys.executable, "-m", "sandbox", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**launcher.environ, **environ},
        start_new_session=True,
    ) as started:
        try:
            yield started
        finally:
            started.kill()
            started.wait(PATIENCE)
