"""The seccomp filter and the Landlock rules, seen from inside and outside of a running sandbox."""

from __future__ import annotations

import errno
import json
import os
import platform
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sandbox.kernel import filters as kernel_filters
from tests.e2e.support import HOST_ROOT, Launcher, first_line, wait_for

pytestmark = pytest.mark.fuse
LANDLOCK = kernel_filters.landlock_version()
needs_landlock = pytest.mark.skipif(LANDLOCK < 4, reason="needs version 4 of Landlock (Linux 6.7)")
x86_64_only = pytest.mark.skipif(platform.machine() != "x86_64", reason="call numbers of x86_64")
ECOSYSTEM = "/usr/share/containers/seccomp.json"

#: Makes system calls by their numbers, in machine code, and prints the kernel's results as JSON.
CALLS = """
import ctypes, json, mmap, sys
SYSCALL, INT_80 = (
    b"\\x48\\x89\\xf8\\x48\\x89\\xf7\\x48\\x89\\xd6\\x48\\x89\\xca\\x0f\\x05\\xc3",
    b"\\x53\\x89\\xf8\\x89\\xf3\\x89\\xd1\\x31\\xd2\\xcd\\x80\\x5b\\xc3",
)
def function(code):
    memory = mmap.mmap(-1, 4096, prot=7)
    memory.write(code)
    made = ctypes.CFUNCTYPE(ctypes.c_long, *[ctypes.c_ulong] * 4)(ctypes.addressof(ctypes.c_char.from_buffer(memory)))
    made.memory = memory
    return made
ways = {"syscall": function(SYSCALL), "int80": function(INT_80)}
result = {}
for name, (way, number, *arguments) in json.loads(sys.argv[1]).items():
    value = ways[way](number, *(arguments + [0, 0, 0])[:3])
    result[name] = ctypes.c_int(value).value if way == "int80" else value
print(json.dumps(result))
"""


def security(text: str, *others: str) -> str:
    return f"{HOST_ROOT}[security]\n{text}\n" + "\n".join(others)


def returned(launcher: Launcher, calls: dict[str, tuple[Any, ...]], spec: str = HOST_ROOT) -> dict[str, int]:
    """Return the result of each call inside. A call is an entry point of the kernel, a number and arguments."""
    done = launcher.up(spec, ["/usr/bin/python3", "-c", CALLS, json.dumps(calls)])
    assert done.status == 0, done.err
    found: dict[str, int] = json.loads(done.out)
    return found


@x86_64_only
def test_the_default_filter_holds_by_every_way_into_the_kernel(launcher: Launcher) -> None:
    found = returned(
        launcher,
        {
            "getppid": ("syscall", 110),
            "mount": ("syscall", 165),
            "unshare user": ("syscall", 272, 0x10000000),
            "setns": ("syscall", 308),
            "clone of a user namespace": ("syscall", 56, 0x10000011),
            "keyctl": ("syscall", 250, 0, 2**32 - 3),
            "add_key": ("syscall", 248),
            "request_key": ("syscall", 249),
            "fanotify_init": ("syscall", 300),
            "kcmp": ("syscall", 312, 1, 1),
            "open_by_handle_at": ("syscall", 304),
            "pidfd_getfd": ("syscall", 438),
            "bpf": ("syscall", 321),
            "io_uring_setup": ("syscall", 425, 1),
            "userfaultfd": ("syscall", 323),
            "perf_event_open": ("syscall", 298),
            "clone3": ("syscall", 435),
            "TIOCSTI": ("syscall", 16, 0, 0x5412),
            "TIOCSTI with high bits": ("syscall", 16, 0, 0x700005412),
            "TIOCLINUX": ("syscall", 16, 0, 0x541C),
            "AF_VSOCK": ("syscall", 41, 40, 1),
            "AF_ALG": ("syscall", 41, 38, 5),
            "personality": ("syscall", 135, 0x40000),
            "unknown": ("syscall", 999),
            "x32 getpid": ("syscall", 0x40000000 | 39),
            "x32 mount": ("syscall", 0x40000000 | 165),
            "i386 getppid": ("int80", 64),
            "i386 mount": ("int80", 21),
            "i386 unshare": ("int80", 310, 0x10000000),
            "i386 bpf": ("int80", 357),
            "i386 socketcall": ("int80", 102, 1),
            "i386 AF_VSOCK": ("int80", 359, 40, 1),
        },
    )
    refused, absent, family = -errno.EPERM, -errno.ENOSYS, -errno.EAFNOSUPPORT
    assert found.pop("getppid") == found.pop("i386 getppid") == 1
    assert found.pop("i386 socketcall") in (refused, family)
    assert found == {
        **dict.fromkeys(
            ("mount", "unshare user", "clone of a user namespace", "setns", "bpf", "userfaultfd"), refused
        ),
        **dict.fromkeys(("keyctl", "add_key", "request_key", "perf_event_open", "fanotify_init"), refused),
        **dict.fromkeys(("kcmp", "open_by_handle_at", "pidfd_getfd"), refused),
        **dict.fromkeys(
            ("TIOCSTI", "TIOCSTI with high bits", "TIOCLINUX", "i386 mount", "i386 unshare", "i386 bpf"),
            refused,
        ),
        **dict.fromkeys(
            ("io_uring_setup", "clone3", "personality", "unknown", "x32 getpid", "x32 mount"), absent
        ),
        **dict.fromkeys(("AF_VSOCK", "AF_ALG", "i386 AF_VSOCK"), family),
    }


STATUS = "grep -E '^(Seccomp|NoNewPrivs|CapPrm|CapEff|CapAmb)' /proc/self/status"


def status(out: str) -> dict[str, str]:
    return {key: value.strip() for key, value in (line.split(":") for line in out.splitlines())}


def test_the_program_is_under_one_filter_and_process_1_is_not(launcher: Launcher) -> None:
    done = launcher.shell(f"{STATUS}; grep ^Seccomp: /proc/1/status | sed s/^/Init/")
    found = status(done.out)
    assert (found["Seccomp"], found["Seccomp_filters"], found["InitSeccomp"]) == ("2", "1", "0")


def test_unconfined_program_has_no_filter(launcher: Launcher) -> None:
    done = launcher.shell(f"{STATUS}; unshare --user true && echo made", security('seccomp = "unconfined"'))
    assert status(done.out.replace("made\n", ""))["Seccomp"] == "0"
    assert done.out.endswith("made\n")


@pytest.mark.parametrize(
    "user",
    ["", pytest.param('[process]\nuser = "1:1"\n', marks=pytest.mark.newuidmap)],
    ids=["root", "another"],
)
def test_without_no_new_privileges_the_filter_is_set_and_the_capability_for_it_is_gone(
    launcher: Launcher, user: str
) -> None:
    landlock = 'landlock = { write = ["/tmp"] }' if LANDLOCK >= 3 else ""
    done = launcher.shell(
        f"{STATUS}; unshare --user true", security(f"no_new_privileges = false\n{landlock}", user)
    )
    found = status(done.out)
    assert (found["Seccomp"], found["NoNewPrivs"]) == ("2", "0")
    assert "Operation not permitted" in done.err
    for key in ("CapPrm", "CapEff", "CapAmb"):
        assert not int(found[key], 16) >> 21 & 1, key
    assert (int(found["CapPrm"], 16) == 0) == bool(user)


def test_the_filters_of_program_and_server_are_compiled_once_and_reused(launcher: Launcher) -> None:
    assert launcher.up(command=["true"]).status == 0
    found = {path: path.stat().st_ino for path in (launcher.state / "filters").iterdir()}
    assert launcher.up(command=["true"]).status == 0
    assert {path: path.stat().st_ino for path in (launcher.state / "filters").iterdir()} == found
    serving, entry = sorted(found, key=lambda path: path.stat().st_size)
    assert serving.stat().st_size > 512
    before = entry.stat()
    # A forged filter that allows everything is not used.
    entry.write_bytes(entry.read_bytes()[:65] + b"\x06\0\0\0\0\0\xff\x7f")
    done = launcher.shell("unshare --user true")
    assert "Operation not permitted" in done.err
    assert entry.stat().st_size == before.st_size


def test_a_second_start_does_not_import_the_compiler(launcher: Launcher) -> None:
    path = launcher.write(HOST_ROOT)
    script = (
        "import atexit, sys; from sandbox.cli.main import main; "
        "atexit.register(lambda: print('pyseccomp' in sys.modules)); sys.exit(main(['up', sys.argv[1], '--', 'true']))"
    )
    command = [sys.executable, "-c", script, path]
    said = [
        subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=60, env=launcher.environ
        ).stdout
        for _ in range(2)
    ]
    assert said == ["True\n", "False\n"]


@x86_64_only
@pytest.mark.skipif(not os.path.exists(ECOSYSTEM), reason="needs golang-github-containers-common")
def test_a_profile_in_the_format_of_containers_is_accepted(launcher: Launcher) -> None:
    """The profile allows unshare(2), refuses vmsplice(2), for which the kernel would return EBADF, and lacks io_uring."""
    calls = {
        "unshare": ("syscall", 272, 0x10000000),
        "vmsplice": ("syscall", 278, 99),
        "io_uring": ("syscall", 425),
    }
    found = returned(launcher, calls, security(f'seccomp = "{ECOSYSTEM}"'))
    assert found == {"unshare": 0, "vmsplice": -errno.EPERM, "io_uring": -errno.ENOSYS}


def test_a_profile_can_be_changed_call_by_call(launcher: Launcher, tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text('{"defaultAction": "SCMP_ACT_ALLOW"}')
    spec = security('seccomp = { profile = "./p.json", deny = ["unshare"] }')
    assert "Operation not permitted" in launcher.shell("unshare --user true", spec).err
    allowed = security('seccomp = { allow = ["unshare"], deny = ["symlink", "symlinkat"] }')
    done = launcher.shell("unshare --user true && echo made; ln -s a /tmp/b", allowed)
    assert done.out == "made\n"
    assert done.status != 0


def test_log_allows_the_call(launcher: Launcher) -> None:
    done = launcher.shell("unshare --user true && echo made", security("seccomp = { log = true }"))
    assert (done.status, done.out) == (0, "made\n")


@pytest.mark.parametrize("call", ["execve", "fcntl"])
def test_a_filter_that_denies_starting_the_program_is_refused(launcher: Launcher, call: str) -> None:
    done = launcher.up(security(f'seccomp = {{ deny = ["{call}"] }}'), ["true"])
    assert done.status == 125
    assert f"denies {call}, which is needed to start the program" in done.err
    assert launcher.runs() == []


def trace(launcher: Launcher, script: str, spec: str = HOST_ROOT) -> Any:
    return launcher.shell(script, spec, options=["--trace-denials"])


def test_denied_calls_are_reported_once_and_summarized_with_the_key_that_allows_them(
    launcher: Launcher,
) -> None:
    script = "for n in 1 2 3; do unshare --user true; done; python3 -c 'import os; os.setns(0, 0)'; exit 3"
    done = trace(launcher, script)
    assert done.status == 3
    assert done.err.count("unshare failed: Operation not permitted") == 3
    lines = [line for line in done.err.splitlines() if line.startswith("sandbox: ")]
    assert sum(line.startswith("sandbox: denied: unshare(0x10000000, ") for line in lines) == 1
    (told,) = [line for line in lines if "denied: setns(" in line]
    assert " = EPERM in /" in told
    assert "python3" in told
    assert any(line.startswith("sandbox: denied system calls: ") and "unshare 3" in line for line in lines)
    (advice,) = [line.partition("arguments: ")[2] for line in lines if "to allow them" in line]
    assert advice == '[security] seccomp = { allow = ["setns", "unshare"] }'
    heading, _, setting = advice.partition(" ")
    allowed = launcher.shell("unshare --user true && echo made", f"{HOST_ROOT}{heading}\n{setting}\n")
    assert allowed.out == "made\n"


def test_trace_does_not_advise_to_allow_calls_that_are_refused_on_purpose(launcher: Launcher) -> None:
    done = trace(
        launcher, "python3 -c 'import _thread, time; _thread.start_new_thread(print, (1,)); time.sleep(0.1)'"
    )
    assert done.out == "1\n"
    assert "to allow them" not in done.err


def test_trace_without_denials_reports_that(launcher: Launcher) -> None:
    done = trace(launcher, "exit 4")
    assert (done.status, done.err) == (4, "sandbox: no system call was denied\n")


def test_descendants_of_a_program_that_ends_at_once_are_traced(launcher: Launcher) -> None:
    script = "(sleep 0.3; unshare --user true 2>/tmp/err; cat /tmp/err) & sleep 1"
    done = trace(launcher, script)
    assert "Operation not permitted" in done.out
    assert "unshare 1" in done.err


def test_tracing_with_log_allows_the_call(launcher: Launcher) -> None:
    done = trace(launcher, "unshare --user true && echo made", security("seccomp = { log = true }"))
    assert done.out == "made\n"
    assert "denied: unshare(" in done.err


def test_tracing_does_not_save_a_program_that_a_profile_kills(launcher: Launcher, tmp_path: Path) -> None:
    rules = [
        {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_KILL_PROCESS"},
        {"names": ["sethostname"], "action": "SCMP_ACT_TRACE"},
    ]
    profile = tmp_path / "profile.json"
    profile.write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules}), encoding="utf-8")
    program = (
        "import os, signal, socket\nsignal.signal(signal.SIGSYS, signal.SIG_IGN)\n"
        "try:\n    socket.sethostname('x')\nexcept OSError as error:\n    print(error.strerror, flush=True)\n"
        "try:\n    os.mkdir('/tmp/x')\nfinally:\n    print('outlived it')\n"
    )
    for options, signals in (([], {signal.SIGSYS}), (["--trace-denials"], {signal.SIGSYS, signal.SIGKILL})):
        done = launcher.up(
            security(f'seccomp = "{profile}"'), ["/usr/bin/python3", "-c", program], options=options
        )
        assert done.out == "Function not implemented\n"
        assert done.status - 128 in signals


def test_there_is_nothing_to_trace_without_a_filter(launcher: Launcher) -> None:
    done = trace(launcher, "true", security('seccomp = "unconfined"'))
    assert done.status == 125
    assert "the sandbox has no seccomp filter" in done.err


def test_a_traced_sandbox_whose_supervisor_is_killed_ends(launcher: Launcher) -> None:
    arguments = launcher.arguments(HOST_ROOT, ["sh", "-c", "echo up; exec sleep 600"], ["--trace-denials"])
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, env=launcher.environ) as supervisor:
        assert first_line(supervisor) == "up"
        supervisor.kill()
        # The output ends when the program has ended, which had it open.
        assert supervisor.stdout is not None
        assert supervisor.stdout.read() == ""
    wait_for(lambda: launcher.up(command=["true"]).status == 0 and launcher.runs() == [], "the sweep")


@needs_landlock
def test_landlock_holds_whatever_permissions_say(launcher: Launcher) -> None:
    spec = security(
        'landlock = { read = ["/usr", "/etc", "/tmp"], write = ["/tmp", "/dev/null"], execute = ["/usr"] }'
    )
    script = (
        "cat /etc/hostname >/dev/null && echo read; ls /root; echo x >/tmp/a && cat /tmp/a; echo y >/etc/x; "
        "rm /etc/hostname; cp /bin/true /tmp/t && /tmp/t"
    )
    done = launcher.shell(script, spec)
    assert done.out == "read\nx\n"
    assert done.err.count("ermission denied") == 4, done.err


@needs_landlock
def test_landlock_restricts_ports(launcher: Launcher) -> None:
    script = (
        "import socket\n"
        "def attempt(call):\n    try: return call() and 'ok'\n    except OSError as error: return type(error).__name__\n"
        "print(attempt(lambda: socket.create_server(('127.0.0.1', 8080))), attempt(lambda: socket.create_server(('127.0.0.1', 81))),"
        " attempt(lambda: socket.create_connection(('127.0.0.1', 443))), attempt(lambda: socket.create_connection(('127.0.0.1', 80))))"
    )
    spec = security("landlock = { connect = [443], bind = [8080] }")
    done = launcher.up(spec, ["/usr/bin/python3", "-c", script])
    assert done.out == "ok PermissionError ConnectionRefusedError PermissionError\n"


@needs_landlock
def test_a_symbolic_link_in_a_rule_is_one_of_the_sandbox(launcher: Launcher, tmp_path: Path) -> None:
    """The link leads to the sandbox's own /etc, not out of the root of the layer."""
    layer = tmp_path / "layer"
    layer.mkdir()
    (layer / "link").symlink_to("../../../../../../../../etc")
    spec = f'[root]\nlayers = ["dir:/", "dir:{layer}"]\n[security]\nlandlock = {{ read = ["/usr", "/link"], execute = ["/usr"] }}\n'
    done = launcher.shell("cat /etc/hostname >/dev/null && echo read; ls /var", spec)
    assert done.out == "read\n"
    assert "Permission denied" in done.err


@needs_landlock
def test_a_rule_for_a_path_that_does_not_exist_is_refused_at_its_place(launcher: Launcher) -> None:
    done = launcher.up(security('landlock = { read = ["/usr", "/nonesuch"] }'), ["true"])
    assert done.status == 125
    assert "test.toml:4:30: security.landlock.read[1]: open /nonesuch: no such file or directory" in done.err
    assert "hint: name a directory that a layer or a volume has" in done.err


@needs_landlock
def test_error_about_a_program_that_the_rules_do_not_allow_names_the_missing_path(launcher: Launcher) -> None:
    done = launcher.up(security('landlock = { execute = ["/usr/share"] }'), ["sh", "-c", "true"])
    assert done.status == 126
    shell = os.path.realpath("/bin/sh")
    assert f"security.landlock.execute must contain {shell} and /" in done.err


@needs_landlock
def test_the_plan_names_filter_and_rules_in_the_order_of_their_loading(launcher: Launcher) -> None:
    path = launcher.write(security('landlock = { read = ["/"] }\nseccomp = { deny = ["ptrace"] }'))
    command = [sys.executable, "-m", "sandbox", "up", "--dry-run", path]
    out = subprocess.run(command, capture_output=True, text=True, check=True, env=launcher.environ).stdout
    order = [
        out.index(text)
        for text in ("no_new_privileges on", "landlock read /", "seccomp profile default, deny ptrace")
    ]
    assert order == sorted(order)
    assert not launcher.state.exists()
