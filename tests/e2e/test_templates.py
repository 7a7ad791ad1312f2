"""Every template of `sandbox init` starts, and does what its comments promise."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.e2e.support import PATIENCE, Launcher, Outcome

pytestmark = [pytest.mark.fuse, pytest.mark.userns]


def init(launcher: Launcher, template: str) -> str:
    """Write a template and return the path of the file."""
    launcher.directory.chmod(
        0o755
    )  # root's sandbox reads this volume with the permissions of an ordinary user
    file = launcher.directory / f"{template}.toml"
    subprocess.run(
        [sys.executable, "-m", "sandbox", "init", "--template", template, str(file)],
        check=True,
        timeout=PATIENCE,
        capture_output=True,
    )
    return str(file)


def shell(launcher: Launcher, template: str, script: str) -> Outcome:
    """Run a shell script in the sandbox of a template."""
    return launcher.up(init(launcher, template), ["sh", "-c", script])


def test_minimal_prints_hello(launcher: Launcher) -> None:
    assert launcher.up(init(launcher, "minimal")) == Outcome(0, "hello from the sandbox\n", "")


def test_shell_discards_its_changes(launcher: Launcher) -> None:
    done = launcher.up(init(launcher, "shell"), stdin="hostname; touch /usr/y /tmp/z && pwd; exit 7\n")
    assert (done.status, done.out.split()) == (7, ["try", "/"])
    assert not os.path.exists("/usr/y")


def test_build_reads_the_sources_and_writes_the_results_to_memory(launcher: Launcher) -> None:
    file = init(launcher, "build")
    done = launcher.up(file)
    assert (done.status, done.err) == (0, "")
    assert done.out.splitlines()[0] == "building in /build from /src"
    assert "build.toml" in done.out.splitlines()
    script = (
        "touch /src/x 2>/dev/null || echo kept; touch x && echo $TZ $SOURCE_DATE_EPOCH $(umask); ulimit -c"
    )
    done = launcher.up(file, ["sh", "-c", script])
    assert done.out.splitlines() == ["kept", "UTC 0 0022", "0"]


def test_service_replies_changes_nothing_and_ends_on_its_stop_signal(launcher: Launcher) -> None:
    file = init(launcher, "service")
    anywhere = 'process.args=["--bind", "127.0.0.1", "0"]'
    subprocess.run([sys.executable, "-m", "sandbox", "set", file, anywhere], check=True, timeout=PATIENCE)
    with launcher.start(file) as supervisor:
        assert supervisor.stdout is not None
        port = re.search(r"port (\d+)", supervisor.stdout.readline())
        assert port is not None
        with urllib.request.urlopen(f"http://127.0.0.1:{port[1]}/service.toml", timeout=PATIENCE) as reply:
            assert reply.read() == Path(file).read_bytes()
        supervisor.terminate()
        assert supervisor.stdout.read() == "\nKeyboard interrupt received, exiting.\n"
        assert supervisor.wait(PATIENCE) == 0
    done = launcher.up(file, ["sh", "-c", "touch /usr/y 2>/dev/null || echo kept; ulimit -n"])
    assert done.out.split() == ["kept", "4096"]
    debug = launcher.up(file, options=["--profile", "debug"], stdin="echo debugging; pwd\n")
    assert debug.out.splitlines() == ["debugging", "/srv"]


def test_untrusted_sees_no_home_and_no_network_and_has_no_capability(launcher: Launcher) -> None:
    script = (
        "ls -A /home /root; ls /sys/class/net; grep CapEff /proc/self/status; pwd; ulimit -n; "
        "ulimit -c; ulimit -t; touch x && echo written"
    )
    done = shell(launcher, "untrusted", script)
    assert done.status == 0, done
    assert done.out.split() == [
        *("/home:", "/root:", "lo", "CapEff:", "0000000000000000", "/work", "128", "0", "60", "written")
    ]


@pytest.mark.rootfs
def test_debian_runs_debian_and_keeps_its_changes(launcher: Launcher, debian_rootfs: str) -> None:
    file = init(launcher, "debian")
    environ = {"DEBIAN_TAR": os.path.abspath(debian_rootfs)}
    first = launcher.up(
        file, ["sh", "-c", ". /etc/os-release; echo $ID; echo kept > /root/note"], environ=environ
    )
    assert (first.status, first.out) == (0, "debian\n"), first
    again = launcher.up(file, ["sh", "-c", "cat note; hostname; stat -c %a /tmp"], environ=environ)
    assert again.out.split() == ["kept", "debian", "1777"], again


def test_every_template_is_run_by_a_test() -> None:
    from sandbox.editing.template_files import templates

    text = Path(__file__).read_text(encoding="utf-8")
    assert [name for name in templates() if f'"{name}"' not in text] == []
