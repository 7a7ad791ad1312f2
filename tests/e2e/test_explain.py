"""The report of `sandbox explain` agrees with the facts that a probe finds inside the sandbox."""

from __future__ import annotations

import glob
import json
import os
import resource
import shutil
import socket
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sandbox.kernel import capabilities
from sandbox.kernel.rlimits import RESOURCES
from tests.e2e.support import HOST_ROOT, PATIENCE, PROBE, PYTHON, Launcher, first_line, sandbox, several_ids

pytestmark = [pytest.mark.fuse, pytest.mark.userns]

#: Continues the usual probe: prints the limits of its process.
LIMITS_PROBE = """
import json, resource
limits = {name: resource.getrlimit(number) for name, number in %r.items()}
with open("/proc/self/oom_score_adj") as file: print(json.dumps([limits, int(file.read())]))
"""

SPECS: dict[str, str] = {
    "plain": HOST_ROOT,
    "volumes": HOST_ROOT
    + """
[[volumes]]
type = "bind"
source = "."
target = "/mnt"
read_only = true
options = ["noexec"]
[[volumes]]
type = "bind"
source = "."
target = "/opt"
[[volumes]]
type = "tmpfs"
target = "/srv"
size = "1M"
mode = "0750"
read_only = true
""",
    "shared": HOST_ROOT
    + """
[network]
mode = "host"
[namespaces]
ipc = "host"
uts = "host"
cgroup = "host"
""",
    "capable": HOST_ROOT
    + """
[security]
no_new_privileges = false
capabilities = { drop = ["CHOWN", "SETFCAP"], add = ["NET_RAW", "SYS_PTRACE"] }
""",
    "bare": HOST_ROOT
    + """
[security]
capabilities = { drop = ["all"] }
""",
    "limited": HOST_ROOT
    + """
[limits]
open_files = 64
file_size = "8M"
core = 0
stack = "1M"
cpu_time = "10s"
oom_score_adj = 700
memory = "128M"
pids = 50
optional = ["memory", "pids"]
""",
    "process": """
[sandbox]
name = "some-name"
hostname = "inside"
[root]
layers = ["dir:/"]
writable = "none"
[process]
cwd = "/usr"
umask = "0077"
inherit_env = ["GIVEN", "ABSENT_HERE", "BOTH"]
env = { OWN = "1", BOTH = "file" }
[ids]
map = "single"
""",
    "user": HOST_ROOT
    + """
[process]
user = "1:2"
groups = [3]
[security]
capabilities = { add = ["NET_RAW"] }
""",
}

NAMES = [pytest.param(name, marks=[several_ids] if name == "user" else []) for name in SPECS]


def explained(launcher: Launcher, spec: str, environ: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return the report on *spec* as JSON."""
    done = sandbox(launcher, "explain", "--json", launcher.write(spec), environ=environ)
    assert done.status == 0, done.out
    report: dict[str, Any] = json.loads(done.out)
    return report


def values(report: Mapping[str, Any], section: str) -> dict[str, Any]:
    """Return the values of a section by their labels."""
    return {fact["label"]: fact["value"] for fact in report[section]}


@dataclass(frozen=True, slots=True)
class Seen:
    """The report on one of the files, and the facts that a program finds in its sandbox."""

    path: str
    launcher: Launcher
    report: dict[str, Any]
    facts: dict[str, Any]
    #: Soft and hard limit by the name of the setting, and oom_score_adj.
    limits: dict[str, list[int]]
    adjustment: int

    def section(self, name: str) -> dict[str, Any]:
        return values(self.report, name)


@pytest.fixture(scope="module", params=NAMES)
def seen(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """Explain a file and start it, once for all tests that compare the two."""
    launcher = Launcher(tmp_path_factory.mktemp("explained"))
    spec, environ = SPECS[request.param], {"GIVEN": "value", "BOTH": "outer"}
    report = explained(launcher, spec, environ)
    script = PROBE + LIMITS_PROBE % RESOURCES
    lines = launcher.up(spec, [PYTHON, "-c", script], environ=environ).facts_text().splitlines()
    facts, (limits, adjustment) = map(json.loads, lines)
    return Seen(launcher.write(spec), launcher, report, facts, limits, adjustment)


def test_ids_are_those_of_the_report(seen: Seen) -> None:
    ids, facts = seen.section("ids"), seen.facts
    assert [number for row in ids["user ids"] for number in row] == list(map(int, facts["uid_map"]))
    assert [number for row in ids["group ids"] for number in row] == list(map(int, facts["gid_map"]))


def test_mounts_are_those_of_the_report(seen: Seen) -> None:
    told = seen.section("mounts")
    found = {}
    for mount in seen.facts["mounts"]:
        options = {
            option for option in mount[5].split(",") if option in ("ro", "rw", "nosuid", "nodev", "noexec")
        }
        found[mount[4]] = (mount[mount.index("-") + 1], options)
    for target, value in told.items():
        kind, options = found.pop(target)
        if value["type"] == "bind":
            assert options >= set(value["options"])  # plus the options of the source's mount
        else:
            assert (kind, options) == (value["type"], set(value["options"]))
    # The remaining mounts are in /proc, /sys and /dev, or came with a source.
    around = (
        "/proc/",
        "/sys/",
        "/dev/",
        *(f"{target}/" for target, value in told.items() if value["source"]),
    )
    assert [target for target in found if not target.startswith(around)] == []


def test_namespaces_network_and_host_name_are_those_of_the_report(seen: Seen) -> None:
    told, facts = seen.section("namespaces"), seen.facts
    file_of = {"mount": "mnt"}
    for kind in ("user", "mount", "pid", "net", "ipc", "uts", "cgroup", "time"):
        link = file_of.get(kind, kind)
        if not os.path.exists(f"/proc/self/ns/{link}"):
            continue
        same = facts["namespaces"][link] == os.readlink(f"/proc/self/ns/{link}")
        assert same == (told[kind] == "host"), kind
    assert facts["hostname"] == told.get("host name", os.uname().nodename)
    shared = seen.section("network")["reaches"] == "host"
    assert facts["interfaces"] == (sorted(os.listdir("/sys/class/net")) if shared else ["lo"])


def test_capabilities_and_privileges_are_those_of_the_report(seen: Seen) -> None:
    told, facts = seen.section("security"), seen.facts
    found = {key: capabilities.names(int(value, 16)) for key, value in facts["capabilities"].items()}
    sets = told["capabilities"]
    assert found["CapEff"] == found["CapPrm"] == set(sets["effective"])
    assert found["CapBnd"] == set(sets["bounding"])
    assert found["CapAmb"] == set(sets["ambient"])
    assert facts["no_new_privs"] == str(int(told["no_new_privileges"]))


def test_environment_is_that_of_the_report(seen: Seen) -> None:
    told, found = seen.section("environment"), dict(seen.facts["env"])
    # Python sets LC_CTYPE for itself in the C locale (PEP 538).
    found.pop("LC_CTYPE", None)
    assert {name for name, fact in told.items() if fact["present"]} <= set(found)
    assert set(found) <= {name for name, fact in told.items() if fact["present"] is not False}
    known = {name: fact["value"] for name, fact in told.items() if fact["value"] is not None}
    assert {name: found[name] for name in known} == known


def test_program_starts_as_in_the_report(seen: Seen) -> None:
    told, facts = seen.section("program"), seen.facts
    assert facts["cwd"] == told["directory"]
    assert facts["umask"] == int(told["umask"], 8)
    assert told["terminal"] is False
    if isinstance(told["user"]["user"], int):
        assert (facts["uid"], facts["gid"]) == (told["user"]["user"], told["user"]["group"] or 0)
    if told["other groups"]:
        assert set(told["other groups"]) <= set(facts["groups"])


def test_process_limits_are_those_of_the_report(seen: Seen) -> None:
    told, found = seen.section("limits"), seen.limits
    for limit, number in RESOURCES.items():
        wanted = told[limit]["limit"]
        inherited = list(resource.getrlimit(number))
        # The kernel checks the hard limit of cpu_time first, so the launcher sets it one second higher.
        above = int(limit == "cpu_time" and wanted not in (None, "unlimited", inherited[1]))
        expected = inherited if wanted is None else [wanted, wanted + above]
        assert found[limit] == expected, limit
    with open("/proc/self/oom_score_adj", encoding="ascii") as file:
        inherited = int(file.read())
    wanted = told["oom_score_adj"]["limit"]
    assert seen.adjustment == (inherited if wanted is None else wanted)


def test_cgroup_limits_are_in_the_files_that_the_report_names(launcher: Launcher) -> None:
    spec = SPECS["limited"]
    told = values(explained(launcher, spec), "limits")
    with launcher.start(spec, ["sh", "-c", "echo ready; exec sleep 1000"]) as supervisor:
        assert first_line(supervisor) == "ready"
        for name, amount in (("memory", 128 << 20), ("pids", 50)):
            if told[name]["limit"] is None:
                assert told[name]["where"] is None
                continue
            (path,) = glob.glob(told[name]["where"])
            assert Path(path).read_text(encoding="ascii").strip() == str(amount)
        supervisor.terminate()
        supervisor.wait(PATIENCE)


def test_only_the_sockets_of_the_report_are_reachable(
    launcher: Launcher, request: pytest.FixtureRequest
) -> None:
    # Below /tmp, since the name of a socket has at most 107 bytes (unix(7)).
    directory = tempfile.mkdtemp(dir="/tmp")
    request.addfinalizer(lambda: shutil.rmtree(directory))
    spec = (
        HOST_ROOT + f'[[volumes]]\ntype = "bind"\nsource = "{directory}"\ntarget = "/mnt"\nread_only = true\n'
    )
    path = f"{directory}/socket"
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as abstract:
        listener.bind(path)
        os.chmod(path, 0o777)
        os.chmod(directory, 0o755)
        listener.listen()
        name = f"sandbox-test-explain-{os.getpid()}"  # these names are shared by all accounts
        abstract.bind(f"\0{name}")
        abstract.listen()
        for text, reaches_abstract in ((spec, False), (spec + '[network]\nmode = "host"\n', True)):
            told = values(explained(launcher, text), "network")
            script = (
                "import socket\n"
                f"for name in ('/mnt/socket', {path!r}, '\\0{name}'):\n"
                "    try: socket.socket(socket.AF_UNIX).connect(name); print('reached')\n"
                "    except OSError as error: print(error.strerror)\n"
            )
            done = launcher.up(text, [PYTHON, "-c", script])
            reached = [line == "reached" for line in done.out.splitlines()]
            assert reached == [True, False, reaches_abstract], done
            assert told["sockets in volumes"] == [os.path.realpath(path)]
            assert (f"@{name}" in told["abstract sockets"]) == reaches_abstract


def test_mounts_that_are_hidden_in_the_report_appear_empty(launcher: Launcher) -> None:
    hidden = values(explained(launcher, HOST_ROOT), "root")["layer 1"]["hidden_mounts"]
    script = 'for path; do test -d "$path" && ls -A "$path"; done; true'
    done = launcher.up(HOST_ROOT, ["sh", "-c", script, "sh", *hidden])
    assert (done.status, done.out) == (0, ""), done


def test_exit_status_is_0_for_files_that_up_starts(seen: Seen) -> None:
    # `seen` has started the file successfully, so both must succeed.
    assert [
        sandbox(seen.launcher, *verb, seen.path).status for verb in (("up", "--dry-run"), ("explain",))
    ] == [0, 0]


def test_variables_of_a_file_reach_the_program_and_the_report_omits_their_values(launcher: Launcher) -> None:
    (launcher.directory / "web.env").write_text("# ours\nTOKEN=hunter2\nOWN=lost\n", encoding="utf-8")
    spec = HOST_ROOT + '[process]\nenv_file = "web.env"\nenv = { OWN = "kept" }\n'
    report = explained(launcher, spec)
    told = values(report, "environment")
    found = launcher.probe(spec)["env"]
    assert (found["TOKEN"], found["OWN"]) == ("hunter2", "kept")
    assert (told["TOKEN"], told["OWN"]["value"]) == ({"value": None, "present": True}, "kept")
    assert "hunter2" not in json.dumps(report)


def test_report_gives_the_origin_of_values_of_several_files_and_the_command_line(launcher: Launcher) -> None:
    base = launcher.write(HOST_ROOT + "[limits]\nopen_files = 100\nfile_size = 4096\n", "base.toml")
    path = launcher.write(
        'extends = "base.toml"\n[limits]\ncore = 0\n[profile.slow.limits]\nfile_size = 8192\n'
    )
    options = ("--profile", "slow", "--set", "process.umask='0077'")
    report = json.loads(sandbox(launcher, "explain", "--json", path, *options).out)
    told = {
        fact["label"]: fact["origin"] for fact in (*report["limits"], *report["program"], *report["root"])
    }
    places = {
        name: (told[name]["file"], told[name]["line"])
        for name in ("layer 1", "open_files", "core", "file_size")
    }
    assert places == {
        "layer 1": (base, 2),
        "open_files": (base, 4),
        "core": (path, 3),
        "file_size": (path, 5),
    }
    assert (told["umask"]["kind"], told["directory"]["kind"]) == ("command line", "default")
    # Remove blanks, because `explain` folds long paths.
    text = "".join(sandbox(launcher, "explain", path, *options).out.split())
    assert f"mergedfrom{base},{path}" in text
