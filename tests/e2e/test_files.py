"""The file system of a sandbox: layers, the writable layer and volumes, seen from inside and on disk."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from tests.e2e.support import HOST_ROOT, PATIENCE, Launcher, first_line, let_in

pytestmark = [pytest.mark.fuse, pytest.mark.userns]


def test_host_is_untouched_whatever_the_program_does(launcher: Launcher, on_root: Path) -> None:
    victim = on_root / "victim"
    victim.mkdir()
    (victim / "kept").write_text("as it was\n")
    (victim / "gone").write_text("still here\n")
    let_in(victim)
    script = f"cd {victim} && echo changed > kept && rm gone && touch new && mkdir dir && cat kept && ls"
    assert launcher.shell(script).out.split() == ["changed", "dir", "kept", "new"]
    assert sorted(os.listdir(victim)) == ["gone", "kept"]
    assert (victim / "kept").read_text() == "as it was\n"


def test_the_writable_layer_is_bounded_by_its_size(launcher: Launcher) -> None:
    spec = '[root]\nlayers = ["dir:/"]\nsize = "1M"\ninodes = 20\n'
    script = (
        "dd if=/dev/zero of=/etc/f bs=64k count=100 2>&1 | grep -o 'No space'; stat -c %s /etc/f; rm /etc/f; "
        "i=0; while mkdir /etc/d$i 2>/dev/null; do i=$((i+1)); done; echo $i; stat -f -c %c /"
    )
    said = launcher.shell(script, spec).out.split()
    assert said[:2] == ["No", "space"]
    assert 900_000 < int(said[2]) <= 1 << 20
    assert 15 <= int(said[3]) <= 20
    assert said[4] == "20"


def test_the_servers_filter_allows_every_call_that_file_operations_need(launcher: Launcher) -> None:
    program = """
import os, subprocess
def run(*command): subprocess.run(command, check=True)
os.chdir("/etc")
run("fallocate", "--length", "100000", "f")
run("fallocate", "--punch-hole", "--offset", "0", "--length", "8192", "f")
file, source = os.open("f", os.O_RDWR), os.open("passwd", os.O_RDONLY)
assert os.copy_file_range(source, file, 100, 0, 65536) == 100
assert os.lseek(file, 0, os.SEEK_DATA) > 0
unnamed, here = os.open(".", os.O_TMPFILE | os.O_RDWR, 0o640), os.open(".", os.O_RDONLY)
os.write(unnamed, b"unnamed")
os.link(f"/proc/self/fd/{unnamed}", "named", dst_dir_fd=here, follow_symlinks=True)
print(open("named").read(), oct(os.stat("named").st_mode))
"""
    done = launcher.shell(f"python3 -c '{program}'")
    assert done.out.split() == ["unnamed", "0o100640"], done


def test_ephemeral_layer_is_gone_after_the_sandbox(launcher: Launcher) -> None:
    assert launcher.shell("echo x > /etc/left-behind").status == 0
    assert launcher.shell("test -e /etc/left-behind").status == 1
    assert launcher.runs() == []
    assert os.listdir(launcher.state / "sandboxes") == []


def test_persistent_layer_is_used_by_the_next_start_of_the_same_file(launcher: Launcher) -> None:
    spec = '[root]\nlayers = ["dir:/"]\nwritable = "persistent"\n'
    assert launcher.shell("echo kept > /etc/kept; rm /etc/passwd", spec).status == 0
    done = launcher.shell("cat /etc/kept; test -e /etc/passwd || echo deleted", spec)
    assert done.out.split() == ["kept", "deleted"]


@pytest.mark.whiteouts
def test_writable_layer_has_exactly_the_changes(launcher: Launcher) -> None:
    spec = '[sandbox]\nname = "exact"\n[root]\nlayers = ["dir:/"]\nwritable = "persistent"\n'
    assert (
        launcher.shell(
            "echo new > /etc/new; rm /etc/passwd; mkdir /made; cat /etc/group > /dev/null", spec
        ).status
        == 0
    )
    upper = launcher.state / "sandboxes" / "exact" / "upper"
    if os.geteuid() != 0 and not os.access(upper / "etc", os.R_OK):
        pytest.fail("the owner cannot look into the writable layer")
    found = sorted(str(path.relative_to(upper)) for path in upper.rglob("*"))
    assert found == ["etc", "etc/new", "etc/passwd", "made"]
    whiteout = (upper / "etc" / "passwd").lstat()
    assert stat.S_ISCHR(whiteout.st_mode)
    assert whiteout.st_rdev == 0


def test_second_start_of_a_running_persistent_sandbox_is_refused(launcher: Launcher) -> None:
    spec = '[sandbox]\nname = "single"\n[root]\nlayers = ["dir:/"]\nwritable = "persistent"\n'
    with launcher.start(spec, ["sh", "-c", "echo ready; exec sleep 1000"]) as first:
        assert first_line(first) == "ready"
        second = launcher.up(spec, ["true"])
        assert second.status == 125
        assert f"sandbox single is running (pid {first.pid})" in second.err
        first.terminate()
        first.wait(PATIENCE)
    assert launcher.up(spec, ["true"]).status == 0


def test_writable_none_is_a_read_only_root(launcher: Launcher) -> None:
    done = launcher.shell("echo x > /etc/x", '[root]\nlayers = ["dir:/"]\nwritable = "none"\n')
    assert done.status != 0
    assert "Read-only file system" in done.err


def test_layers_stack_bottom_first(launcher: Launcher, tmp_path: Path) -> None:
    for name, files in (("low", {"a": "low", "b": "low"}), ("high", {"b": "high", "c": "high"})):
        top = tmp_path / name / "data"
        top.mkdir(parents=True)
        for file, text in files.items():
            (top / file).write_text(text + "\n")
        os.chmod(tmp_path / name, 0o755)
    for directory in tmp_path, tmp_path.parent, tmp_path.parent.parent:
        directory.chmod(directory.stat().st_mode | 0o055)
    spec = '[root]\nlayers = ["dir:/", "dir:low", "dir:high"]\n'
    assert launcher.shell("cat /data/a /data/b /data/c", spec).out.split() == ["low", "high", "high"]


def bind(source: Path, target: str, *, read_only: bool = False) -> str:
    text = f'[[volumes]]\ntype = "bind"\nsource = "{source}"\ntarget = "{target}"\n'
    return text + ("read_only = true\n" if read_only else "")


def test_bind_volume_bypasses_the_writable_layer(launcher: Launcher, shared: Path) -> None:
    spec = HOST_ROOT + bind(shared, "/volume/deep/down")
    assert (
        launcher.shell("cat /volume/deep/down/file; echo made > /volume/deep/down/made", spec).out
        == "of the host\n"
    )
    assert (shared / "made").read_text() == "made\n"


def test_read_only_volume_cannot_be_written_nor_remounted(launcher: Launcher, shared: Path) -> None:
    spec = HOST_ROOT + bind(shared, "/volume", read_only=True)
    done = launcher.shell("echo x > /volume/file; mount -o remount,rw /volume; echo x > /volume/file", spec)
    assert done.err.count("Read-only file system") == 2
    assert (shared / "file").read_text() == "of the host\n"


def test_file_can_be_a_volume(launcher: Launcher, shared: Path) -> None:
    spec = HOST_ROOT + bind(shared / "file", "/etc/from-the-host", read_only=True)
    assert launcher.shell("cat /etc/from-the-host", spec).out == "of the host\n"


def test_source_may_be_a_symbolic_link(launcher: Launcher, shared: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("shared")
    assert launcher.shell("cat /v/file", HOST_ROOT + bind(tmp_path / "link", "/v")).out == "of the host\n"


def test_tmpfs_volume_has_its_size_and_mode_and_is_gone_afterwards(launcher: Launcher) -> None:
    spec = HOST_ROOT + '[[volumes]]\ntype = "tmpfs"\ntarget = "/scratch"\nsize = "1M"\nmode = "0750"\n'
    script = "stat -c %a /scratch; dd if=/dev/zero of=/scratch/x bs=64k count=99 2>/dev/null; stat -c %s /scratch/x"
    assert launcher.shell(script, spec).out.split() == ["750", str(1 << 20)]


def test_volume_in_a_tmpfs_volume_is_mounted_after_it_whatever_their_order(
    launcher: Launcher, shared: Path
) -> None:
    spec = HOST_ROOT + bind(shared, "/scratch/in/side") + '[[volumes]]\ntype = "tmpfs"\ntarget = "/scratch"\n'
    assert launcher.shell("cat /scratch/in/side/file", spec).out == "of the host\n"


def test_mount_points_leave_no_trace_in_the_writable_layer(launcher: Launcher, shared: Path) -> None:
    spec = '[sandbox]\nname = "clean"\n[root]\nlayers = ["dir:/"]\nwritable = "persistent"\n' + bind(
        shared, "/a/b/c"
    )
    assert launcher.up(spec, ["test", "-e", "/a/b/c/file"]).status == 0
    assert os.listdir(launcher.state / "sandboxes" / "clean" / "upper") == []


def test_missing_volume_source_is_an_error_at_its_place(launcher: Launcher, tmp_path: Path) -> None:
    done = launcher.up(HOST_ROOT + bind(tmp_path / "absent", "/v"), ["true"])
    assert done.status == 125
    assert "test.toml:5:10: volumes[0].source: " in done.err
    assert "no such file or directory" in done.err
