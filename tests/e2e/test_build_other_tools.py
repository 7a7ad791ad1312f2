"""Images built here, beside those that buildah builds of the same file, and under podman and umoci."""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.e2e.building import BASE, Project
from tests.e2e.support import sandbox
from tests.support.podman import Podman
from tests.support.requirements import RUNTIME_PATH
from tests.support.tree import snapshot

pytestmark = [pytest.mark.fuse, pytest.mark.userns, pytest.mark.busybox]

TEXT = """FROM scratch AS base
COPY busybox /bin/busybox
ADD base.tar /
FROM base
COPY data /a/b/c
COPY --chown=7:8 data /owned/x
COPY --chown=u data/file /owned-file/y/
COPY --chmod=0600 data/file /mode
COPY data/file /lib/
COPY data/file /link
COPY data/f* data/sub /several/
COPY to-data /of-link
ADD archive.tar data/file /added/
COPY --from=base /bin/busybox /kept/
COPY --from=base /kept/owned /from-base
COPY --from=base /usr /also/
"""
#: Commands, which make what TEXT does not have. A set-id bit is not among them: `buildah build -o` leaves it out.
RUNS = """RUN mkdir -p /ran/dir && ln /kept/owned /ran/hard && ln -s dir /ran/link && rm /old && chmod 0711 /mode && \\
    rm -r /a/b && mkdir /a/b && echo new > /a/b/new && chown -R 7:8 /also && mkfifo /ran/fifo
RUN ["/bin/busybox", "mv", "/several", "/moved"]
USER u
WORKDIR /made/by/u
USER 9:10
WORKDIR deeper
RUN pwd > here; id -u >> here; id -g >> here
"""
#: The objects of base.tar: their kind, mode, owner and target.
BASE_TREE = {
    "bin/sh": (tarfile.SYMTYPE, 0o777, 0, "busybox"),
    "usr": (tarfile.DIRTYPE, 0o755, 0, ""),
    "usr/lib": (tarfile.DIRTYPE, 0o711, 0, ""),
    "usr/lib/f": (tarfile.REGTYPE, 0o600, 3, ""),
    "usr/lib/g": (tarfile.LNKTYPE, 0o600, 3, "usr/lib/f"),
    "lib": (tarfile.SYMTYPE, 0o777, 0, "usr/lib"),
    "old": (tarfile.REGTYPE, 0o644, 0, ""),
    "link": (tarfile.SYMTYPE, 0o777, 0, "old"),
    "etc": (tarfile.DIRTYPE, 0o755, 0, ""),
    "etc/passwd": (tarfile.REGTYPE, 0o644, 0, ""),
    "kept": (tarfile.DIRTYPE, 0o1777, 0, ""),
    "kept/owned": (tarfile.REGTYPE, 0o644, 5, ""),
}

Tree = dict[str, tuple[bytes, int, tuple[int, int], bytes]]
"""The kind, mode, owner, and content or target of each object. Names of one file have the first one's."""

#: What buildah makes for the command of RUN and leaves behind, and what each tool makes by itself.
MADE = {"proc", "sys", "dev", "run", "etc/hosts", "etc/hostname", "etc/resolv.conf", ".", "etc", "tmp", "var"}


def tree_of(content: bytes) -> Tree:
    found: Tree = {}
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        for member in tar:
            name = member.name.removeprefix("./").rstrip("/")
            if name in MADE or not name or name.split("/")[0] in ("proc", "sys", "dev", "run"):
                continue
            if member.islnk():
                found[name] = found[member.linkname.removeprefix("./")]
                continue
            data = tar.extractfile(member).read() if member.isfile() else member.linkname.encode()  # type: ignore[union-attr]
            # Tools differ in the mode of a link, which means nothing.
            found[name] = (member.type, 0 if member.issym() else member.mode, (member.uid, member.gid), data)
    return found


def tree_shown(project: Project) -> Tree:
    """Return the tree that a sandbox of the image "made" shows."""
    script = (
        'export PATH=/bin; B=busybox; cd /; $B tar -c $($B ls | $B grep -vxE "proc|sys|dev|run") | $B base64'
    )
    return tree_of(base64.b64decode(project.shell("made", script)))


@pytest.fixture
def files(project: Project) -> Project:
    """Return a project with files of each kind."""
    made = project
    made.add("data/sub/deep", "deep")
    os.link(made.path / "data/file", made.path / "data/second")
    (made.path / "data/link").symlink_to("sub")
    (made.path / "data/sub").chmod(0o700)
    (made.path / "to-data").symlink_to("data")
    with tarfile.open(made.path / "archive.tar", "w") as tar:
        member = tarfile.TarInfo("in/archive")
        member.size, member.uid, member.mode = 3, 9, 0o751
        tar.addfile(member, io.BytesIO(b"abc"))
    with tarfile.open(made.path / "base.tar", "w") as tar:
        for name, (kind, mode, owner, target) in BASE_TREE.items():
            member = tarfile.TarInfo(name)
            content = b"u:x:5:6::/:\n" if name == "etc/passwd" else b"x" if kind == tarfile.REGTYPE else b""
            member.type, member.mode, member.uid, member.linkname = kind, mode, owner, target
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return made


@pytest.mark.buildah
def test_buildah_builds_the_same_tree(files: Project, tmp_path: Path) -> None:
    done = files.build(TEXT + RUNS, "-t", "made")
    assert done.status == 0, done.err
    ours = tree_shown(files)
    theirs = built_by_buildah(files, tmp_path)
    assert {name: ours.get(name) for name in theirs} == theirs
    assert ours.keys() == theirs.keys()


@pytest.mark.buildah
@pytest.mark.parametrize("user", ["", "u"])
def test_buildah_makes_the_same_working_directory_for_a_command(
    files: Project, tmp_path: Path, user: str
) -> None:
    base = files.path / "base.toml"
    base.write_text(
        '[root]\nlayers = ["image:base0"]\n[[build]]\nlabels = { a = "b" }\n[process]\ncwd = "/lacking/in"\n'
    )
    text = "FROM scratch\nADD base.tar /\nCOPY busybox /bin/busybox\n"
    assert files.build(text, "-t", "base0").status == 0
    assert sandbox(files.launcher, "build", str(base), "-t", "base").status == 0
    archive = tmp_path / "base-image"
    assert sandbox(files.launcher, "export", "image:base", f"oci-archive:{archive}").status == 0
    change = f"{user and 'USER '}{user}\nRUN pwd > here\n"
    assert files.build(f"FROM image:base\n{change}USER 0\n", "-t", "made").status == 0
    ours = tree_shown(files)
    (files.launcher.directory / "Containerfile").write_text(f"FROM oci-archive:{archive}\n{change}")
    theirs = built_by_buildah(files, tmp_path)
    assert {name: ours.get(name) for name in theirs} == theirs
    assert "lacking/in/here" in theirs


def built_by_buildah(files: Project, tmp_path: Path) -> Tree:
    """Return the tree that buildah builds from the Containerfile of the last build here.

    RUN needs a home directory, which the test accounts lack, so HOME is a temporary one. With the isolation "chroot", buildah
    would take the one of /etc/passwd all the same.
    """
    storage = ["--root", f"{tmp_path}/storage", "--runroot", f"{tmp_path}/run", "--storage-driver", "vfs"]
    done = subprocess.run(
        ["buildah", *storage, "build", "--isolation", "rootless", "--runtime", "runc", "--network", "none",
         "--layers=false", "-o", f"type=tar,dest={tmp_path}/built.tar",
         "-f", str(files.launcher.directory / "Containerfile"), str(files.path)],
        env={"PATH": RUNTIME_PATH, "HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path), "TMPDIR": str(tmp_path)},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    subprocess.run(["buildah", "unshare", "rm", "-rf", tmp_path / "storage"], check=True)
    assert done.returncode == 0, done.stderr
    return tree_of((tmp_path / "built.tar").read_bytes())


@pytest.mark.umoci
def test_umoci_unpacks_an_image_to_the_tree_that_a_sandbox_shows(files: Project, tmp_path: Path) -> None:
    text = TEXT.replace("--chown=7:8 ", "").replace("--chown=u ", "")
    assert files.build(text, "-t", "made").status == 0
    layout = tmp_path / "layout"
    assert sandbox(files.launcher, "export", "image:made", f"oci:{layout}:t").status == 0
    rootless = [] if os.geteuid() == 0 else ["--rootless"]
    subprocess.run(
        ["umoci", "unpack", *rootless, "--image", f"{layout}:t", tmp_path / "bundle"],
        check=True,
        capture_output=True,
    )
    theirs = {
        os.fsdecode(path): entry for path, entry in snapshot(tmp_path / "bundle/rootfs", ids=False).items()
    }
    ours = tree_shown(files)
    assert theirs.keys() - MADE == ours.keys()
    for name, (kind, mode, _, content) in ours.items():
        target = theirs[name].target
        if kind == tarfile.REGTYPE:
            assert (tmp_path / "bundle/rootfs" / name).read_bytes() == content, name
        assert target == (content if kind == tarfile.SYMTYPE else None), name
        assert kind == tarfile.SYMTYPE or theirs[name].mode == mode, name


@pytest.mark.podman
@pytest.mark.twice
def test_podman_runs_an_image_with_its_configuration(
    project: Project, podman: Podman, tmp_path: Path
) -> None:
    text = f"""{BASE}ENV WORD=hello
WORKDIR /srv
COPY data .
RUN rm /bin/zcat && echo "$WORD" > word
LABEL a=b
EXPOSE 80
ENTRYPOINT ["sh", "-c"]
CMD ["cat word file; echo $WORD; pwd; ls /bin/zcat 2>/dev/null || echo gone"]
"""
    assert project.build(text, "-t", "made").status == 0
    archive = tmp_path / "image.tar"
    assert (
        sandbox(project.launcher, "export", "image:made", f"docker-archive:{archive}:localhost/made:1").status
        == 0
    )
    podman("load", "--input", archive)
    inspected = json.loads(podman("image", "inspect", "localhost/made:1"))[0]
    assert inspected["Labels"] == {"a": "b"}
    assert inspected["Config"]["ExposedPorts"] == {"80/tcp": {}}
    here = project.launcher.up('[root]\nlayers = ["image:made"]\n').facts_text()
    assert here == "hello\none\nhello\n/srv\ngone\n"
    assert podman("run", "--rm", "--network=none", "localhost/made:1") == here
