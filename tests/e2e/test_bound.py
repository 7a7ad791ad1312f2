"""The direct bind of the root: a read-only root of one archive has no server, and is served only where it must be."""

from __future__ import annotations

import os
import signal
import tarfile
from pathlib import Path

import pytest

from tests.e2e.archive import RootArchive
from tests.e2e.support import PATIENCE, Launcher, alive, children, first_line, wait_for
from tests.e2e.test_start import imported
from tests.support.requirements import has_subordinate_ids

pytestmark = [pytest.mark.fuse, pytest.mark.userns]

BOUND = "+ direct bind of the root: no server"
whole_map = pytest.mark.skipif(
    os.geteuid() != 0 and not has_subordinate_ids(), reason="this account has a single id"
)


@pytest.fixture
def archive(tmp_path: Path) -> RootArchive:
    return RootArchive(tmp_path / "root.tar")


TMPFS = '[[volumes]]\ntype = "tmpfs"\ntarget = "/tmp"\n'
WAIT = ["sh", "-c", "echo ready; exec sleep 1000"]


def how(launcher: Launcher, text: str) -> list[str]:
    """Start a sandbox and return the debug lines about the server."""
    done = launcher.up(text, ["true"], options=["--debug"])
    assert done.status == 0, done.err
    words = (
        "+ direct bind of the root",
        "+ no direct bind of the root",
        "+ served",
        "+ mount unionfs",
        "+ bind the only",
    )
    return [line for line in done.err.splitlines() if line.startswith(words)]


def test_direct_bind_has_no_server_and_the_root_is_the_layer_itself(
    launcher: Launcher, archive: RootArchive
) -> None:
    text = archive.spec()
    assert how(launcher, text) == [BOUND, "+ bind the only layer on / [read-only nosuid nodev]"]
    with launcher.start(text, WAIT) as supervisor:
        assert first_line(supervisor) == "ready"
        assert len(children(supervisor.pid)) == 1
        assert [line for line in children(supervisor.pid).values() if "--serve-fd" in line] == []
    done = launcher.shell(
        "cat /data/file; stat -f -c %T /; cut -d' ' -f5,6 /proc/self/mountinfo | grep '^/ '", text
    )
    lines = done.facts_text().splitlines()
    assert lines[0] == "of the layer"
    assert "fuse" not in lines[1]
    assert {"ro", "nosuid", "nodev"} <= set(lines[2].split()[1].split(","))


def test_direct_bind_starts_no_part_of_a_server(launcher: Launcher, archive: RootArchive) -> None:
    text = archive.spec()
    assert launcher.up(text, ["true"]).status == 0  # unpacks the archive
    found = imported(launcher, text)
    assert "sandbox.runtime.supervisor" in found
    seam = ("unionfs._stdlib", "unionfs.launch.protocol")
    parts = [name for name in found if name.startswith("unionfs.") and name != "unionfs.launch"]
    assert [name for name in parts if not name.startswith(seam)] == []
    assert "unionfs.fuse.direct.loop" in imported(
        launcher, text.replace("writable", 'server = "direct"\nwritable')
    )


def test_direct_bind_shows_what_a_server_shows(launcher: Launcher, archive: RootArchive) -> None:
    archive.add("data/link", kind=tarfile.SYMTYPE, linkname="file")
    archive.add("data/theirs", b"x", uid=1000, gid=1000, mode=0o600)
    # /etc/hosts is made at each start, and only if the layer or the skeleton has a place for it.
    look = "stat -c '%n %F %a %u:%g' /; find /data /etc /bin /lib ! -path /etc/hosts -printf '%p %y %m %U:%G %n %T@ %l\\n' | sort; cat /data/name /data/link"
    text = archive.spec()
    bound = launcher.shell(look, text)
    served = launcher.shell(look, text.replace("writable", 'server = "direct"\nwritable'))
    assert bound.status == served.status == 0, bound.err

    # Link counts of directories depend on the file system.
    def but_links(out: str) -> list[list[str]]:
        split = [line.split() for line in out.splitlines()]
        return [line[:4] + line[5:] if line[1:2] == ["d"] else line for line in split]

    assert but_links(bound.out) == but_links(served.out)
    assert "/data/theirs f 600" in bound.out


def test_archive_that_cannot_be_unpacked_is_an_error_with_the_remedy_on_a_line_of_its_own(
    launcher: Launcher, archive: RootArchive
) -> None:
    archive.add("data/cap", b"", pax_headers={"SCHILY.xattr.security.capability": "x"})
    done = launcher.up(archive.spec(), ["true"])
    assert done.status == 125
    message, hint = done.err.splitlines()
    assert message.endswith("data/cap: its attribute security.capability cannot be set: invalid argument")
    assert hint.startswith("      hint: pack the archive again without this member")


@pytest.mark.parametrize("ids", ["", '[ids]\nmap = "single"\n'])
def test_nothing_of_a_direct_bind_can_be_changed(launcher: Launcher, archive: RootArchive, ids: str) -> None:
    script = """
import ctypes, os, socket
def attempt(what, *given):
    try:
        what(*given)
        print("done", what, given)
    except OSError as error:
        print(error.strerror)
libc = ctypes.CDLL(None, use_errno=True)
def mount(flags):
    if libc.mount(None, b"/", None, flags, None):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
attempt(open, "/new", "w")
attempt(open, "/data/file", "r+")
attempt(os.truncate, "/data/file", 0)
attempt(os.unlink, "/data/file")
attempt(os.rename, "/data", "/other")
attempt(os.link, "/data/file", "/data/more")
attempt(os.symlink, "x", "/data/more")
attempt(os.mkdir, "/data/more")
attempt(os.rmdir, "/data/deep")
attempt(os.chmod, "/data/file", 0o777)
attempt(os.chown, "/data/file", 0, 0)
attempt(os.utime, "/data/file")
attempt(os.setxattr, "/data/file", "user.x", b"y")
attempt(os.mkfifo, "/data/pipe")
attempt(socket.socket(socket.AF_UNIX).bind, "/data/socket")
attempt(open, "/proc/self/root/data/file", "a")
attempt(open, f"/proc/self/fd/{os.open('/data/file', os.O_RDONLY)}", "a")
attempt(mount, 32)
attempt(mount, 32 | 4096)
"""
    text = archive.spec(more=ids)
    before = launcher.shell("ls -lRa /data /etc /bin", text).out
    done = launcher.up(text, ["/usr/bin/python3", "-c", script])
    lines = done.facts_text().splitlines()
    assert lines == ["Read-only file system"] * 17 + ["Operation not permitted"] * 2
    (tree,) = (launcher.state / "images" / "archives").glob("*/tree")
    assert sorted(os.listdir(tree / "data")) == ["deep", "file", "name"]
    assert launcher.shell("ls -lRa /data /etc /bin", text).out == before


def test_direct_bind_stays_read_only_in_namespaces_below(launcher: Launcher, archive: RootArchive) -> None:
    """Without a filter, a program has all capabilities in a user namespace of its own, but its mounts are locked there."""
    script = """
import ctypes, errno, os
libc = ctypes.CDLL(None, use_errno=True)
CLONE_NEWUSER, CLONE_NEWNS, REMOUNT, BIND = 0x10000000, 0x20000, 32, 4096
uid, gid = os.getuid(), os.getgid()
assert libc.unshare(CLONE_NEWUSER | CLONE_NEWNS) == 0, os.strerror(ctypes.get_errno())
for name, line in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
    with open(f"/proc/self/{name}", "w") as file:
        file.write(line)
print(libc.mount(None, b"/", None, REMOUNT | BIND, None), errno.errorcode[ctypes.get_errno()])
print(libc.mount(b"/data", b"/tmp", None, BIND, None))
print(libc.mount(None, b"/tmp", None, REMOUNT | BIND, None), errno.errorcode[ctypes.get_errno()])
try:
    open("/tmp/new", "w")
except OSError as error:
    print(error.strerror)
"""
    text = archive.spec(more=TMPFS + '[security]\nseccomp = "unconfined"\n')
    done = launcher.up(text, ["/usr/bin/python3", "-c", script])
    assert done.facts_text().splitlines() == ["-1 EPERM", "0", "-1 EPERM", "Read-only file system"]


def test_nothing_above_a_direct_bind_can_be_reached(launcher: Launcher, archive: RootArchive) -> None:
    script = """
import os
outside = os.open("/", os.O_RDONLY)
print(sorted(os.listdir("/..")) == sorted(os.listdir("/")))
os.chroot("/tmp")
os.fchdir(outside)
for _ in range(20):
    os.chdir("..")
os.chroot(".")
print(sorted(os.listdir("/")))
"""
    done = launcher.up(archive.spec(more=TMPFS), ["/usr/bin/python3", "-c", script])
    top = ["bin", "data", "dev", "etc", "lib", "lib64", "proc", "sbin", "sys", "tmp", "usr"]
    assert done.facts_text().splitlines() == ["True", str(top)]


@pytest.mark.parametrize(
    ("name", "kind", "reason"),
    [
        ("data/pipe", tarfile.FIFOTYPE, "cannot be a direct bind: /data/pipe is a FIFO"),
        ("data/.wh.x", tarfile.REGTYPE, "cannot be a direct bind: /data/.wh.x is a whiteout"),
        (".wh..wh..opq", tarfile.REGTYPE, "cannot be a direct bind: /.wh..wh..opq is a whiteout"),
    ],
)
def test_layer_that_a_bind_would_show_differently_is_served_and_walked_once(
    launcher: Launcher, archive: RootArchive, name: str, kind: bytes, reason: str
) -> None:
    text = archive.add(name, kind=kind).spec()
    for _ in range(2):
        not_bound, mounted, served = how(launcher, text)
        assert not_bound.startswith(f"+ no direct bind of the root: tar:{archive.path} {reason}")
        assert (mounted, served) == (
            "+ mount unionfs on / [read-only nosuid nodev]",
            "+ served by direct",
        )
    (record,) = (launcher.state / "images" / "archives").glob("*/native")
    record.write_text(record.read_text().replace("/data/", "/believed/").replace("/.wh", "/believed/.wh"))
    assert "/believed/" in how(launcher, text)[0]


def test_layer_without_a_place_for_a_mount_is_served(launcher: Launcher, archive: RootArchive) -> None:
    text = archive.spec(more=TMPFS.replace("/tmp", "/scratch"))
    not_bound, *_, served = how(launcher, text)
    assert "/scratch must be a mount point, but is not in tar:" in not_bound
    assert served == "+ served by direct"
    assert launcher.shell("touch /scratch/x && ls /scratch", text).facts_text() == "x\n"


def test_a_link_to_the_place_of_a_mount_is_enough(launcher: Launcher, archive: RootArchive) -> None:
    archive.add("way", kind=tarfile.SYMTYPE, linkname="data/deep")
    text = archive.spec(more=TMPFS.replace("/tmp", "/way"))
    assert how(launcher, text)[0] == BOUND
    assert launcher.shell("touch /way/x && ls /data/deep; ls /data", text).out.split() == [
        "x",
        "deep",
        "file",
        "name",
    ]


def test_a_file_that_forbids_a_server_has_none_or_is_refused(
    launcher: Launcher, archive: RootArchive
) -> None:
    text = archive.spec('server = "none"\n')
    assert how(launcher, text)[0] == BOUND
    done = launcher.up(text + TMPFS.replace("/tmp", "/scratch"), ["true"])
    assert done.status == 125
    assert "test.toml:4:10: root.server: /scratch must be a mount point, but is not in tar:" in done.err
    assert 'hint: add it to the archive, or remove server = "none"' in done.err
    optional = text.replace("writable", 'optional = ["server"]\nwritable')
    done = launcher.up(optional + TMPFS.replace("/tmp", "/scratch"), ["true"], options=["--debug"])
    assert done.status == 0
    assert "warning: not enforced: root.server: /scratch must be a mount point" in done.err
    assert "+ served by direct" in done.err
    assert launcher.runs() == []


def test_no_filter_of_a_server_is_compiled_where_there_can_be_none(
    launcher: Launcher, archive: RootArchive
) -> None:
    text = archive.spec('server = "none"\n', TMPFS + '[security]\nseccomp = "unconfined"\n')
    assert launcher.up(text, ["true"]).status == 0
    assert not (launcher.state / "filters").exists() or os.listdir(launcher.state / "filters") == []


def test_a_server_that_turns_out_to_be_unneeded_is_ended(launcher: Launcher, archive: RootArchive) -> None:
    launcher.write(archive.spec(), "base.toml")
    with launcher.start('extends = "base.toml"\n', WAIT) as supervisor:
        assert first_line(supervisor) == "ready"
        assert len(children(supervisor.pid)) == 1
        supervisor.send_signal(signal.SIGTERM)
        assert supervisor.wait(PATIENCE) == 128 + signal.SIGTERM
    assert launcher.runs() == []


def test_volumes_masks_native_paths_and_a_user_work_in_a_direct_bind(
    launcher: Launcher, archive: RootArchive, shared: Path
) -> None:
    archive.add("mnt").add("app").add("app/x", b"native\n").add("var").add("secret", b"hidden\n")
    more = TMPFS + f'[[volumes]]\ntype = "bind"\nsource = "{shared}"\ntarget = "/mnt"\n'
    more += '[[volumes]]\ntype = "named"\nsource = "kept"\ntarget = "/var"\n'
    more += '[[volumes]]\ntype = "file"\ntarget = "/etc/passwd"\ncontent = "root:x:0:0::/tmp:/bin/sh\\n"\n'
    more += '[security]\nmasked_paths = ["/secret"]\nreadonly_paths = ["/data"]\n'
    text = archive.spec('native = ["/app"]\n', more)
    assert how(launcher, text)[0] == BOUND
    script = (
        "cat /mnt/file /app/x /secret; echo ~; touch /tmp/x /var/x /mnt/x && ls /tmp /var; touch /app/y /y"
    )
    done = launcher.shell(script, text)
    assert done.out.split("\n") == ["of the host", "native", "/tmp", "/tmp:", "x", "", "/var:", "x", ""]
    assert done.err.count("Read-only file system") == 2
    assert (shared / "x").exists()


@whole_map
def test_directories_of_other_users_hold_places_for_mounts(launcher: Launcher, archive: RootArchive) -> None:
    archive.add("own", mode=0o700, uid=1000, gid=1000).add("own/in", uid=1000, gid=1000, mode=0o700)
    archive.add("own/in/place", uid=1000, gid=1000)
    text = archive.spec(more=TMPFS.replace("/tmp", "/own/in/place"))
    assert how(launcher, text)[0] == BOUND
    assert launcher.shell("touch /own/in/place/x && stat -c %u /own", text).facts_text() == "1000\n"
    text = text.replace("/own/in/place", "/own/in/no")
    assert "/own/in/no must be a mount point" in how(launcher, text)[0]


def test_report_of_a_direct_bind_mentions_no_server(launcher: Launcher, archive: RootArchive) -> None:
    done = launcher.up(archive.spec(), ["true"], options=["--timings", "--report"])
    assert done.status == 0
    assert "root mounted" in done.err
    assert "server" not in done.err


def test_killed_supervisor_leaves_nothing(launcher: Launcher, archive: RootArchive) -> None:
    text = archive.spec()
    with launcher.start(text, WAIT) as supervisor:
        assert first_line(supervisor) == "ready"
        (init,) = children(supervisor.pid)
        (program,) = children(init)
        supervisor.kill()
        supervisor.wait(PATIENCE)
    wait_for(lambda: not alive(init) and not alive(program), "the end of what it started")
    assert len(launcher.runs()) == 1
    assert launcher.up(text, ["true"]).status == 0
    assert launcher.runs() == []


def test_killed_process_1_ends_the_sandbox(launcher: Launcher, archive: RootArchive) -> None:
    with launcher.start(archive.spec(), WAIT) as supervisor:
        assert first_line(supervisor) == "ready"
        (init,) = children(supervisor.pid)
        os.kill(init, signal.SIGKILL)
        assert supervisor.wait(PATIENCE) == 128 + signal.SIGKILL
    assert launcher.runs() == []


@pytest.mark.rootfs
def test_debian_root_is_bound(launcher: Launcher, debian_rootfs: str) -> None:
    text = f'[root]\nlayers = ["tar:{debian_rootfs}"]\nwritable = "none"\n'
    assert how(launcher, text)[0] == BOUND
    done = launcher.shell("cat /etc/debian_version; touch /x; find / -xdev | wc -l", text)
    version, count = done.out.split()
    assert float(version) >= 13
    assert int(count) > 3000
    assert "Read-only file system" in done.err
