"""Private, host and joined namespaces in every combination, and the processes that end with them."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.support import HOST_ROOT, PATIENCE, Launcher, alive, children, first_line, wait_for

pytestmark = [pytest.mark.fuse, pytest.mark.userns]

FILES = {
    "user": "user",
    "pid": "pid",
    "net": "net",
    "ipc": "ipc",
    "uts": "uts",
    "cgroup": "cgroup",
    "time": "time",
}
ANCHOR = '[sandbox]\nname = "anchor"\n[root]\nlayers = ["dir:/"]\n[namespaces]\ntime = { boottime = "1d" }\n'
JOINED = "sandbox:anchor"
OFFSETS = '{ monotonic = "2h" }'
#: The settings of each kind, as TOML.
VALUES = {
    "user": ('"private"', f'"{JOINED}"'),
    "pid": ('"private"', '"host"', f'"{JOINED}"'),
    **dict.fromkeys(("net", "ipc", "uts", "cgroup"), ('"private"', '"host"', f'"{JOINED}"')),
    "time": ('"private"', '"host"', f'"{JOINED}"', OFFSETS),
}
#: Prints its namespaces, and some of the objects that it sees in them.
LOOK = (
    "import json, os, time\n"
    "print(json.dumps({'ns': {name: os.readlink('/proc/self/ns/' + name) for name in os.listdir('/proc/self/ns')},"
    " 'uptime': time.clock_gettime(time.CLOCK_BOOTTIME), 'monotonic': time.monotonic(), 'hostname': os.uname().nodename,"
    " 'name': open('/proc/self/comm').read().strip(), 'pid': os.getpid(), 'see': os.path.exists(f'/proc/{os.getpid()}'),"
    " 'interfaces': os.listdir('/sys/class/net')}), flush=True)\n"
)
LOOKING = ["/usr/bin/python3", "-c", LOOK]

Row = dict[str, str]


def valid(row: Row) -> bool:
    """Return whether the language accepts these settings together. Its errors are in tests/unit/sandbox/spec/bad."""
    if row["pid"] == f'"{JOINED}"':
        return row["user"] == row["pid"]
    return not (row["pid"] == '"host"' and row["user"] != '"private"')


def rows() -> list[Row]:
    """Return few rows that together have every valid pair of settings."""
    everything = [dict(zip(VALUES, values, strict=True)) for values in itertools.product(*VALUES.values())]
    candidates = [row for row in everything if valid(row)]

    def pairs(row: Row) -> set[tuple[tuple[str, str], tuple[str, str]]]:
        return set(itertools.combinations(row.items(), 2))

    missing = set().union(*map(pairs, candidates))
    chosen = []
    while missing:
        best = max(candidates, key=lambda row: len(pairs(row) & missing))
        chosen.append(best)
        missing -= pairs(best)
    return chosen


@contextmanager
def anchor(launcher: Launcher, spec: str = ANCHOR) -> Iterator[tuple[subprocess.Popen[str], dict[str, str]]]:
    """Keep a sandbox running; yield its supervisor and its namespaces."""
    path = launcher.write(spec, "anchor.toml")
    script = LOOK + "import signal; signal.pause()\n"
    with launcher.start(path, ["/usr/bin/python3", "-c", script]) as supervisor:
        line = first_line(supervisor)
        assert line, supervisor.stderr and supervisor.stderr.read()
        yield supervisor, json.loads(line)["ns"]
        supervisor.kill()
        wait_for(lambda: not alive(supervisor.pid), "the anchor to end")


@pytest.mark.parametrize("part", range(4))
def test_every_valid_pair_of_settings_works(launcher: Launcher, part: int) -> None:
    own = {kind: os.readlink(f"/proc/self/ns/{file}") for kind, file in FILES.items()}
    wrong = []
    with anchor(launcher) as (_, others):
        for row in rows()[part::4]:
            text = "".join(f"{kind} = {value}\n" for kind, value in row.items())
            done = launcher.up(f"{HOST_ROOT}[namespaces]\n{text}", LOOKING)
            if done.status != 0:
                wrong.append((row, done.err))
                continue
            seen = json.loads(done.out)
            for kind, file in FILES.items():
                inside = seen["ns"][file]
                expected = {"host": {own[kind]}, JOINED: {others[file]}}.get(row[kind].strip('"'))
                right = inside in expected if expected else inside not in (own[kind], others[file])
                if not right:
                    wrong.append((row, f"{kind}: {inside}"))
            if not (seen["see"] and seen["name"].startswith("python")):
                wrong.append((row, "its /proc is not that of its processes"))
            if row["net"] == '"private"' and seen["interfaces"] != ["lo"]:
                wrong.append((row, f"sees {seen['interfaces']}"))
    assert wrong == []
    assert launcher.runs() == [run for run in launcher.runs() if run.startswith("anchor-")]


def test_clocks_are_ahead_by_the_offset_of_the_file(launcher: Launcher) -> None:
    import time

    spec = HOST_ROOT + '[namespaces]\ntime = { monotonic = "1d", boottime = "1h" }\n'
    before = time.clock_gettime(time.CLOCK_BOOTTIME), time.monotonic()
    done = launcher.up(spec, LOOKING)
    seen = json.loads(done.out)
    after = time.clock_gettime(time.CLOCK_BOOTTIME), time.monotonic()
    assert before[0] + 3600 <= seen["uptime"] <= after[0] + 3600
    assert before[1] + 86400 <= seen["monotonic"] <= after[1] + 86400
    untouched = json.loads(launcher.up(HOST_ROOT + '[namespaces]\ntime = "private"\n', LOOKING).out)
    assert untouched["ns"]["time"] != os.readlink("/proc/self/ns/time")
    assert untouched["uptime"] < after[0] + 3600


def test_joined_network_reaches_its_listeners_and_shows_no_device_of_the_host(
    launcher: Launcher,
) -> None:
    serve = (
        "import socket\nserver = socket.create_server(('127.0.0.1', 4321)); print('ready', flush=True)\n"
        "while True: server.accept()[0].sendall(b'from the anchor')\n"
    )
    path = launcher.write(ANCHOR, "anchor.toml")
    with launcher.start(path, ["/usr/bin/python3", "-c", serve]) as supervisor:
        assert first_line(supervisor) == "ready"
        ask = (
            "import os, socket\n"
            "print(socket.create_connection(('127.0.0.1', 4321), timeout=10).recv(99).decode(), os.listdir('/sys/class/net'))"
        )
        spec = HOST_ROOT + f'[namespaces]\nnet = "{JOINED}"\n'
        done = launcher.up(spec, ["/usr/bin/python3", "-c", ask])
        assert done.out == "from the anchor []\n", done.err
        # The sandbox's own user namespace has no capabilities over the other's network namespace.
        down = launcher.shell(
            "ip link set lo down 2>&1 || echo refused",
            spec + '[security.capabilities]\nadd = ["NET_ADMIN"]\n',
        )
        assert "refused" in down.out
        supervisor.kill()
        supervisor.wait(PATIENCE)


def test_a_namespace_is_joined_by_the_path_of_a_process(launcher: Launcher) -> None:
    with anchor(launcher) as (supervisor, others):
        init = next(pid for pid, line in children(supervisor.pid).items() if "--serve-fd" not in line)
        program = next(iter(children(init)))
        for kinds in (("net",), ("uts", "ipc", "time"), ("user", "pid", "cgroup")):
            text = "".join(f'{kind} = "path:/proc/{program}/ns/{kind}"\n' for kind in kinds)
            done = launcher.up(f"{HOST_ROOT}[namespaces]\n{text}", LOOKING)
            assert done.status == 0, done.err
            seen = json.loads(done.out)["ns"]
            assert {kind: seen[kind] for kind in kinds} == {kind: others[kind] for kind in kinds}


@pytest.mark.root
def test_a_namespace_is_joined_by_a_file_that_it_is_mounted_on(launcher: Launcher, tmp_path: Path) -> None:
    place = tmp_path / "net"
    place.touch()
    script = f"mount --bind /proc/self/ns/net {place}; readlink /proc/self/ns/net"
    made = subprocess.run(
        ["unshare", "--net", "sh", "-c", script], capture_output=True, text=True, check=True
    )
    try:
        done = launcher.up(HOST_ROOT + f'[namespaces]\nnet = "path:{place}"\n', LOOKING)
        assert done.status == 0, done.err
        assert json.loads(done.out)["ns"]["net"] == made.stdout.strip()
    finally:
        subprocess.run(["umount", str(place)], check=True)


def refused(launcher: Launcher, namespaces: str) -> str:
    done = launcher.up(f"{HOST_ROOT}[namespaces]\n{namespaces}\n", ["true"])
    assert done.status == 125, (done.status, done.err)
    assert launcher.runs() == [run for run in launcher.runs() if run.startswith("anchor-")]
    return done.err


def test_invalid_target_of_a_join_is_refused_with_the_reason(launcher: Launcher, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "file").touch()
    assert "no sandbox anchor is running" in refused(launcher, f'net = "{JOINED}"')
    assert "the process has ended" in refused(launcher, 'net = "path:/proc/4194305/ns/net"')
    assert "is a namespace of kind uts" in refused(launcher, 'net = "path:/proc/self/ns/uts"')
    assert "is not a namespace" in refused(launcher, f'net = "path:{tmp_path}/fifo"')
    assert "is not a namespace" in refused(launcher, f'net = "path:{tmp_path}/file"')
    assert "is the net namespace of the host" in refused(launcher, 'net = "path:/proc/self/ns/net"')
    assert "is the user namespace of the host" in refused(launcher, 'user = "path:/proc/self/ns/user"')
    with anchor(launcher, ANCHOR + 'uts = "host"\n'):
        assert "sandbox anchor has no uts namespace of its own" in refused(launcher, f'uts = "{JOINED}"')
        with anchor(launcher, ANCHOR):
            assert "2 sandboxes anchor are running" in refused(launcher, f'net = "{JOINED}"')


@pytest.mark.skipif(os.geteuid() == 0, reason="root may join all")
def test_namespace_of_another_user_is_refused(launcher: Launcher) -> None:
    text = refused(launcher, 'net = "path:/proc/1/ns/net"')
    assert "permission denied" in text or "namespace of the host" in text


def test_namespaces_of_a_joined_user_namespace_are_usable(launcher: Launcher) -> None:
    with anchor(launcher) as (_, _others):
        spec = f'{HOST_ROOT}[namespaces]\nuser = "{JOINED}"\nnet = "{JOINED}"\npid = "{JOINED}"\n'
        done = launcher.up(spec, LOOKING)
        assert json.loads(done.out)["interfaces"] == ["lo"], done.err
        kill = launcher.shell("ls -d /proc/[0-9]* | wc -l; kill -0 2 && echo signalled", spec)
        assert kill.out.split()[1:] == ["signalled"]
        assert int(kill.out.split()[0]) >= 4


# -- without a pid namespace of its own, the kernel ends no process -------------------------------------

LEAVING = "(setsid sh -c 'sleep 987001 & sleep 987002' &); setsid sleep 987003 & sleep 987004 & echo ready; exec sleep 987005"


def leftovers() -> list[int]:
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/cmdline", "rb") as file:
                words = file.read().split(b"\0")
            if (
                len(words) > 1
                and words[1].startswith(b"98700")
                and os.stat(f"/proc/{name}").st_uid in mine(name)
            ):
                found.append(int(name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def mine(name: str) -> set[int]:
    """Return the ids of this test's own sandboxes. Other accounts may run the same test at the same time."""
    uid = os.stat(f"/proc/{name}").st_uid
    own = os.geteuid()
    return {uid} if (uid == own if own else uid >= 0x60000000) else set()


def family(supervisor: int) -> dict[str, int]:
    below = children(supervisor)
    server = next(pid for pid, line in below.items() if "--serve-fd" in line)
    init = next(pid for pid in below if pid != server)
    return {"supervisor": supervisor, "server": server, "init": init, "program": next(iter(children(init)))}


@pytest.mark.parametrize("shared", ["host", "joined"])
@pytest.mark.parametrize(
    ("victim", "status"),
    [("supervisor", -9), ("server", 125), ("init", 137), ("program", 137), ("nobody", 143)],
)
@pytest.mark.twice
def test_kill_of_any_process_leaves_nothing_in_a_shared_pid_namespace(
    launcher: Launcher, shared: str, victim: str, status: int
) -> None:
    spec = f'{HOST_ROOT}[namespaces]\npid = "host"\n'
    if shared == "joined":
        spec = f'{HOST_ROOT}[namespaces]\npid = "{JOINED}"\nuser = "{JOINED}"\n'
    with anchor(launcher) as (_, _others):
        with launcher.start(spec, ["sh", "-c", LEAVING]) as supervisor:
            assert first_line(supervisor) == "ready"
            wait_for(lambda: len(leftovers()) == 5, "the program's processes")
            processes = family(supervisor.pid)
            if victim == "nobody":
                supervisor.terminate()
            else:
                os.kill(processes[victim], signal.SIGKILL)
            assert supervisor.wait(PATIENCE) == status
            wait_for(lambda: not any(map(alive, processes.values())), "the end of its own processes")
            wait_for(lambda: leftovers() == [], "the end of the program's processes")
        # No other process has ended.
        assert launcher.up(f'{HOST_ROOT}[namespaces]\nnet = "{JOINED}"\n', ["true"]).status == 0


def test_process_that_has_changed_its_root_does_not_outlive_init_in_a_joined_pid_namespace(
    launcher: Launcher,
) -> None:
    """The mount table of the process names no mount, and its parent is process 1 of the other sandbox."""
    spec = f'{HOST_ROOT}[namespaces]\npid = "{JOINED}"\nuser = "{JOINED}"\n'
    script = (
        "import os, time\n"
        "if os.fork() == 0:\n"
        "    os.chroot('/tmp')\n"
        "    print('inside' if os.path.exists('/proc') else 'elsewhere', flush=True)\n"
        "time.sleep(1000)\n"
    )
    with (
        anchor(launcher) as (_, _others),
        launcher.start(spec, ["/usr/bin/python3", "-c", script]) as supervisor,
    ):
        assert first_line(supervisor) == "elsewhere"
        os.kill(family(supervisor.pid)["init"], signal.SIGKILL)
        assert supervisor.wait(PATIENCE) == 137
        left = [name for name in filter(str.isdigit, os.listdir("/proc")) if is_of(name, script)]
        for name in left:
            os.kill(int(name), signal.SIGKILL)
        assert left == []


def is_of(name: str, script: str) -> bool:
    try:
        runs = Path(f"/proc/{name}/cmdline").read_bytes().split(b"\0")[2:3] == [script.encode()]
        return runs and os.stat(f"/proc/{name}").st_uid in mine(name)
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_processes_left_by_a_kill_of_supervisor_and_init_are_ended_by_the_next_command(
    launcher: Launcher,
) -> None:
    bystander = subprocess.Popen(["sleep", "1000"])
    try:
        with launcher.start(f'{HOST_ROOT}[namespaces]\npid = "host"\n', ["sh", "-c", LEAVING]) as supervisor:
            assert first_line(supervisor) == "ready"
            wait_for(lambda: len(leftovers()) == 5, "the program's processes")
            processes = family(supervisor.pid)
            for name in ("init", "supervisor"):
                os.kill(processes[name], signal.SIGSTOP)
            for name in ("init", "supervisor"):
                os.kill(processes[name], signal.SIGKILL)
            supervisor.wait(PATIENCE)
            wait_for(lambda: not any(map(alive, processes.values())), "the end of its own processes")
        assert leftovers() != []  # the case of this test
        assert launcher.up(command=["true"]).status == 0
        assert leftovers() == []
        assert launcher.runs() == []
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_status_of_a_program_that_leaves_processes_in_the_hosts_pid_namespace_is_its_own(
    launcher: Launcher,
) -> None:
    script = "sleep 987006 & setsid sleep 987007 & readlink /proc/self/ns/pid; test -e /proc/$$ && echo seen; exit 7"
    done = launcher.shell(script, f'{HOST_ROOT}[namespaces]\npid = "host"\n')
    assert done.status == 7, done.err
    assert done.out.split() == [os.readlink("/proc/self/ns/pid"), "seen"]
    assert leftovers() == []


def test_hosts_proc_is_masked_and_its_settings_are_read_only(launcher: Launcher) -> None:
    script = "echo x > /proc/sys/kernel/hostname; cat /proc/keys; ls /proc/1/root"
    done = launcher.shell(script, f'{HOST_ROOT}[namespaces]\npid = "host"\n')
    assert done.out == ""
    assert done.err.count("Read-only file system") == 1
    assert "ermission denied" in done.err


def test_the_hosts_proc_is_the_remedy_where_no_new_proc_can_be_mounted(launcher: Launcher) -> None:
    """A container engine that masks parts of /proc causes this ("too revealing")."""
    path = launcher.write(HOST_ROOT)
    open_path = launcher.write(f'{HOST_ROOT}[namespaces]\npid = "host"\n', "open.toml")
    masked = 'mount -t tmpfs none /proc/tty && exec "$@"'
    unshare = [
        "unshare",
        "--mount",
        *([] if os.geteuid() == 0 else ["--map-root-user"]),
        "sh",
        "-c",
        masked,
        "sh",
    ]

    def up(file: str) -> subprocess.CompletedProcess[str]:
        command = [
            *unshare,
            *launcher.arguments(file, ["sh", "-c", "ls /proc/tty; echo $$; cat /proc/$$/comm"]),
        ]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=PATIENCE, check=False, env=launcher.environ
        )

    refused = up(path)
    assert refused.returncode == 125
    assert "too revealing" in refused.stderr
    assert 'set namespaces.pid = "host"' in refused.stderr
    done = up(open_path)
    assert done.stdout.split()[1:] == ["sh"], done.stderr
