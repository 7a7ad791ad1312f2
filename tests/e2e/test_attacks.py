"""Attacks of a hostile program, and of another user of the host, on a sandbox and its launcher."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import subprocess
import termios
from pathlib import Path

import pytest

from tests.e2e.support import HOST_ROOT, PATIENCE, Launcher, alive, children, first_line, let_in
from tests.e2e.test_ending import READY, Family
from tests.e2e.test_terminal import person_at
from tests.support.requirements import has_subordinate_ids

pytestmark = [pytest.mark.fuse, pytest.mark.userns]

ATTACK = (Path(__file__).parent / "attack.txt").read_text()
#: Filters, and the attempts that succeed under each. Without a filter the other barriers still hold. In a user namespace
#: of its own, a program gets no access to anything outside of it.
FILTERS = pytest.mark.parametrize(
    ("seccomp", "allowed"),
    [("default", set()), ("unconfined", {"unshare user"})],
    ids=["default", "unconfined"],
)


def _has_ids() -> bool:
    return os.geteuid() == 0 or has_subordinate_ids()


whole_map = pytest.mark.skipif(not _has_ids(), reason="this account has a single id")


def done(output: str) -> set[str]:
    found: dict[str, str] = json.loads(output)
    assert len(found) > 25
    return {name for name, outcome in found.items() if outcome == "done"}


# -- a hostile program --------------------------------------------------------------------------------


@FILTERS
def test_program_reaches_nothing_of_process_one_the_server_or_the_kernel(
    launcher: Launcher, seccomp: str, allowed: set[str]
) -> None:
    spec = HOST_ROOT + f'[security]\nseccomp = "{seccomp}"\n'
    assert done(launcher.up(spec, ["/usr/bin/python3", "-c", ATTACK]).facts_text()) <= allowed


@whole_map
@FILTERS
def test_program_of_another_user_reaches_nothing_either(
    launcher: Launcher, seccomp: str, allowed: set[str]
) -> None:
    spec = HOST_ROOT + f'[process]\nuser = 33\n[security]\nseccomp = "{seccomp}"\n'
    assert done(launcher.up(spec, ["/usr/bin/python3", "-c", ATTACK]).facts_text()) <= allowed


def test_program_with_every_capability_reaches_nothing_of_process_one_or_the_host(launcher: Launcher) -> None:
    """The capabilities apply to the sandbox's own namespaces, where the program may mount and set the host name."""
    spec = HOST_ROOT + '[security]\ncapabilities.add = ["all"]\n'
    found = done(launcher.up(spec, ["/usr/bin/python3", "-c", ATTACK]).facts_text())
    outside = {name for name in found if "1" in name or "key" in name or "fuse" in name or "terminal" in name}
    assert outside - {"/proc/1/oom_score_adj"} == set()
    assert not found & {"sysctl", "sysrq", "kcore", "clock", "module", "priority"}


def test_signal_to_all_ends_the_program_and_nothing_else(launcher: Launcher) -> None:
    script = f"import sys; sys.argv.append('kill')\n{ATTACK}"
    outcome = launcher.up(command=["/usr/bin/python3", "-c", script + "\nraise SystemExit(3)"])
    assert outcome.status == 3
    assert outcome.err == ""
    assert launcher.runs() == []


def test_program_cannot_type_into_the_terminal_that_it_was_given_as_input(launcher: Launcher) -> None:
    with person_at(
        launcher, ["/usr/bin/python3", "-c", ATTACK], HOST_ROOT + "[process]\nterminal = false\n"
    ) as person:
        found = json.loads(person.read_until("\r\n"))
        for name in (
            "type into standard input",
            "take over standard input's terminal",
            "group of standard input's terminal",
        ):
            assert found[name] in ("EPERM", "EIO", "ENOTTY"), name
        assert person.status() == 0
        assert fcntl.ioctl(person.inner, termios.FIONREAD, b"\0" * 4) == b"\0" * 4


def test_program_with_a_terminal_of_its_own_types_into_that_only(launcher: Launcher) -> None:
    script = (
        "import fcntl, termios\n"
        "for letter in b'rm -rf /\\n':\n"
        "    try: fcntl.ioctl(0, termios.TIOCSTI, bytes([letter]))\n"
        "    except OSError: pass\n"
        "print('over')\n"
    )
    with person_at(launcher, ["/usr/bin/python3", "-c", script]) as person:
        person.read_until("over")
        assert person.status() == 0
        assert fcntl.ioctl(person.inner, termios.FIONREAD, b"\0" * 4) == b"\0" * 4


@pytest.mark.parametrize(
    "setting",
    [
        '[security]\nmasked_paths = ["/opt/kept/ab*/place"]\n',
        '[security]\nreadonly_paths = ["/opt/kept/above/place"]\n',
        '[[volumes]]\ntype = "tmpfs"\ntarget = "/opt/kept/above/place"\n',
    ],
    ids=["masked", "read-only", "volume"],
)
def test_program_cannot_have_the_kernel_drop_what_is_mounted_below_a_directory(
    launcher: Launcher, tmp_path: Path, setting: str
) -> None:
    """If the client dies during rmdir or rename, the kernel invalidates the dentry and unmounts everything below it.

    So the request must be refused before the server receives it: with EBUSY, not ENOTEMPTY.
    """
    (tmp_path / "layer/opt/kept/above/place").mkdir(parents=True)
    spec = f'[root]\nlayers = ["dir:/", "dir:{tmp_path}/layer"]\n{setting}'
    script = (
        "import errno, os\n"
        "for path in ('/opt/kept/above', '/opt/kept', '/opt'):\n"
        "    for action in (os.rmdir, lambda path: os.rename(path, path + '-moved')):\n"
        "        try: action(path)\n"
        "        except OSError as error: print(errno.errorcode[error.errno])\n"
    )
    assert launcher.up(spec, ["/usr/bin/python3", "-c", script]).out.split() == ["EBUSY"] * 6


@pytest.mark.parametrize("kind", ["readonly_paths", "masked_paths"])
def test_directory_of_a_volume_cannot_be_exchanged_for_one_in_which_nothing_is_covered(
    launcher: Launcher, shared: Path, kind: str
) -> None:
    hooks = shared / "project/.git/hooks"
    hooks.mkdir(parents=True)
    for directory in (hooks, hooks.parent, hooks.parent.parent):
        directory.chmod(0o777)
    spec = (
        f'{HOST_ROOT}[[volumes]]\ntype = "bind"\nsource = "{shared}"\ntarget = "/src"\n'
        f'[security]\n{kind} = ["/src/project/.git/hooks"]\n'
    )
    script = (
        "cd /src; for path in project/.git project; do mv $path $path-old; done; mkdir -p project/.git/hooks; echo x > project/.git/hooks/new;"
        " echo y > project/.git/config && mv project/.git/config project/.git/other && cat project/.git/other"
    )
    assert launcher.shell(script, spec).out == "y\n"
    assert list(hooks.iterdir()) == []


def test_mount_in_a_read_only_tmpfs_volume_leaves_no_part_of_it_writable(launcher: Launcher) -> None:
    spec = (
        f'{HOST_ROOT}[[volumes]]\ntype = "tmpfs"\ntarget = "/memory"\nread_only = true\n'
        '[[volumes]]\ntype = "tmpfs"\ntarget = "/memory/a/b/c"\n'
    )
    script = "for name in . a a/b a/b/c; do echo x > /memory/$name/new && echo $name; done"
    assert launcher.shell(script, spec).out == "a/b/c\n"


def test_directory_above_a_mount_cannot_be_renamed_so_that_the_next_start_masks_nothing(
    launcher: Launcher, tmp_path: Path
) -> None:
    (tmp_path / "layer/opt/kept/above").mkdir(parents=True)
    (tmp_path / "layer/opt/kept/above/secret").write_text("of the layer")
    spec = (
        f'[root]\nlayers = ["dir:/", "dir:{tmp_path}/layer"]\nwritable = "persistent"\n'
        '[security]\nmasked_paths = ["/opt/kept/above/secret"]\n'
    )
    script = "import os\nfor old in ('/opt/kept/above', '/opt/kept', '/opt'):\n try: os.rename(old, old + '-moved')\n except OSError as error: print(error.errno)\n"
    assert launcher.up(spec, ["/usr/bin/python3", "-c", script]).out.split() == [str(errno.EBUSY)] * 3
    assert launcher.shell("cat /opt*/kept*/above*/secret", spec).out == ""


# -- another user of the host -------------------------------------------------------------------------

_STRANGER = """
import ctypes, errno, json, os, signal, sys
libc = ctypes.CDLL(None, use_errno=True)
state, pids = sys.argv[1], [int(pid) for pid in sys.argv[2:]]
def read(path):
    with open(path, "rb") as file: file.read(1)
def ptrace(pid):
    if libc.ptrace(ctypes.c_long(16), ctypes.c_long(pid), None, None) < 0: raise OSError(ctypes.get_errno(), "")
def join(path):
    if libc.setns(os.open(path, os.O_RDONLY), 0) < 0: raise OSError(ctypes.get_errno(), "")
attempts = {"state": lambda: os.listdir(state), "lock": lambda: open(state + "/lock", "r+"),
    "write state": lambda: open(state + "/run/x", "w")}
for pid in pids:
    for name in ("environ", "mem", "maps"):
        attempts[f"{pid} {name}"] = lambda pid=pid, name=name: read(f"/proc/{pid}/{name}")
    for name in ("fd", "root/", "cwd/", "map_files"):
        attempts[f"{pid} {name}"] = lambda pid=pid, name=name: os.listdir(f"/proc/{pid}/{name}")
    for name in ("user", "mnt", "net", "pid_for_children"):
        attempts[f"{pid} join {name}"] = lambda pid=pid, name=name: join(f"/proc/{pid}/ns/{name}")
    attempts[f"{pid} ptrace"] = lambda pid=pid: ptrace(pid)
    attempts[f"{pid} signal"] = lambda pid=pid: os.kill(pid, signal.SIGUSR1)
found = {}
for name, attempt in attempts.items():
    try: attempt()
    except OSError as error: found[name] = errno.errorcode.get(error.errno, str(error))
    else: found[name] = "done"
print(json.dumps(found))
"""


@pytest.mark.root
@pytest.mark.parametrize("stranger", [65534, 1878982656 + 4_000_000], ids=["nobody", "unused"])
def test_second_user_of_the_host_reads_and_changes_nothing(launcher: Launcher, stranger: int) -> None:
    let_in(launcher.directory)  # the state directory alone must refuse access
    with launcher.start(command=READY) as supervisor:
        assert first_line(supervisor) == "ready"
        family = Family(supervisor.pid)
        pids = list(map(str, family.all()))
        outcome = subprocess.run(
            [
                "setpriv",
                f"--reuid={stranger}",
                f"--regid={stranger}",
                "--clear-groups",
                "/usr/bin/python3",
                "-c",
                _STRANGER,
                str(launcher.state),
                *pids,
            ],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done(outcome.stdout) == set(), outcome.stderr
        assert all(map(alive, family.all()))


def test_files_of_the_state_directory_are_closed_to_others(launcher: Launcher) -> None:
    with launcher.start(command=READY) as supervisor:
        assert first_line(supervisor) == "ready"
        for path in (launcher.state, *(launcher.state / "run").iterdir()):
            assert path.stat().st_mode & 0o077 == 0, path
        supervisor.terminate()
        supervisor.wait(PATIENCE)


def test_server_and_process_one_cannot_be_inspected_by_their_own_user(launcher: Launcher) -> None:
    """An attacker with the ids of this user gets no descriptor of the layers from these processes."""
    if os.geteuid() == 0:
        pytest.skip("root may look at everything")
    with launcher.start(command=READY) as supervisor:
        assert first_line(supervisor) == "ready"
        family = Family(supervisor.pid)
        for pid in (family.server, family.init):
            for name in ("fd", "root/", "map_files"):
                with pytest.raises(PermissionError):
                    os.listdir(f"/proc/{pid}/{name}")
            with pytest.raises(PermissionError):
                open(f"/proc/{pid}/mem", "rb").close()
        supervisor.terminate()
        supervisor.wait(PATIENCE)


@pytest.mark.parametrize("writable", ["ephemeral", "persistent"])
def test_one_socket_of_a_sandbox_at_most_has_a_name_and_no_sandbox_sees_it(
    launcher: Launcher, writable: str
) -> None:
    with launcher.start(HOST_ROOT + f'writable = "{writable}"\n', READY) as supervisor:
        assert first_line(supervisor) == "ready"
        inodes = set()
        for fd in os.listdir(f"/proc/{supervisor.pid}/fd"):
            link = os.readlink(f"/proc/{supervisor.pid}/fd/{fd}")
            if match := re.fullmatch(r"socket:\[(\d+)\]", link):
                inodes.add(match[1])
        assert inodes
        with open("/proc/net/unix") as table:
            lines = [line.split() for line in table]
        named = [fields for fields in lines if len(fields) > 7 and fields[6] in inodes]
        paths = {fields[7] for fields in named}
        assert all(
            re.fullmatch(r"/proc/self/fd/\d+/control", path) for path in paths
        )  # bound by a short path
        assert len(paths) == (writable == "persistent")
        (run,) = (launcher.run / "run").iterdir()
        found = [at for at in run.iterdir() if at.is_socket()]
        assert found == [run / "control"] * len(paths)
        assert all(at.stat().st_mode & 0o777 == 0o600 for at in found)
        assert run.stat().st_mode & 0o777 == 0o700
        let_in(launcher.directory)
        # Where /tmp is a mount of its own, the sandbox has no such path.
        shown = launcher.shell(f"ls -A {launcher.run}", HOST_ROOT)
        assert (shown.status in (0, 2), shown.out) == (True, "")
        supervisor.terminate()
        supervisor.wait(PATIENCE)


# -- many sandboxes ---------------------------------------------------------------------------------------------


def _at_once(launcher: Launcher, count: int) -> None:
    path = launcher.write(HOST_ROOT, "many.toml")
    started = [
        subprocess.Popen(
            launcher.arguments(path, ["sh", "-c", f"echo {number} > /n; sleep 1; exit $(($(cat /n) % 100))"]),
            env=launcher.environ,
        )
        for number in range(count)
    ]
    assert [process.wait(PATIENCE + 4 * count) for process in started] == [
        number % 100 for number in range(count)
    ]
    assert launcher.runs() == []


def _in_a_row(launcher: Launcher, count: int) -> None:
    before = _resources()
    for number in range(count):
        assert launcher.shell(f"exit {number % 7}").status == number % 7
    assert launcher.runs() == []
    assert list(launcher.state.glob("images/archives/*")) == []
    assert _resources() == before


def _resources() -> tuple[int, list[str]]:
    with open("/proc/self/mountinfo") as file:
        mounts = len(file.readlines())
    return mounts, sorted(line for pid in children(os.getpid()) for line in [str(pid)])


@pytest.mark.twice
def test_ten_sandboxes_in_a_row_leave_no_trace(launcher: Launcher) -> None:
    _in_a_row(launcher, 10)


@pytest.mark.long
def test_a_thousand_in_a_row_leave_no_trace(launcher: Launcher) -> None:
    _in_a_row(launcher, 1000)


@pytest.mark.long
def test_two_hundred_sandboxes_at_once_leave_no_trace(launcher: Launcher) -> None:
    _at_once(launcher, 200)
