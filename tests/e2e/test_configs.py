"""Every environment file in configs/ does what its first lines promise.

Those that need a Debian root file system are run by test_configs_debian.py.
"""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import PROJECT
from tests.e2e.support import CONFIGS, Launcher, Outcome, config, first_line, several_ids, wait_for
from tests.support.requirements import account, has_subordinate_ids

pytestmark = [pytest.mark.fuse, pytest.mark.userns]

EXAMPLES = sorted(path.stem for path in CONFIGS.glob("*.toml"))

single_id = pytest.mark.skipif(
    os.geteuid() == 0 or has_subordinate_ids(), reason="this account has more than one id"
)
compiler = pytest.mark.skipif(
    not os.path.exists("/usr/bin/cc"), reason="needs a compiler on the host (apt-get install gcc)"
)


def succeeded(done: Outcome) -> list[str]:
    """Return the lines that the program printed."""
    assert done.status == 0, done
    return done.out.splitlines()


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """Return a directory of the host that the sandbox's user may write, for every user who starts the sandbox."""
    directory = tmp_path / "shared"
    directory.mkdir()
    directory.chmod(0o777)
    return directory


# --- all examples ---


def test_every_example_is_run_by_a_test() -> None:
    run = {
        name
        for file in Path(__file__).parent.glob("test_configs*.py")
        for name in re.findall(r'[^`]config\("([a-z-]+)"\)', file.read_text())
    }
    assert run == set(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_first_lines_of_an_example_name_its_readers_and_its_purpose(name: str) -> None:
    comment = re.match(r"(#.*\n)+", (CONFIGS / f"{name}.toml").read_text())
    assert comment is not None
    lines = comment.group().splitlines()
    assert lines[0].startswith("# For ")
    assert any(line.startswith(("# Shows: ", "# Needs a later version: ")) for line in lines)


def test_table_of_examples_lists_each_once_with_its_file() -> None:
    rows = re.findall(
        r"^\| \[([a-z-]+)\]\((.+?)\) \| .+ \| .+ \|.*\|$", (CONFIGS / "README.md").read_text(), re.MULTILINE
    )
    assert sorted(rows) == [(name, f"{name}.toml") for name in EXAMPLES]


def test_examples_are_in_the_usual_layout() -> None:
    command = [sys.executable, "-m", "sandbox", "fmt", "--check", *map(config, EXAMPLES)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=PROJECT, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_root_file_systems_that_examples_name_are_ignored_by_git() -> None:
    ignored = (Path(PROJECT) / ".gitignore").read_text().splitlines()
    assert {"/configs/debian/", "/configs/debian.tar", "/configs/minimal.tar"} <= set(ignored)


# --- examples with a root of this machine ---


def test_hello_shows_a_changed_etc_and_leaves_the_host_alone(launcher: Launcher) -> None:
    before = {
        path: os.path.lexists(path) and os.lstat(path).st_mtime_ns for path in ("/etc/motd", "/etc/hostname")
    }
    lines = succeeded(launcher.up(config("hello")))
    assert lines[0].startswith("hello from hello, process 2, running as uid=0(root) gid=0(root)")
    assert "wrote /etc/motd: changed in here only" in lines
    assert any(line.startswith("removed /etc/hostname: ls: cannot access") for line in lines)
    assert any(line.startswith("limits: 256 open files") for line in lines)
    assert lines[-1] == "network interfaces: lo"
    after = {path: os.path.lexists(path) and os.lstat(path).st_mtime_ns for path in before}
    assert after == before


def test_shell_runs_commands_on_a_copy_of_this_machine(launcher: Launcher) -> None:
    done = launcher.up(config("shell"), stdin="hostname; touch /tmp/x /usr/y && echo touched; exit 9\n")
    assert (done.status, done.out.split()) == (9, ["try", "touched"])
    assert not os.path.exists("/usr/y")


def test_shell_has_a_writable_home_that_is_empty_at_each_start(launcher: Launcher) -> None:
    script = "pwd; ls -A | wc -l; echo x > ~/.profile && mkdir -p ~/.cache/deep && ls -A\n"
    for _ in range(2):
        assert succeeded(launcher.up(config("shell"), stdin=script)) == ["/root", "0", ".cache", ".profile"]


@pytest.mark.twice
def test_shell_deletes_a_system_that_is_there_the_next_time(launcher: Launcher) -> None:
    script = "rm -r /usr/share/doc /usr/bin/env && ls /usr/share/doc /usr/bin/env 2>/dev/null; echo deleted\n"
    for _ in range(2):
        assert succeeded(launcher.up(config("shell"), stdin=script)) == ["deleted"]
    assert os.path.exists("/usr/bin/env")


def test_untrusted_script_finds_programs_and_nothing_else(launcher: Launcher) -> None:
    assert succeeded(launcher.up(config("untrusted"))) == [
        "top of the file system: bin dev etc lib lib64 proc sbin script sys tmp usr",
        "users: root",
        "network interfaces: lo",
        "capabilities: 0000000000000000",
        "programs of the host: read-only",
    ]


def test_untrusted_script_of_the_users_choice_is_run_within_its_bounds(
    launcher: Launcher, shared: Path
) -> None:
    script = shared / "install.sh"
    script.write_text(
        "echo $HOME; echo changed > /script || echo the script itself is read-only\n"
        "for n in $(seq 3000); do : > /file$n || break; done 2>/dev/null; ls / | grep -c file\n"
    )
    done = launcher.up(config("untrusted"), environ={"SCRIPT": str(script)})
    home, script_itself, files = succeeded(done)
    assert (home, script_itself) == ("/tmp", "the script itself is read-only")
    assert files == "2000"
    assert "changed" not in script.read_text().splitlines()


def test_untrusted_script_that_runs_too_long_is_ended(launcher: Launcher, shared: Path) -> None:
    script = shared / "wait.sh"
    script.write_text("sleep 1000\n")
    options = ["--set", "limits.wall_time=200ms"]
    done = launcher.up(config("untrusted"), options=options, environ={"SCRIPT": str(script)})
    assert done.status == 124


@compiler
def test_build_gives_the_same_bytes_whatever_the_caller_has_set(launcher: Launcher) -> None:
    before = sorted(os.listdir(CONFIGS / "build"))
    first = succeeded(launcher.up(config("build")))
    time.sleep(1)  # times in archives count seconds
    caller = {"SOURCE_DATE_EPOCH": "1", "TZ": "Asia/Tokyo", "LC_ALL": "C.UTF-8", "CFLAGS": "-g"}
    again = succeeded(launcher.up(config("build"), environ=caller))
    assert first[0] == "built in the sandbox on Nov 14 2023"
    assert re.fullmatch(r"[0-9a-f]{64}  -", first[1])
    assert first[2:] == ["the sources cannot be written"]
    single = succeeded(launcher.up(config("build"), options=["--set", "ids.map=single"]))
    assert again == single == first
    assert sorted(os.listdir(CONFIGS / "build")) == before


@compiler
def test_build_depends_on_the_date_that_its_file_gives(launcher: Launcher) -> None:
    options = ["--set", "process.env.SOURCE_DATE_EPOCH='86400'"]
    lines = succeeded(launcher.up(config("build"), options=options))
    assert lines[0] == "built in the sandbox on Jan  2 1970"
    assert lines[1] != succeeded(launcher.up(config("build")))[1]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])
def test_web_service_is_reached_from_the_host_and_ends_well(
    launcher: Launcher, shared: Path, ending: signal.Signals
) -> None:
    (shared / "index.html").write_text("from the host")
    port = free_port()
    launcher.environ |= {"SITE": str(shared), "PORT": str(port)}
    with launcher.start(config("web")) as supervisor:
        assert first_line(supervisor).startswith(f"Serving HTTP on 127.0.0.1 port {port}")
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("GET", "/")
        assert connection.getresponse().read() == b"from the host"
        connection.close()
        supervisor.send_signal(ending)
        wait_for(lambda: supervisor.poll() is not None, "the service to end")
        assert supervisor.returncode == 0


def test_web_service_serves_the_page_beside_it_and_can_change_nothing(launcher: Launcher) -> None:
    script = "cat index.html; echo /*; for d in / /srv /usr /etc /tmp; do touch $d/x 2>/dev/null && echo $d; done; id -u"
    assert succeeded(launcher.shell(script, config("web"))) == [
        (CONFIGS / "web" / "index.html").read_text().rstrip(),
        "/bin /dev /etc /lib /lib64 /proc /sbin /srv /sys /usr",
        "0",
    ]


def test_database_keeps_its_rows_on_the_host(launcher: Launcher, shared: Path) -> None:
    for visit in (1, 2):
        done = launcher.up(config("database"), environ={"DATA": str(shared)})
        assert succeeded(done) == [f"visits so far: {visit}", "integrity: ok"]
    path = shared / "visits.db"
    assert path.stat().st_mode & 0o777 == 0o600
    if os.access(path, os.R_OK):
        with sqlite3.connect(path) as database:
            assert database.execute("select count(*) from visits").fetchone() == (2,)
        database.close()


def test_database_has_no_other_place_to_write_to(launcher: Launcher, shared: Path) -> None:
    script = "for d in / /etc /tmp /var/tmp /data; do touch $d/x 2>/dev/null && echo $d; done; true"
    assert succeeded(launcher.shell(script, config("database"), environ={"DATA": str(shared)})) == ["/data"]


def test_directories_that_examples_write_to_are_there_and_empty_in_a_checkout() -> None:
    for name in ("data", "agent"):
        assert (CONFIGS / name / ".gitignore").read_text().splitlines()[1:] == ["*", "!.gitignore"]


def test_job_runs_the_tests_of_a_project(launcher: Launcher) -> None:
    done = launcher.up(config("job"))
    assert done.status == 0
    assert done.err.splitlines()[-1] == "OK (skipped=1)"


def test_job_in_the_pipeline_runs_all_of_them_on_a_root_that_cannot_be_written(launcher: Launcher) -> None:
    done = launcher.up(config("job"), options=["--profile", "ci"])
    assert done.status == 0
    assert re.search(r"^Ran 3 tests in .*\n\nOK$", done.err, re.MULTILINE)
    spoiled = launcher.up(config("job"), options=["--profile", "ci", "--set", "root.writable=ephemeral"])
    assert spoiled.status == 1
    assert "FAILED (failures=1)" in spoiled.err


def test_job_fails_when_a_test_fails(launcher: Launcher, shared: Path) -> None:
    for path in (CONFIGS / "job").glob("*.py"):
        (shared / path.name).write_text(path.read_text().replace("max(0, sum(cents))", "sum(cents)"))
    volumes = f'volumes=[{{type="bind", source="{shared}", target="/project", read_only=true}}]'
    done = launcher.up(config("job"), options=["--set", volumes])
    assert done.status == 1
    assert "AssertionError: -400 != 0" in done.err


def submit(launcher: Launcher, directory: Path, solution: str, *options: str) -> Outcome:
    (directory / "solution.py").write_text(solution)
    return launcher.up(
        config("exercise"),
        options=options,
        stdin=(CONFIGS / "exercise" / "input").read_text(),
        environ={"SUBMISSION": str(directory)},
    )


def test_exercise_answers_on_standard_output(launcher: Launcher) -> None:
    done = launcher.up(config("exercise"), stdin=(CONFIGS / "exercise" / "input").read_text())
    assert (done.status, done.out) == (0, (CONFIGS / "exercise" / "expected").read_text())


def test_exercise_that_loops_is_ended_by_its_processor_time(launcher: Launcher, shared: Path) -> None:
    done = submit(launcher, shared, "while True: pass\n", "--set", "limits.cpu_time=1s")
    assert (done.status, done.out) == (128 + signal.SIGXCPU, "")


def test_exercise_that_waits_is_ended_by_the_clock(launcher: Launcher, shared: Path) -> None:
    done = submit(launcher, shared, "import time; time.sleep(60)\n", "--set", "limits.wall_time=300ms")
    assert done.status == 124


def test_exercise_sees_neither_the_expected_answers_nor_the_machine(launcher: Launcher, shared: Path) -> None:
    solution = """
import os, socket
print(sorted(os.listdir("/")), sorted(os.listdir("/submission")))
for attempt in (lambda: open("/submission/x", "w"), lambda: open("/tmp/x", "w"),
                lambda: socket.create_connection(("192.0.2.1", 80), 1), lambda: [os.open("/", 0) for _ in range(99)]):
    try: attempt(); print("allowed")
    except OSError as error: print(error.strerror)
"""
    assert succeeded(submit(launcher, shared, solution)) == [
        "['bin', 'dev', 'etc', 'lib', 'lib64', 'proc', 'sbin', 'submission', 'sys', 'usr'] ['solution.py']",
        "Read-only file system",
        "No such file or directory",
        "Network is unreachable",
        "Too many open files",
    ]


def test_limits_stop_the_program(launcher: Launcher) -> None:
    assert succeeded(launcher.up(config("limits"))) == [
        "open files: 64",
        f"file size: stopped at {8 << 20} bytes",
        "cpu time: stopped",
    ]


def test_agent_can_change_its_project_and_sees_no_home_and_no_token(launcher: Launcher, shared: Path) -> None:
    environ = {"PROJECT": str(shared), "AWS_SECRET_ACCESS_KEY": "secret", "SSH_AUTH_SOCK": "/tmp/agent"}
    assert succeeded(launcher.up(config("agent"), environ=environ)) == [
        "variables: HOME LANG PATH USER container ",
        "homes: /home:  /root: ",
        "network interfaces: lo",
        "the system cannot be written",
        "the project can be written",
    ]
    assert (shared / "result").exists()


def test_agent_reaches_the_network_of_the_host_only_when_the_caller_sets_that(launcher: Launcher) -> None:
    command = ["readlink", "/proc/self/ns/net"]
    host = os.readlink("/proc/self/ns/net")
    assert succeeded(launcher.up(config("agent"), command)) != [host]
    assert succeeded(launcher.up(config("agent"), command, options=["--set", "network.mode=host"])) == [host]


def test_graphics_card_is_there_or_refused_with_the_reason(launcher: Launcher) -> None:
    path = config("gpu")
    done = launcher.up(path)
    if os.path.isdir("/dev/dri"):
        assert "renderD" in done.out
    else:
        assert (done.status, done.out) == (125, "")
        assert done.err.startswith(f"{path}:13:8: devices[0].path: /dev/dri: no such file or directory\n")
    other = launcher.up(
        path, ["ls", "/dev/dri"], options=["--set", 'devices=[{path="/dev/fuse", target="/dev/dri/fuse"}]']
    )
    assert succeeded(other) == ["fuse"]


def test_toolbox_keeps_installed_programs_and_the_host_does_not_have_them(launcher: Launcher) -> None:
    install = "hostname; printf '#!/bin/sh\\necho works\\n' > /usr/local/bin/sandbox-tool; chmod +x /usr/local/bin/sandbox-tool; touch ~/mine"
    assert succeeded(launcher.up(config("toolbox"), stdin=install)) == ["toolbox"]
    assert succeeded(launcher.up(config("toolbox"), stdin="sandbox-tool; ls ~/mine")) == [
        "works",
        "/opt/mine",
    ]
    assert not os.path.exists("/usr/local/bin/sandbox-tool")


def test_toolbox_of_another_name_is_new_and_a_full_one_refuses_more(launcher: Launcher) -> None:
    assert launcher.up(config("toolbox"), stdin="touch /etc/mine").status == 0
    options = ["--set", "sandbox.name=other", "--set", "root.size=1M"]
    script = "ls /etc/mine; head -c 3M /dev/zero > /opt/large"
    done = launcher.up(config("toolbox"), options=options, stdin=script)
    assert done.status == 1
    assert "cannot access '/etc/mine': No such file or directory" in done.err
    assert "No space left on device" in done.err


def test_base_runs_unchanged(launcher: Launcher) -> None:
    assert succeeded(launcher.up(config("base"))) == [
        "stage: production",
        "locale: C.UTF-8",
        "open files: 256",
        "scratch space: /scratch ",
    ]


def test_dev_completes_and_changes_base(launcher: Launcher) -> None:
    assert succeeded(launcher.up(config("dev"))) == [
        "stage: development",
        "locale: C.UTF-8",
        "open files: 512",
        "scratch space: /cache /scratch ",
    ]


def test_dev_with_its_profile_changes_again(launcher: Launcher) -> None:
    assert succeeded(launcher.up(config("dev"), options=["--profile", "load"])) == [
        "stage: load test",
        "locale: C.UTF-8",
        "open files: 1024",
        "scratch space: /scratch ",
    ]


def test_later_layers_hide_earlier_ones_and_the_rest_is_there(launcher: Launcher) -> None:
    assert succeeded(launcher.up(config("layers"))) == [
        "Welcome to the team.",
        "hello from a layer",
        "the system's own files are there, too: /etc/passwd",
    ]


def test_scratch_space_is_bounded_private_and_gone(launcher: Launcher) -> None:
    for _ in range(2):
        assert succeeded(launcher.up(config("scratch"))) == [
            "/run/secret has mode 700",
            "/scratch has mode 1777",
            f"/scratch is full at {1 << 20} bytes",
            "/run/secret holds no programs",
        ]
    assert not os.path.exists("/scratch")


@several_ids
def test_user_has_its_groups_no_capabilities_and_the_access_of_the_modes(launcher: Launcher) -> None:
    assert succeeded(launcher.up(config("user"))) == [
        "user 1000, group 1000, groups 1000 27 100",
        "capabilities: 0000000000000000",
        "/etc is root's",
        "made a file of 1000:1000 with mode 640",
    ]


@single_id
def test_user_is_refused_where_only_user_0_exists(launcher: Launcher) -> None:
    path = config("user")
    done = launcher.up(path)
    assert (done.status, done.out) == (125, "")
    lines = [line for line in done.err.splitlines() if line.startswith(path)]
    reason = f"/etc/subuid has no range for {account()}"
    assert [line.split(": ", 1)[1] for line in lines] == [
        f"process.user: only user 0 exists in the sandbox: {reason}",
        f"process.groups: only group 0 exists in the sandbox: {reason}",
    ]


def test_readonly_root_refuses_every_change(launcher: Launcher) -> None:
    programs, refusal = succeeded(launcher.up(config("readonly")))
    assert re.fullmatch(r"programs: [0-9]{2,}, of which anybody may change: 0", programs)
    assert refusal == "nothing can be written: Read-only file system"


def test_filter_converts_its_input(launcher: Launcher, shared: Path) -> None:
    done = launcher.up(config("filter"), stdin='{"b":[1,2],"a":null}')
    assert (done.status, done.out) == (0, '{\n    "b": [\n        1,\n        2\n    ],\n    "a": null\n}\n')
    with open(shared / "out", "wb") as file:  # file_size applies to output to a file, and not to a pipe
        arguments = launcher.arguments(config("filter"))
        subprocess.run(arguments, input=b"[]", stdout=file, check=True, timeout=60, env=launcher.environ)
    assert (shared / "out").read_bytes() == b"[]\n"


def test_filter_reaches_nothing_but_its_input(launcher: Launcher) -> None:
    script = "echo /*; ls /sys/class/net; for d in / /dev/shm /etc /usr; do touch $d/x 2>/dev/null && echo $d; done; cat"
    lines = succeeded(launcher.shell(script, config("filter"), stdin="input"))
    assert lines == ["/bin /dev /etc /lib /lib64 /proc /sbin /sys /usr", "lo", "/dev/shm", "input"]


@pytest.mark.busybox
def test_minimal_root_is_one_program(launcher: Launcher, tmp_path: Path) -> None:
    archive = tmp_path / "minimal.tar"
    made = re.search(
        r"^# +(tar .*) configs/minimal.tar (.*)$", Path(config("minimal")).read_text(), re.MULTILINE
    )
    assert made is not None, "the comment lacks the command that makes the archive"
    subprocess.run(["sh", "-c", f"{made[1]} {archive} {made[2]}"], check=True)
    top, programs = succeeded(launcher.up(config("minimal"), environ={"MINIMAL_TAR": str(archive)}))
    assert top == "top of the file system: bin dev proc sys"
    found = re.fullmatch(r"programs: ([0-9]+), files: 1", programs)
    assert found is not None
    assert int(found[1]) > 100
