"""Volumes of every kind and the resolution of their targets, seen from inside and outside."""

from __future__ import annotations

import errno
import os
import stat
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from sandbox.kernel import _libc, process
from sandbox.kernel.trees import exchange
from tests.e2e.support import HOST_ROOT, Launcher, first_line, let_in

pytestmark = [pytest.mark.fuse, pytest.mark.userns]

KEPT = '[sandbox]\nname = "kept"\n[root]\nlayers = ["dir:/"]\nwritable = "persistent"\n'


def volume(kind: str, target: str, **others: object) -> str:
    lines = [
        f'{key} = "{value}"' if isinstance(value, str) else f"{key} = {value}"
        for key, value in others.items()
    ]
    return "\n".join(["[[volumes]]", f'type = "{kind}"', f'target = "{target}"', *lines, ""])


@pytest.fixture
def layer(tmp_path: Path) -> Path:
    """Make an empty layer that every user may read and write."""
    directory = tmp_path / "layer"
    directory.mkdir(mode=0o755)
    for above in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        above.chmod(above.stat().st_mode | 0o055)
    return directory


# -- named ---------------------------------------------------------------------------------------


def test_named_volume_is_kept_and_belongs_to_the_sandboxs_root(launcher: Launcher) -> None:
    spec = HOST_ROOT + volume("named", "/data", source="data", mode="0751")
    assert launcher.shell("echo kept > /data/file", spec).status == 0
    assert launcher.shell("cat /data/file; stat -c '%a %u %g' /data", spec).out.split() == [
        "kept",
        "751",
        "0",
        "0",
    ]
    assert stat.S_IMODE((launcher.state / "volumes").stat().st_mode) == 0o700
    assert stat.S_IMODE((launcher.state / "volumes" / "data").stat().st_mode) == 0o700
    assert launcher.runs() == []


def test_two_sandboxes_use_a_named_volume_at_once(launcher: Launcher) -> None:
    spec = HOST_ROOT + volume("named", "/data", source="data")
    script = (
        "echo ready > /data/one; echo ready; while [ ! -e /data/two ]; do sleep 0.05; done; cat /data/two"
    )
    with launcher.start(spec, ["sh", "-c", script]) as first:
        assert first_line(first) == "ready"
        assert launcher.shell("cat /data/one; echo answer > /data/two", spec).out == "ready\n"
        assert first_line(first) == "answer"


def test_named_volume_is_removed_like_any_directory(launcher: Launcher) -> None:
    spec = HOST_ROOT + volume("named", "/data", source="data")
    assert launcher.shell("touch /data/file", spec).status == 0
    remove = ["rm", "-r", str(launcher.state / "volumes" / "data")]
    assert subprocess.run(remove, check=False).returncode == 0
    assert launcher.shell("ls -A /data", spec).out == ""


def test_named_volume_with_files_of_ids_that_are_not_there_is_refused(launcher: Launcher) -> None:
    from sandbox.host import facts

    if facts.gather().whole_maps() is None:
        pytest.skip("needs subordinate ids: usermod --add-subuids")
    spec = HOST_ROOT + volume("named", "/data", source="data")
    assert launcher.up(spec, ["true"]).status == 0
    done = launcher.up(spec + '[ids]\nmap = "single"\n', ["true"])
    assert done.status == 125
    assert "volume data contains files of ids that this sandbox does not have" in done.err
    assert launcher.up(spec, ["true"]).status == 0


def test_named_volume_of_a_sandbox_with_one_id_serves_one_with_more(launcher: Launcher) -> None:
    spec = HOST_ROOT + volume("named", "/data", source="data")
    if os.geteuid() == 0:
        pytest.skip(
            "the ids of root's sandboxes with one id and with many have none in common: run as another user"
        )
    assert launcher.shell("echo one > /data/file", spec + '[ids]\nmap = "single"\n').status == 0
    assert launcher.shell("cat /data/file; stat -c %u /data/file", spec).out.split() == ["one", "0"]


# -- file ----------------------------------------------------------------------------------------


def test_file_volume_has_its_content_mode_and_owner_and_is_read_only(launcher: Launcher) -> None:
    spec = HOST_ROOT + volume("file", "/etc/made/by.conf", content="one\\ntwo ${config_dir}\\n", mode="0640")
    script = "cat /etc/made/by.conf; stat -c '%a %u %g' /etc/made/by.conf; echo x > /etc/made/by.conf; rm /etc/made/by.conf"
    done = launcher.shell(script, spec)
    assert done.out == f"one\ntwo {launcher.directory}\n640 0 0\n"
    assert "Read-only file system" in done.err
    assert "Device or resource busy" in done.err


def test_file_volume_with_an_executable_mode_is_executed(launcher: Launcher) -> None:
    spec = HOST_ROOT + volume("file", "/opt/run-me", content="#!/bin/sh\\necho ran\\n", mode="0755")
    assert launcher.up(spec, ["/opt/run-me"]).out == "ran\n"
    done = launcher.up(spec.replace('mode = "0755"', 'mode = "0755"\noptions = ["noexec"]'), ["/opt/run-me"])
    assert done.status == 126


def test_content_of_a_file_volume_is_nowhere_on_disk(launcher: Launcher) -> None:
    secret = "correct-horse-battery-staple"
    spec = HOST_ROOT + volume("file", "/run/secret", content=secret)
    with launcher.start(spec, ["sh", "-c", "cat /run/secret; echo; exec sleep 1000"]) as supervisor:
        assert first_line(supervisor) == secret
        found = subprocess.run(
            ["grep", "-rl", secret, str(launcher.state)], capture_output=True, text=True, check=False
        )
        assert found.stdout == ""
    assert secret not in launcher.up(spec, options=["--dry-run"]).out
    assert secret not in launcher.up(spec, options=["--dry-run", "--json"]).out


# -- read-only ---------------------------------------------------------------------------------


def without_mount_setattr() -> None:
    """Give this process and its children a kernel without mount_setattr(2), as before Linux 5.12."""
    load, equal, ret = 0x20, 0x15, 0x06  # BPF_LD|BPF_W|BPF_ABS, BPF_JMP|BPF_JEQ|BPF_K, BPF_RET|BPF_K
    refuse, allow = 0x00050000 | errno.ENOSYS, 0x7FFF0000
    program = [(load, 0, 0, 0), (equal, 0, 1, 442), (ret, 0, 0, refuse), (ret, 0, 0, allow)]
    if os.geteuid() != 0:
        process.set_no_new_privileges()
    _libc.set_seccomp_filter(b"".join(struct.pack("=HBBI", *instruction) for instruction in program))


@pytest.mark.parametrize("old", [False, True], ids=["mount_setattr", "remount"])
def test_read_only_volume_includes_the_mounts_of_the_host_below_it(launcher: Launcher, old: bool) -> None:
    # Bind the host's root, because some of its mounts have locked flags. Use a single id, because the filter sets
    # no_new_privs, under which newuidmap(1) does not work.
    spec = (
        HOST_ROOT
        + '[ids]\nmap = "single"\n'
        + volume("bind", "/host", source="/", read_only="x").replace('"x"', "true")
    )
    script = (
        "import os\n"
        "points = {line.split()[4] for line in open('/proc/self/mountinfo') if line.split()[4].startswith('/host')}\n"
        "print(len(points), *(point for point in points if not os.statvfs(point).f_flag & os.ST_RDONLY))\n"
        "for path in ('/host/dev/shm/x', '/host/tmp/x'):\n"
        "    try: open(path, 'w')\n"
        "    except OSError as error: print(error.errno)\n"
    )
    let_in(launcher.directory)  # one of the mounts hides the state directory
    done = subprocess.run(
        launcher.arguments(spec, ["/usr/bin/python3", "-c", script]),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=launcher.environ,
        preexec_fn=without_mount_setattr if old else None,
    )
    assert done.stdout, done.stderr
    first, *refused = done.stdout.splitlines()
    assert int(first) > 3, done.stderr  # no mount follows the number
    assert refused == [str(errno.EROFS)] * 2


def test_explain_reports_that_a_capability_to_mount_undoes_read_only(
    launcher: Launcher, shared: Path
) -> None:
    spec = HOST_ROOT + '[security]\ncapabilities = { add = ["SYS_ADMIN"] }\n'
    spec += volume("bind", "/v", source=str(shared), read_only="x").replace('"x"', "true")
    assert launcher.shell("mount -o remount,bind,rw /v && touch /v/new", spec).status == 0
    assert (shared / "new").exists()
    command = [sys.executable, "-m", "sandbox", "explain", launcher.write(spec)]
    told = subprocess.run(command, capture_output=True, text=True, check=False, env=launcher.environ).stdout
    assert "!! With SYS_ADMIN the program can" in told


# -- targets -------------------------------------------------------------------------------------


def test_targets_of_every_kind_leave_no_trace_in_the_writable_layer(launcher: Launcher, shared: Path) -> None:
    spec = KEPT + "".join(
        (
            volume("bind", "/new/a/bind", source=str(shared)),
            volume("bind", "/new/b/bound", source=str(shared / "file")),
            volume("tmpfs", "/new/c/tmpfs"),
            volume("named", "/new/d/named", source="data"),
            volume("file", "/new/e/file", content="text"),
            volume("file", "/new/c/tmpfs/deep/file", content="in a tmpfs"),
            '[[devices]]\npath = "/dev/fuse"\ntarget = "/dev/new/device"\n',
            '[security]\nmasked_paths = ["/usr/share", "/absent"]\nreadonly_paths = ["/opt", "/absent"]\n',
        )
    )
    script = (
        "cat /new/a/bind/file /new/b/bound /new/e/file /new/c/tmpfs/deep/file; ls /dev/new; ls /usr/share"
    )
    assert launcher.shell(script, spec).out == "of the host\nof the host\ntextin a tmpfsdevice\n"
    assert os.listdir(launcher.state / "sandboxes" / "kept" / "upper") == []
    assert os.listdir(shared) == ["file"]


def test_read_only_tmpfs_holds_other_volumes_and_nothing_else(launcher: Launcher, shared: Path) -> None:
    spec = HOST_ROOT + volume("tmpfs", "/home", read_only="x").replace('"x"', "true")
    spec += volume("bind", "/home/me/work", source=str(shared))
    done = launcher.shell("ls /home /home/me; echo x > /home/me/work/made; touch /home/x", spec)
    assert done.out.split() == ["/home:", "me", "/home/me:", "work"]
    assert "Read-only file system" in done.err
    assert (shared / "made").exists()


def test_target_is_found_through_the_links_of_layers_within_the_root(
    launcher: Launcher, shared: Path, layer: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o777)
    (layer / "way").symlink_to(f"../../../../../../..{outside}")
    (layer / "turn").symlink_to("/way/./further")
    (layer / "conf").symlink_to("etc/conf")
    spec = f'[root]\nlayers = ["dir:/", "dir:{layer}"]\n'
    spec += volume("bind", "/turn/in", source=str(shared)) + volume("file", "/conf", content="text")
    done = launcher.shell(f"cat {outside}/further/in/file /turn/in/file /etc/conf", spec)
    assert done.out == "of the host\nof the host\ntext", done.err
    assert os.listdir(outside) == []


def test_links_that_lead_in_a_circle_are_an_error(launcher: Launcher, shared: Path, layer: Path) -> None:
    (layer / "circle").symlink_to("circle")
    spec = f'[root]\nlayers = ["dir:/", "dir:{layer}"]\n' + volume("bind", "/circle/in", source=str(shared))
    done = launcher.up(spec, ["true"])
    assert done.status == 125
    assert "contains a symbolic link of a layer" in done.err


@pytest.mark.parametrize("name", ["proc", "sys", "dev"])
def test_layer_with_a_link_at_a_mount_point_of_the_sandbox_is_refused(
    launcher: Launcher, layer: Path, name: str
) -> None:
    (layer / name).symlink_to("usr")
    done = launcher.up(f'[root]\nlayers = ["dir:/", "dir:{layer}"]\n', ["true"])
    assert done.status == 125
    assert "remove that layer" in done.err


@pytest.mark.parametrize("way", ["/proc/sys", "/sys", "/dev"])
def test_link_of_a_layer_leads_no_volume_into_mounts_of_the_sandbox(
    launcher: Launcher, shared: Path, layer: Path, way: str
) -> None:
    (layer / "way").symlink_to(way)
    spec = f'[root]\nlayers = ["dir:/", "dir:{layer}"]\n' + volume("bind", "/way", source=str(shared))
    done = launcher.up(spec, ["true"])
    assert done.status == 125
    assert "leads into /proc, /sys or /dev" in done.err


@pytest.mark.parametrize("link", ["/etc", "../../../etc", "/proc/self/root/etc"])
@pytest.mark.parametrize("kind", ["bind", "named"])
def test_link_that_a_program_planted_in_a_volume_leads_out_of_it_nowhere(
    launcher: Launcher, shared: Path, link: str, kind: str
) -> None:
    source = str(shared) if kind == "bind" else "data"
    outer = HOST_ROOT + volume(kind, "/data", source=source)
    assert launcher.shell(f"ln -s {link} /data/sub", outer).status == 0
    done = launcher.up(outer + volume("file", "/data/sub/passwd", content="planted"), ["cat", "/etc/passwd"])
    assert (done.status, done.out) == (125, "")
    assert "a symbolic link in /data leads out of it" in done.err


def test_link_of_a_volume_that_stays_in_it_is_followed(launcher: Launcher, shared: Path) -> None:
    (shared / "real").mkdir()
    (shared / "real" / "conf").touch()
    (shared / "way").symlink_to("real")
    spec = HOST_ROOT + volume("bind", "/data", source=str(shared))
    spec += volume("file", "/data/way/conf", content="over it")
    assert launcher.shell("cat /data/real/conf", spec).out == "over it"
    assert (shared / "real" / "conf").read_text() == ""


def test_no_mount_point_is_made_in_a_directory_of_the_host(launcher: Launcher, shared: Path) -> None:
    spec = HOST_ROOT + volume("bind", "/data", source=str(shared)) + volume("tmpfs", "/data/cache")
    done = launcher.up(spec, ["true"])
    assert done.status == 125
    assert "create it in the source of /data first" in done.err
    assert os.listdir(shared) == ["file"]


@pytest.mark.usefixtures("layer")
def test_link_that_an_earlier_run_planted_in_the_writable_layer_stays_in_the_sandbox(
    launcher: Launcher, shared: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o777)
    script = (
        f"mkdir -p /srv/x && ln -s ../../../../../../..{outside} /srv/x/way && ln -s /proc/sys /srv/x/proc"
    )
    assert launcher.shell(script, KEPT).status == 0
    done = launcher.shell(
        "cat /srv/x/way/in/file", KEPT + volume("bind", "/srv/x/way/in", source=str(shared))
    )
    assert done.out == "of the host\n", done.err
    assert os.listdir(outside) == []
    done = launcher.up(KEPT + volume("bind", "/srv/x/proc/kernel", source=str(shared)), ["true"])
    assert done.status == 125
    assert "leads into /proc" in done.err


def test_volume_that_a_link_puts_over_another_is_an_error(
    launcher: Launcher, shared: Path, layer: Path
) -> None:
    (layer / "way").symlink_to("data")
    spec = f'[root]\nlayers = ["dir:/", "dir:{layer}"]\n'
    spec += volume("bind", "/data", source=str(shared), read_only="x").replace('"x"', "true") + volume(
        "tmpfs", "/way"
    )
    done = launcher.up(spec, ["true"])
    assert done.status == 125
    assert "/way covers it" in done.err


@pytest.mark.twice
def test_directory_of_the_host_that_is_exchanged_for_a_link_leads_no_volume_outside(
    launcher: Launcher, shared: Path
) -> None:
    (shared / "one" / "in").mkdir(parents=True)
    (shared / "two").symlink_to("/etc")
    spec = HOST_ROOT + volume("bind", "/data", source=str(shared)) + volume("tmpfs", "/data/one/in")
    script = (
        "grep -c ' /data/one/in \\| /data/two/in ' /proc/self/mountinfo; test -e /etc/passwd && echo whole"
    )
    one, two = str(shared / "one"), str(shared / "two")
    swapper = os.fork()
    if swapper == 0:
        try:
            while os.getppid() != 1:
                exchange(one, two)
        finally:
            os._exit(0)
    try:
        done = [launcher.shell(script, spec) for _ in range(8)]
    finally:
        os.kill(swapper, 9)
        os.waitpid(swapper, 0)
    for outcome in done:
        # Mounted within the volume, or refused, but never in /etc.
        assert outcome.status in (0, 125)
        assert outcome.out.split() in (["1", "whole"], [])
        if outcome.status:
            assert "/data/one/in" in outcome.err


def test_mount_point_that_a_program_moved_away_is_made_again_at_the_next_start(
    launcher: Launcher, shared: Path
) -> None:
    # While the program has the volume, it cannot move the directory: test_attacks.py.
    assert launcher.shell("touch /opt/mine && mv /opt /old", KEPT).status == 0
    spec = KEPT + volume("bind", "/opt/in", source=str(shared))
    done = launcher.shell(
        "cat /opt/in/file; ls -A /opt; test -e /old/mine && test ! -e /old/in && echo moved", spec
    )
    assert (done.out, done.err) == ("of the host\nin\nmoved\n", "")


@pytest.mark.parametrize("source", ["/tmp", "/"])
def test_volume_of_a_directory_that_the_launcher_uses_is_the_hosts_directory(
    launcher: Launcher, source: str
) -> None:
    with tempfile.TemporaryDirectory(prefix="sandbox-volume-", dir="/tmp") as directory:
        os.chmod(directory, 0o755)
        Path(directory, "file").write_text("of the host\n")
        spec = HOST_ROOT + volume("bind", "/v", source=source, read_only="x").replace('"x"', "true")
        path = f"/v{directory}" if source == "/" else f"/v/{os.path.basename(directory)}"
        script = f"cat {path}/file; grep -c ' fuse.*unionfs' /proc/self/mountinfo"
        assert launcher.shell(script, spec).out == "of the host\n1\n"


# -- propagation ---------------------------------------------------------------------------------


@pytest.mark.root
def test_later_mounts_of_the_host_appear_in_a_slave_and_nowhere_else(
    launcher: Launcher, tmp_path: Path
) -> None:
    # In a mount namespace of its own, where every mount can be shared without an effect on this machine.
    source = tmp_path / "media"
    (source / "disk").mkdir(parents=True)
    for directory in (source, source / "disk", tmp_path, tmp_path.parent, tmp_path.parent.parent):
        directory.chmod(directory.stat().st_mode | 0o055)
    spec = HOST_ROOT + volume("bind", "/slave", source=str(source), propagation="slave")
    spec += volume("bind", "/private", source=str(source))
    inside = "echo ready; while [ ! -e /slave/disk/new ]; do sleep 0.05; done; ls /slave/disk /private/disk"
    arguments = launcher.arguments(spec, ["sh", "-c", inside])
    host = (
        'media=$1; shift; mount --bind "$media" "$media" && mount --make-shared "$media" && mkfifo "$media.fifo" || exit 9\n'
        '"$@" > "$media.fifo" & exec 3< "$media.fifo"; read ready <&3\n'
        'mount -t tmpfs none "$media/disk" && touch "$media/disk/new"; cat <&3; wait $!; umount "$media/disk"'
    )
    command = ["unshare", "-m", "--propagation", "private", "sh", "-c", host, "sh", str(source), *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, env=launcher.environ
    )
    assert done.stdout.split() == ["/private/disk:", "/slave/disk:", "new"], done.stderr


def test_slave_of_a_private_mount_is_refused(launcher: Launcher, shared: Path) -> None:
    spec = HOST_ROOT + volume("bind", "/data", source=str(shared), propagation="slave")
    arguments = launcher.arguments(spec, ["true"])
    private = ["unshare", "--user", "--map-current-user", "--mount", "--propagation", "private"]
    if os.geteuid() == 0:
        private = ["unshare", "--mount", "--propagation", "private"]
    done = subprocess.run(
        [*private, *arguments], capture_output=True, text=True, timeout=60, check=False, env=launcher.environ
    )
    assert done.returncode == 125
    assert "volumes[0].propagation" in done.stderr
    assert "mount --make-shared" in done.stderr
