"""The program of a sandbox sees its own /proc, /dev, /sys and network, and nothing of the host."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.support import HOST_ROOT, PATIENCE, Launcher, alive, children, first_line, let_in, wait_for

pytestmark = [pytest.mark.fuse, pytest.mark.userns]


def test_proc_shows_the_sandboxs_processes_only(launcher: Launcher) -> None:
    facts = launcher.probe()
    assert facts["processes"] == ["1", str(facts["pid"])]


def test_process_one_reveals_nothing_of_the_host(launcher: Launcher) -> None:
    done = launcher.shell("tr '\\0' ' ' < /proc/1/cmdline; cat /proc/1/comm")
    assert done.out.split() == ["sandbox-init", "sandbox-init"]


def test_dev_has_the_harmless_devices_and_no_others(launcher: Launcher) -> None:
    assert set(launcher.probe()["dev"]) == {
        "core", "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty", "urandom", "zero",
    }  # fmt: skip


def test_zero_urandom_null_full_shm_and_stdout_work(launcher: Launcher) -> None:
    script = (
        "head -c 4 /dev/zero | od -An -tx1; head -c 9 /dev/urandom | wc -c; echo x > /dev/null;"
        " echo x > /dev/full || echo full; echo y > /dev/shm/y && cat /dev/shm/y; echo via > /dev/stdout"
    )
    assert launcher.shell(script).out.split() == ["00", "00", "00", "00", "9", "full", "y", "via"]


def test_no_device_of_the_host_is_there_but_those_and_none_can_be_opened_elsewhere(
    launcher: Launcher,
) -> None:
    script = (
        "import os, stat\n"
        "found = set()\n"
        "for top, _, names in os.walk('/dev'):\n"
        "    for name in names:\n"
        "        info = os.lstat(os.path.join(top, name))\n"
        "        if stat.S_ISCHR(info.st_mode) or stat.S_ISBLK(info.st_mode):\n"
        "            found.add(f'{os.major(info.st_rdev)}:{os.minor(info.st_rdev)}')\n"
        "print(*sorted(found), *(mount.split()[5] for mount in open('/proc/self/mountinfo') if ' / / ' in mount))\n"
    )
    done = launcher.up(command=["/usr/bin/python3", "-c", script])
    *numbers, options = done.out.split()
    assert numbers == ["1:3", "1:5", "1:7", "1:8", "1:9", "5:0", "5:2"], done.err
    assert "nodev" in options


def test_device_that_the_file_names_is_the_hosts_with_its_permissions(launcher: Launcher) -> None:
    spec = (
        HOST_ROOT
        + '[[devices]]\npath = "/dev/fuse"\n[[devices]]\npath = "/dev/fuse"\ntarget = "/dev/sub/fuse"\n'
    )
    script = (
        "import os\n"
        "for path in ('/dev/fuse', '/dev/sub/fuse'):\n"
        "    info = os.fstat(os.open(path, os.O_RDWR))\n"
        "    print(os.major(info.st_rdev), os.minor(info.st_rdev))\n"
        "print(open('/dev/sub/fuse').name)\n"
    )
    assert launcher.up(spec, ["/usr/bin/python3", "-c", script]).out.split() == ["10", "229"] * 2 + [
        "/dev/sub/fuse"
    ]


def test_directory_of_devices_shows_each_device_in_it(launcher: Launcher) -> None:
    # The pseudo-terminals of this machine; open one, because there may be none.
    spec = HOST_ROOT + '[[devices]]\npath = "/dev/pts"\ntarget = "/dev/host-pts"\n'
    outer, inner = os.openpty()
    try:
        name = os.path.basename(os.ttyname(inner))
        done = launcher.shell(f"test -c /dev/host-pts/{name} && ls /dev/pts", spec)
    finally:
        os.close(outer)
        os.close(inner)
    assert (done.status, done.out) == (0, "ptmx\n"), done.err


def test_explain_reports_how_each_device_may_be_opened(launcher: Launcher) -> None:
    candidates = ("/dev/fuse", "/dev/kvm", "/dev/net/tun", "/dev/hwrng", "/dev/loop0", "/dev/loop-control")
    paths = [path for path in candidates if os.path.exists(path)]
    spec = launcher.write(HOST_ROOT + "".join(f'[[devices]]\npath = "{path}"\n' for path in paths))
    command = [sys.executable, "-m", "sandbox", "explain", "--json", spec]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=launcher.environ)
    facts = json.loads(done.stdout)["mounts"]
    told = {fact["label"]: fact["value"]["access"] for fact in facts if fact["value"].get("type") == "device"}
    script = (
        "import os, sys\n"
        "for path in sys.argv[1:]:\n"
        "    may = ''\n"
        "    for letter, flag in (('r', os.O_RDONLY), ('w', os.O_WRONLY)):\n"
        "        try: os.close(os.open(path, flag | os.O_NONBLOCK))\n"
        "        except PermissionError: continue\n"
        "        except OSError: pass\n"  # the driver's own reasons
        "        may += letter\n"
        "    print(path, may)\n"
    )
    inside = launcher.up(spec, ["/usr/bin/python3", "-c", script, *paths])
    found = {path: may for path, _, may in (line.partition(" ") for line in inside.out.splitlines())}
    assert found == told, (inside.err, done.stderr)
    assert told["/dev/fuse"] == "rw"


def test_paths_that_the_file_masks_are_empty_and_others_read_only(launcher: Launcher) -> None:
    spec = HOST_ROOT + (
        '[security]\nmasked_paths = ["/etc/pass*", "/usr/share", "/absent/file"]\n'
        'readonly_paths = ["/usr/lib", "/etc/group", "/nothing"]\n'
    )
    script = (
        "cat /etc/passwd; ls -A /usr/share; touch /usr/share/x /usr/lib/x /etc/group; touch /etc/new && echo new;"
        " umount /etc/passwd || echo stays; test -x /usr/lib && test -s /etc/group && echo there"
    )
    done = launcher.shell(script, spec)
    assert done.out.split() == ["new", "stays", "there"]
    assert done.err.count("Read-only file system") == 3


def test_cgroups_of_the_host_are_out_of_sight_whatever_the_network(launcher: Launcher) -> None:
    for spec in (HOST_ROOT, HOST_ROOT + '[network]\nmode = "host"\n'):
        done = launcher.shell("cut -d: -f3 /proc/self/cgroup | sort -u; ls -A /sys/fs/cgroup", spec)
        assert done.out == "/\n", done.err


def test_sys_is_read_only_and_shows_the_sandboxs_network(launcher: Launcher) -> None:
    done = launcher.shell("touch /sys/x 2>&1; ls /sys/class/net")
    assert "Read-only file system" in done.out
    assert done.out.split()[-1] == "lo"


def test_kernel_settings_cannot_be_written(launcher: Launcher) -> None:
    script = "echo x > /proc/sys/kernel/hostname; cat /proc/keys; ls -A /proc/acpi /sys/firmware"
    done = launcher.shell(script)
    assert "/proc/sys/kernel/hostname: Read-only file system" in done.err
    assert [line for line in done.out.split("\n") if line and not line.endswith(":")] == []


def test_no_mount_of_the_host_is_left(launcher: Launcher) -> None:
    mounts = launcher.probe()["mounts"]
    targets = [mount[4] for mount in mounts]
    assert targets.count("/") == 1
    allowed = ("/proc", "/sys", "/dev", "/etc/hosts")
    assert [target for target in targets if target != "/" and not target.startswith(allowed)] == []
    types = {mount[mount.index("-") + 1] for mount in mounts}
    assert types <= {"fuse", "proc", "sysfs", "tmpfs", "devtmpfs", "devpts", "mqueue", "bind"}


def test_root_is_nosuid_and_nodev(launcher: Launcher) -> None:
    root = next(mount for mount in launcher.probe()["mounts"] if mount[4] == "/")
    assert {"nosuid", "nodev"} <= set(root[5].split(","))


def test_loopback_is_up_and_the_hosts_ports_are_out_of_reach(launcher: Launcher) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        script = (
            "import socket\n"
            "own = socket.create_server(('127.0.0.1', 0))\n"
            "socket.create_connection(own.getsockname(), timeout=5)\n"
            "print('own reached')\n"
            f"try: socket.create_connection(('127.0.0.1', {port}), timeout=5)\n"
            "except ConnectionRefusedError: print('host refused')\n"
        )
        done = launcher.up(command=["/usr/bin/python3", "-c", script])
    assert done.out.split("\n")[:2] == ["own reached", "host refused"], done.err


def test_hostname_is_set_inside_and_the_hosts_is_unchanged(launcher: Launcher) -> None:
    before = os.uname().nodename
    assert launcher.probe(HOST_ROOT + '[sandbox]\nhostname = "inside"\n')["hostname"] == "inside"
    assert os.uname().nodename == before


def test_process_one_cannot_be_inspected_killed_or_traced(launcher: Launcher) -> None:
    script = (
        "kill -9 1; ls /proc/1/fd || echo no-fd; ls /proc/1/root/ || echo no-root; cat /proc/1/environ || echo no-environ;"
        " head -c 1 /proc/1/mem || echo no-mem; echo alive"
    )
    assert launcher.shell(script).out.split() == ["no-fd", "no-root", "no-environ", "no-mem", "alive"]


@pytest.mark.root
def test_sandbox_starts_on_a_machine_without_cgroups(launcher: Launcher) -> None:
    """Process 1 imports nothing, so it must not need a module that only the code for cgroups had loaded."""
    arguments = launcher.arguments(HOST_ROOT, ["echo", "fine"])
    without = ["unshare", "--mount", "sh", "-c", 'umount -R -l /sys/fs/cgroup; exec "$@"', "sh"]
    done = subprocess.run(
        [*without, *arguments],
        env=launcher.environ,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "fine\n"), done.stderr


def test_making_devices_and_mounting_are_refused(launcher: Launcher) -> None:
    script = (
        "mknod /x b 8 0 || echo no-mknod; mount -t tmpfs none /mnt || echo no-mount;"
        " unshare --mount true || echo no-unshare; chroot / true && echo chroot"
    )
    assert launcher.shell(script).out.split() == ["no-mknod", "no-mount", "no-unshare", "chroot"]


def test_only_the_server_holds_the_fuse_connection(launcher: Launcher) -> None:
    def is_fuse_device(path: str) -> bool:
        try:
            return os.stat(path).st_rdev == os.makedev(10, 229)
        except (FileNotFoundError, PermissionError):
            return False  # closed meanwhile, or a file of the sandbox, which this process may not see

    def holders(pids: list[int]) -> dict[int, int]:
        return {
            pid: sum(is_fuse_device(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd"))
            for pid in pids
        }

    with launcher.start(command=["sh", "-c", "echo ready; exec sleep 1000"]) as supervisor:
        assert first_line(supervisor) == "ready"
        family = children(supervisor.pid)
        server = next(pid for pid, line in family.items() if "--serve-fd" in line)
        init = next(pid for pid in family if pid != server)
        program = next(iter(children(init)))
        readable = [supervisor.pid, *([server, init, program] if os.geteuid() == 0 else [])]
        held = holders(readable)
        if os.geteuid() == 0:
            assert held == {supervisor.pid: 0, server: 1, init: 0, program: 0}
        else:  # the other processes are not dumpable, so this process may not read their descriptors
            assert held == {supervisor.pid: 0}
        supervisor.terminate()
        supervisor.wait(PATIENCE)
        wait_for(lambda: not alive(server), "the server to end")


def test_the_server_is_under_a_filter_of_its_own_and_has_few_capabilities(launcher: Launcher) -> None:
    with launcher.start(command=["sh", "-c", "echo ready; exec sleep 1000"]) as supervisor:
        assert first_line(supervisor) == "ready"
        server = next(pid for pid, line in children(supervisor.pid).items() if "--serve-fd" in line)
        lines = Path(f"/proc/{server}/status").read_text().splitlines()
        status = {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
        supervisor.terminate()
        supervisor.wait(PATIENCE)
        wait_for(lambda: not alive(server), "the server to end")
    assert (status["Seccomp"], status["Seccomp_filters"], status["NoNewPrivs"]) == ("2", "1", "1")
    kept = {
        "chown": 0,
        "dac_override": 1,
        "dac_read_search": 2,
        "fowner": 3,
        "fsetid": 4,
        "mknod": 27,
        "setfcap": 31,
    }
    assert int(status["CapEff"], 16) == sum(1 << bit for bit in kept.values())


def test_hosts_mounts_in_a_directory_layer_appear_empty(launcher: Launcher) -> None:
    # /proc, /sys and /dev are covered by mounts. A layer below another path shows the directories under them.
    spec = '[root]\nlayers = [{ dir = "/" }]\n'
    done = launcher.shell("umount /sys 2>/dev/null; ls /dev/pts | sort | tr '\\n' ' '", spec)
    assert done.out.split() in (["ptmx"], ["0", "ptmx"])


def test_state_directory_appears_empty(on_root: Path) -> None:
    launcher = Launcher(on_root)
    let_in(on_root)
    done = launcher.shell(f"ls -A {launcher.state} | wc -l")
    assert (done.out.strip(), done.err) == ("0", "")


def test_files_that_the_user_may_not_read_cannot_be_read_inside(launcher: Launcher, on_root: Path) -> None:
    if os.geteuid() == 0:
        secret = on_root / "secret"
        secret.write_text("for real root only\n")
        secret.chmod(0o600)
        path = str(secret)
        let_in(on_root)
    else:
        path = "/etc/shadow"
    done = launcher.up(command=["cat", path])
    assert (done.status, done.out) == (1, "")
    assert "Permission denied" in done.err


@pytest.mark.skipif(os.geteuid() == 0, reason="root's Python may lie where the sandbox's root cannot read")
def test_error_of_a_sandbox_in_a_sandbox_names_what_is_missing(on_root: Path) -> None:
    launcher = Launcher(on_root)
    inner = launcher.arguments(HOST_ROOT, ["true"])
    spec = (
        HOST_ROOT
        + '[process]\ninherit_env = ["PYTHONPATH"]\n'
        + '[process.env]\nSANDBOX_STATE_DIR = "/inner"\nSANDBOX_RUN_DIR = "/inner-run"\n'
    )
    done = launcher.up(launcher.write(spec, "outer.toml"), inner)
    assert done.status == 125
    assert done.err.startswith("sandbox: /dev/fuse is missing")
