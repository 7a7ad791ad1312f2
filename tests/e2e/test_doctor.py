"""`sandbox doctor` as a user runs it: its verdicts agree with `sandbox up`, and it leaves nothing behind."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.support import HOST_ROOT, PATIENCE, Launcher, Outcome

pytestmark = [pytest.mark.fuse, pytest.mark.userns]

#: Runs the command that follows as root of a user namespace with a mount namespace of its own.
IN_NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount", "--propagation", "private")


def shell(script: str) -> tuple[str, ...]:
    """Return a prefix that runs *script* in such a namespace, and then the command that follows."""
    return (*IN_NAMESPACE, "sh", "-c", f'{script} && exec "$@"', "sh")


def doctor(
    launcher: Launcher,
    *arguments: str,
    prefix: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
    stdin: str = "",
) -> Outcome:
    done = subprocess.run(
        [*prefix, sys.executable, "-m", "sandbox", "doctor", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        env={**launcher.environ, **(environ or {})},
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def checks_of(outcome: Outcome) -> dict[str, dict[str, Any]]:
    """Return the checks of a --json run by their id."""
    return {check["id"]: check for check in json.loads(outcome.out)["checks"]}


def agreed(
    launcher: Launcher,
    prefix: Sequence[str] = (),
    *,
    spec: str = HOST_ROOT,
    environ: Mapping[str, str] | None = None,
    name_file: bool = True,
) -> dict[str, dict[str, Any]]:
    """Run doctor and up in the same environment; their verdicts must agree. Return the checks by id."""
    file = [launcher.write(spec)] if name_file else []
    said = doctor(launcher, "--json", *file, prefix=prefix, environ=environ)
    assert said.status in (0, 1), said
    done = subprocess.run(
        [*prefix, *launcher.arguments(spec, ["true"])],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        env={**launcher.environ, **(environ or {})},
    )
    assert (said.status == 0) == (done.returncode == 0), (said.out, done.stderr)
    assert json.loads(said.out)["would_work"] == (said.status == 0)
    return checks_of(said)


def levels(checks: Mapping[str, Mapping[str, Any]], level: str) -> list[str]:
    return [name for name, check in checks.items() if check["level"] == level]


def test_doctor_predicts_that_up_works_where_it_does(launcher: Launcher) -> None:
    assert levels(agreed(launcher), "failure") == []
    assert levels(agreed(launcher, name_file=False), "failure") == []


def test_the_text_is_aligned_without_colour_and_ends_with_a_summary(launcher: Launcher) -> None:
    done = doctor(launcher)
    lines = done.out.splitlines()
    assert (done.status, done.err) == (0, "")
    assert "\x1b" not in done.out
    checks = checks_of(doctor(launcher, "--json"))
    assert list(checks)[:3] == ["kernel", "server", "userns"]
    column = lines[0].index("Linux ")
    assert {line[column - 2 : column] for line in lines[:-2]} == {"  "}
    assert lines[-2] == ""
    assert lines[-1].startswith("`sandbox up` would work here: ")


def test_a_terminal_sees_colour(launcher: Launcher) -> None:
    outer, inner = pty.openpty()
    try:
        environ = {**launcher.environ, "TERM": "xterm"}
        environ.pop("NO_COLOR", None)
        done = subprocess.run(
            [sys.executable, "-m", "sandbox", "doctor"],
            stdin=inner,
            stdout=inner,
            stderr=subprocess.PIPE,
            timeout=PATIENCE,
            check=False,
            env=environ,
        )
        text = os.read(outer, 65536).decode()
    finally:
        os.close(outer)
        os.close(inner)
    assert done.returncode == 0
    assert text.startswith("\x1b[32mok\x1b[0m ")
    assert "a terminal can be opened in a sandbox; standard input and output are a terminal" in text


def test_json_has_every_field_of_every_check(launcher: Launcher) -> None:
    answer = json.loads(doctor(launcher, "--json").out)
    assert list(answer) == ["would_work", "summary", "checks"]
    assert {tuple(check) for check in answer["checks"]} == {
        ("id", "level", "summary", "cost", "remedy", "facts", "explained_by")
    }
    assert {check["level"] for check in answer["checks"]} <= {"ok", "note", "warning", "failure"}


def test_doctor_leaves_nothing_in_the_state_directory(launcher: Launcher) -> None:
    launcher.state.mkdir(mode=0o700)
    assert doctor(launcher).status in (0, 1)
    assert os.listdir(launcher.state) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.twice
def test_interrupted_doctor_leaves_nothing(launcher: Launcher, number: signal.Signals) -> None:
    launcher.state.mkdir(mode=0o700)
    interrupted = 0
    for step in range(12):
        process = subprocess.Popen(
            [sys.executable, "-m", "sandbox", "doctor"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=launcher.environ,
            process_group=0,
        )
        end = time.monotonic() + PATIENCE
        # From then on, doctor has something to leave behind.
        while not os.listdir(launcher.state) and process.poll() is None and time.monotonic() < end:
            time.sleep(0.0005)
        time.sleep(step * 0.004)
        if process.poll() is None:
            os.killpg(process.pid, number)
        interrupted += process.wait(PATIENCE) == 128 + number
        # A child without a waiting parent may take a moment longer.
        end = time.monotonic() + PATIENCE
        while os.listdir(launcher.state) and time.monotonic() < end:
            time.sleep(0.01)
        assert os.listdir(launcher.state) == []
    assert interrupted > 3


def test_doctor_makes_no_state_directory(launcher: Launcher) -> None:
    before = sorted(os.listdir(launcher.directory))
    said = doctor(launcher)
    assert f"state directory {launcher.state}, which the first sandbox creates" in said.out
    assert sorted(os.listdir(launcher.directory)) == before


def test_without_user_namespaces_the_sysctl_is_named(launcher: Launcher) -> None:
    checks = agreed(launcher, shell("echo 0 > /proc/sys/user/max_user_namespaces"))
    assert levels(checks, "failure") == ["userns"]
    assert checks["userns"]["summary"] == "user namespaces cannot be used: user namespaces are disabled"
    assert checks["userns"]["cost"] == "no sandbox starts"
    assert "as root, sysctl user.max_user_namespaces=15000" in checks["userns"]["remedy"]


@pytest.mark.parametrize("kind", ["net", "uts", "cgroup", "ipc", "pid", "mnt"])
@pytest.mark.twice
def test_a_missing_kind_of_namespace_is_named_with_its_sysctl(launcher: Launcher, kind: str) -> None:
    checks = agreed(launcher, shell(f"echo 0 > /proc/sys/user/max_{kind}_namespaces"))
    ours = {"mnt": "mount"}.get(kind, kind)
    found = checks["namespaces"] if kind != "mnt" else checks["userns"]
    assert found["level"] == "failure"
    if kind != "mnt":
        assert found["summary"] == f"{ours} namespaces cannot be created: unshare: No space left on device"
        assert f"as root, sysctl user.max_{kind}_namespaces=15000" in found["remedy"]


@pytest.mark.parametrize("kind", ["uts", "cgroup"])
def test_a_file_that_leaves_a_kind_to_the_host_works_without_it(launcher: Launcher, kind: str) -> None:
    spec = HOST_ROOT + f'[namespaces]\n{kind} = "host"\n'
    checks = agreed(launcher, shell(f"echo 0 > /proc/sys/user/max_{kind}_namespaces"), spec=spec)
    assert levels(checks, "failure") == []
    assert checks["namespaces"]["level"] == "warning"
    assert checks["namespaces"]["cost"] == f'a sandbox starts only with namespaces.{kind} = "host"'


#: Mounts over /dev that keep only the devices that a sandbox shows.
_BARE_DEV = (
    "mount -t tmpfs none /mnt && for node in null zero full random urandom tty; do"
    " touch /mnt/$node && mount --bind /dev/$node /mnt/$node; done"
)


def test_a_missing_fuse_device_is_reported_with_a_remedy(launcher: Launcher) -> None:
    checks = agreed(launcher, shell(f"{_BARE_DEV} && mount --rbind /mnt /dev"))
    assert levels(checks, "failure") == ["fuse", "file"]
    assert checks["fuse"]["summary"] == "/dev/fuse is missing"
    assert checks["fuse"]["cost"] == "no sandbox starts: the root file system is served through FUSE"
    assert checks["file"]["summary"].endswith(
        "cannot be planned: /dev/fuse is missing: the root file system is served through it"
    )


def test_a_file_in_place_of_the_device_of_fuse_is_no_device(launcher: Launcher, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    checks = agreed(launcher, shell(f"mount --bind {tmp_path}/empty /dev/fuse"))
    assert checks["fuse"]["summary"] == "/dev/fuse is missing"


def test_another_device_in_place_of_the_device_of_fuse_cannot_be_mounted(launcher: Launcher) -> None:
    checks = agreed(launcher, shell("mount --bind /dev/null /dev/fuse"))
    assert levels(checks, "failure") == ["fuse"]
    assert checks["fuse"]["summary"] == "FUSE cannot be mounted: mount: Invalid argument"
    assert checks["fuse"]["remedy"] == "as root: rm /dev/fuse && mknod -m 666 /dev/fuse c 10 229"


def test_a_device_that_is_missing_from_dev_is_named(launcher: Launcher, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    checks = agreed(launcher, shell(f"mount --bind {tmp_path}/empty /dev/full"))
    assert levels(checks, "failure") == ["dev"]
    assert checks["dev"]["summary"] == "/dev cannot be created: /dev/full: not the character device 1:7"
    assert checks["dev"]["remedy"] == "as root: rm -f /dev/full && mknod -m 666 /dev/full c 1 7"


def test_masked_paths_of_proc_are_too_revealing(launcher: Launcher) -> None:
    checks = agreed(launcher, shell("mount -t tmpfs none /proc/irq"))
    assert levels(checks, "failure") == ["proc"]
    assert checks["proc"]["summary"].startswith(
        "/proc cannot be mounted: mount proc: fsmount: Operation not permitted"
    )
    assert "systempaths=unconfined (docker)" in checks["proc"]["remedy"]


def test_masked_paths_of_sys_fail_all_but_the_hosts_network(launcher: Launcher) -> None:
    mask = shell("mount -t tmpfs none /sys/kernel")
    checks = agreed(launcher, mask)
    assert levels(checks, "failure") == ["sysfs"]
    assert checks["sysfs"]["cost"] == 'a sandbox starts only with namespaces.net = "host"'
    checks = agreed(launcher, mask, spec=HOST_ROOT + '[network]\nmode = "host"\n')
    assert levels(checks, "failure") == []
    assert checks["sysfs"]["level"] == "warning"


@pytest.mark.root
def test_in_a_chroot_no_user_namespace_can_be_made(launcher: Launcher, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    script = f'mount --rbind / {root} && exec chroot {root} "$@"'
    prefix = ("unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh")
    checks = agreed(launcher, prefix)
    assert levels(checks, "failure") == ["userns"]
    assert checks["userns"]["summary"].endswith("possibly because it runs in a chroot")


@pytest.mark.newuidmap
@pytest.mark.skipif(os.geteuid() == 0, reason="root needs no newuidmap")
def test_a_newuidmap_without_privilege_leaves_a_single_id(launcher: Launcher) -> None:
    checks = agreed(launcher, ("setpriv", "--no-new-privs"))
    assert levels(checks, "failure") == []
    assert checks["ids"]["level"] == "warning"
    assert "gains no privileges: this process has no_new_privs set" in checks["ids"]["summary"]
    spec = HOST_ROOT + "[process]\nuser = 33\n"
    assert levels(agreed(launcher, ("setpriv", "--no-new-privs"), spec=spec), "failure") == ["file"]


def test_root_of_a_namespace_of_one_id_is_reported(launcher: Launcher) -> None:
    checks = agreed(launcher, IN_NAMESPACE)
    assert checks["ids"]["level"] == "warning"
    assert checks["ids"]["remedy"].startswith("start the outer container with more than one id")


def state_on(launcher: Launcher, mount: str) -> tuple[str, ...]:
    """Return a prefix under which the state directory is a file system of its own."""
    launcher.state.mkdir(mode=0o700)
    return shell(f"mount {mount},mode=700 none {launcher.state}")


def both_on(launcher: Launcher, mount: str) -> tuple[str, ...]:
    """Return a prefix under which the state and the run directory are each a file system of its own."""
    for path in (launcher.state, launcher.run):
        path.mkdir(mode=0o700)
    return shell("; ".join(f"mount {mount},mode=700 none {path}" for path in (launcher.state, launcher.run)))


def renaming(launcher: Launcher, prefix: tuple[str, ...]) -> str:
    """Return the outcome of a program that renames a directory of a layer, under *prefix*."""
    rename = "import os, errno\ntry: os.rename('/usr/share/doc', '/usr/share/renamed')\nexcept OSError as e: print(errno.errorcode[e.errno])\n"
    done = subprocess.run(
        [*prefix, *launcher.arguments(HOST_ROOT, ["/usr/bin/python3", "-c", rename])],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        env=launcher.environ,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def run_directory_on(launcher: Launcher, mount: str) -> tuple[str, ...]:
    """Return a prefix under which the run directory is a file system of its own."""
    launcher.run.mkdir(mode=0o700)
    return shell(f"mount {mount},mode=700 none {launcher.run}")


def test_a_run_directory_without_attributes_has_no_writable_layers(launcher: Launcher) -> None:
    prefix = run_directory_on(launcher, "-t ramfs -o rw")
    checks = agreed(launcher, prefix)
    assert levels(checks, "failure") == []
    assert checks["run"]["level"] == "note"
    assert checks["run"]["summary"] == (
        f"run directory {launcher.run} is on ramfs, which does not support user extended attributes"
    )
    assert renaming(launcher, prefix) == ""


def test_a_read_only_run_directory_has_the_effects_that_are_reported(launcher: Launcher) -> None:
    checks = agreed(launcher, run_directory_on(launcher, "-t tmpfs -o ro"))
    assert levels(checks, "failure") == []
    assert checks["run"]["level"] == "warning"
    assert checks["run"]["summary"].startswith(f"run directory {launcher.run} cannot be written: ")


def test_a_full_run_directory_is_a_failure(launcher: Launcher) -> None:
    launcher.run.mkdir(mode=0o700)
    fill = f"mount -t tmpfs -o size=16k,mode=700 none {launcher.run} && (head -c 1M /dev/zero > {launcher.run}/x 2>/dev/null || true)"
    checks = agreed(launcher, shell(fill))
    assert levels(checks, "failure") == ["run"]
    assert checks["run"]["summary"] == (
        f"nothing can be written to the run directory {launcher.run}: No space left on device"
    )


def test_a_state_directory_without_exec_does_not_matter(launcher: Launcher) -> None:
    checks = agreed(launcher, state_on(launcher, "-t tmpfs -o noexec"))
    assert levels(checks, "failure") == []
    assert "noexec" in checks["state.filesystem"]["facts"]["options"]
    assert checks["state.filesystem"]["summary"] == "the state directory is in memory (tmpfs)"


def test_a_program_of_the_writable_layer_runs_though_its_file_system_is_noexec(launcher: Launcher) -> None:
    prefix = both_on(launcher, "-t tmpfs -o noexec")
    command = ["sh", "-c", "cp /bin/true /opt/program && /opt/program"]
    done = subprocess.run(
        [*prefix, *launcher.arguments(HOST_ROOT, command)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        env=launcher.environ,
    )
    assert done.returncode == 0, done.stderr


def test_a_state_directory_without_attributes_has_the_effects_that_are_reported(launcher: Launcher) -> None:
    prefix = both_on(launcher, "-t ramfs -o rw")
    checks = agreed(launcher, prefix)
    assert levels(checks, "failure") == []
    found = checks["state.attributes"]
    assert found["summary"] == "ramfs does not support user extended attributes: Operation not supported"
    assert found["cost"] == "directories of layers cannot be renamed (EXDEV: programs copy them instead)"
    assert checks["state.deletions"]["level"] == "note"
    assert checks["state.space"]["summary"] == "ramfs is limited only by memory"
    assert renaming(launcher, prefix) == "EXDEV"


def test_a_read_only_state_directory_is_a_failure(launcher: Launcher) -> None:
    checks = agreed(launcher, state_on(launcher, "-t tmpfs -o ro"))
    assert levels(checks, "failure") == ["state"]
    assert checks["state"]["summary"] == (
        f"state directory {launcher.state} cannot be written: {launcher.state}: Read-only file system"
    )
    assert checks["state"]["remedy"] == "set SANDBOX_STATE_DIR to a directory that you can write"


def test_a_full_state_directory_is_a_failure(launcher: Launcher) -> None:
    launcher.state.mkdir(mode=0o700)
    fill = f"mount -t tmpfs -o size=16k,mode=700 none {launcher.state} && (head -c 1M /dev/zero > {launcher.state}/x 2>/dev/null || true)"
    checks = agreed(launcher, shell(fill))
    assert levels(checks, "failure") == ["state"]
    assert checks["state"]["summary"] == (
        f"nothing can be written to the state directory {launcher.state}: No space left on device"
    )


def test_a_state_directory_that_others_may_write_is_a_failure(launcher: Launcher) -> None:
    launcher.state.mkdir()
    launcher.state.chmod(0o777)
    checks = agreed(launcher)
    assert levels(checks, "failure") == ["state"]
    assert checks["state"]["summary"] == f"state directory {launcher.state} can be written by other users"


@pytest.mark.skipif(os.geteuid() == 0, reason="root keeps its state in /var/lib")
def test_without_a_home_directory_there_is_no_place_for_state(launcher: Launcher) -> None:
    environ = {"SANDBOX_STATE_DIR": "", "XDG_STATE_HOME": "relative"}
    checks = agreed(launcher, environ=environ)
    assert levels(checks, "failure") == ["state"]
    assert checks["state"]["summary"] == "there is no home directory for the state directory"


def test_the_servers_modules_are_checked_by_importing_them(launcher: Launcher, tmp_path: Path) -> None:
    (tmp_path / "pyfuse3.py").write_text(
        "raise ImportError('libfuse3.so.4: cannot open shared object file')\n"
    )
    checks = agreed(launcher, environ={"PYTHONPATH": str(tmp_path)})
    assert levels(checks, "failure") == []
    assert checks["server"]["level"] == "warning"
    checks = agreed(launcher, spec=HOST_ROOT + 'server = "pyfuse3"\n', environ={"PYTHONPATH": str(tmp_path)})
    assert levels(checks, "failure") == ["server"]
    assert checks["server"]["summary"] == (
        "the pyfuse3 server cannot be started: ImportError: libfuse3.so.4: cannot open shared object file"
    )
    assert "libfuse" in checks["server"]["remedy"] or "fuse3" in checks["server"]["remedy"]


def test_limits_that_cannot_be_enforced_here_are_refused_by_both(launcher: Launcher) -> None:
    spec = HOST_ROOT + "[limits]\npids = 50\n"
    checks = agreed(launcher, spec=spec)
    if levels(checks, "failure"):
        assert "file" in levels(checks, "failure")
        assert "limits.pids: cannot be enforced here: " in doctor(launcher, launcher.write(spec)).out
        allowed = agreed(launcher, spec=spec + 'optional = ["pids"]\n')
        assert (levels(allowed, "failure"), allowed["file"]["level"]) == ([], "warning")
    else:
        assert checks["cgroups.pids"]["summary"] == "limits.pids can be enforced"


def test_mistakes_of_a_file_are_shown_with_their_places(launcher: Launcher) -> None:
    path = launcher.write('[root]\nlayers = ["dir:/absent"]\n')
    done = doctor(launcher, path)
    assert (done.status, done.err) == (1, "")
    assert f"{path} is refused: 1 mistake" in done.out
    assert f"{path}:2:11: root.layers[0]: /absent: no such file or directory\n" in done.out
    assert done.out.splitlines()[-1].startswith(f"`sandbox up {path}` would not work here: 1 failure")
    diagnostics = checks_of(doctor(launcher, "--json", path))["file"]["facts"]["diagnostics"]
    assert [(one["line"], one["column"], one["key"]) for one in diagnostics] == [(2, 11, "root.layers[0]")]


def test_a_file_that_does_not_exist_would_not_work(launcher: Launcher) -> None:
    path = str(launcher.directory / "absent.toml")
    done = doctor(launcher, path)
    assert done.status == 1
    assert f"{path}: no such file" in done.out


def test_overrides_count_and_the_file_may_come_from_standard_input(launcher: Launcher) -> None:
    path = launcher.write('[root]\nlayers = ["dir:/absent"]\n')
    assert doctor(launcher, path, "--set", 'root.layers=["dir:/"]').status == 0
    assert doctor(launcher, "-", stdin=HOST_ROOT).status == 0


def test_an_override_without_a_file_is_an_error_of_the_command_line(launcher: Launcher) -> None:
    done = doctor(launcher, "--set", "limits.pids=5")
    assert (done.status, done.out) == (125, "")
    assert (
        done.err
        == "sandbox: --profile, --set, -v, -e, -w and -p change an environment file\n      hint: name the file\n"
    )


def test_leftovers_of_a_killed_sandbox_are_reported_and_not_removed(launcher: Launcher) -> None:
    with launcher.start(HOST_ROOT, ["sleep", "1000"]) as supervisor:
        end = time.monotonic() + PATIENCE
        while not launcher.runs() and time.monotonic() < end:
            time.sleep(0.02)
        running = doctor(launcher)
        assert "there are no leftovers of ended sandboxes; 1 sandbox runs" in running.out
        supervisor.kill()
        supervisor.wait()
    left = launcher.runs()
    assert len(left) == 1
    found = checks_of(doctor(launcher, "--json"))["leftovers"]
    assert found["level"] == "note"
    assert found["summary"] == "leftovers: 1 ended sandbox"
    assert found["remedy"] == "the next `sandbox up` removes them"
    assert found["facts"]["dead"] == left == launcher.runs()
    assert launcher.up(command=["true"]).status == 0
    assert "there are no leftovers of ended sandboxes" in doctor(launcher).out
