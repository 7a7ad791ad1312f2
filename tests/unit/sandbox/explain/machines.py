"""Define, for each file in cases/, the machine of its report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sandbox.errors import SandboxError, StateError
from sandbox.explain import Case, Surroundings
from sandbox.host.facts import HostFacts, IdHelper
from sandbox.host.paths import DeviceNode, PathFact
from sandbox.kernel.cgroups import NoHierarchy
from sandbox.kernel.cgroups.v1 import V1Hierarchy
from sandbox.kernel.cgroups.v2 import V2Hierarchy
from sandbox.kernel.namespaces import NamespaceFact, UserNamespaceFact
from sandbox.plan import draft, host_details, host_paths
from sandbox.spec.load import parse
from tests.unit.sandbox.facts import NETWORK, PRIVATE, device, directory, host

CASES = Path(__file__).parent / "cases"
NAMES = sorted(path.stem for path in CASES.glob("*.toml"))


@dataclass(frozen=True, kw_only=True)
class Machine:
    """All inputs of a report except the file."""

    facts: HostFacts = field(default_factory=host)
    paths: tuple[PathFact, ...] = ()
    environ: Mapping[str, str] = field(default_factory=dict)
    surroundings: Surroundings = field(default_factory=Surroundings)
    profiles: tuple[str, ...] = ()
    assignments: tuple[str, ...] = ()
    state: SandboxError | None = None
    joined: Mapping[str, NamespaceFact] = field(default_factory=dict)


#: Of a sandbox that the same user started.
USER_NAMESPACE = UserNamespaceFact(
    identity=(4, 1),
    owner=1000,
    uid_map=host().whole_maps()[0],
    gid_map=host().whole_maps()[1],  # type: ignore[index]
)


def file(path: str, **others: object) -> PathFact:
    """Return the fact about a file that exists."""
    return PathFact(path=path, real=path, kind="file", identity=(1, 3), mode=0o644, **others)  # type: ignore[arg-type]


def missing(path: str) -> PathFact:
    """Return the fact about a path that does not exist."""
    return PathFact(path=path, real=path, kind="missing", reason="no such file or directory")


class FilesThatAreThere:
    """A cgroup file system in which every file exists."""

    def exists(self, _path: str) -> bool:
        """Return true for every path."""
        return True


MACHINES: Mapping[str, Machine] = {
    "plain": Machine(
        environ={"HOME": "/home/user"},
        surroundings=Surroundings(
            mounts=("/", "/boot", "/home", "/home/user/net", "/proc", "/sys/fs/cgroup")
        ),
    ),
    "volumes": Machine(
        facts=host(terminal=True),
        paths=(
            PathFact(path="/srv/base", real="/mnt/base", kind="directory", mode=0o755, owner=0),
            file("/specs/base.tar", owner=1001),
            PathFact(path="/specs/shared", real="/specs/shared", kind="directory", mode=0o777, owner=1000),
            directory("/specs/src", real="/home/user/src"),
            PathFact(path="/media", real="/media", kind="directory", shared=True),
            device("/dev/kvm"),
            PathFact(
                path="/dev/disks",
                real="/dev/disks",
                kind="directory",
                devices=(
                    DeviceNode(path="/a/one", kind="b", major=8, minor=0),
                    DeviceNode(path="/two", kind="c", major=9, minor=1),
                ),
            ),
        ),
        environ={"HOME": "/home/user", "TERM": "vt100"},
        surroundings=Surroundings(
            mounts=("/", "/mnt/base", "/mnt/base/opt", "/mnt/base/tmp/x", "/mnt/base/var"),
            sockets=("/home/user/src/a.sock", "/run/dbus/socket", "/running", "/tmp/b"),
            devices={"/dev/kvm": "", "/dev/disks/a/one": "r", "/dev/disks/two": "rw"},
        ),
    ),
    "network": Machine(
        facts=host(terminal=True, landlock=0),
        paths=(file("/specs/web.json", content=b'{"defaultAction": "SCMP_ACT_ALLOW"}'),),
        environ={"HOME": "/home/user", "LANG": "de_DE.UTF-8", "SSH_AUTH_SOCK": "/run/agent", "TERM": "xterm"},
        surroundings=Surroundings(abstract_sockets=("@/tmp/.X11-unix/X0", "@dbus")),
    ),
    "private": Machine(
        environ={"HOME": "/home/user"},
        paths=(directory("/home/user/root"),),
    ),
    "egress": Machine(
        environ={"HOME": "/home/user"},
        paths=(directory("/home/user/root"),),
    ),
    "networks": Machine(paths=(directory("/home/user/root"),)),
    "variables": Machine(
        paths=(
            file(
                "/specs/web.env",
                content=b"# ours\n\nAPI_TOKEN=secret\nBOTH=from web.env\nALL=hidden\nTWICE=1\nTWICE=2\n",
            ),
        ),
        environ={"LANG": "C.UTF-8", "BOTH": "outer", "ALL": "outer"},
    ),
    "limits": Machine(
        facts=host(
            cgroups=V2Hierarchy(
                directory="/sys/fs/cgroup/user.slice",
                available=frozenset({"memory", "cpu", "pids", "cpuset", "io"}),
                enabled=frozenset(),
                processors="0-7",
            )
        ),
        profiles=("small",),
        assignments=("limits.memory=1G",),
    ),
    "single": Machine(
        facts=host(
            groups=(1000, 27, 44),
            newuidmap=IdHelper(path=None, problem="newuidmap is not installed"),
            hard_limits={**host().hard_limits, "open_files": 1024},
        )
    ),
    "keepid": Machine(facts=host()),
    "joined": Machine(
        joined={
            kind: NamespaceFact(path=f"/proc/9/fd/{number}", identity=(4, number), user=USER_NAMESPACE)
            for number, kind in enumerate(("net", "ipc", "uts", "cgroup"))
        }
    ),
    "hostpid": Machine(),
    "bound": Machine(
        facts=host(
            cgroups=V2Hierarchy(
                directory="/sys/fs/cgroup/user.slice", available=frozenset({"memory"}), enabled=frozenset()
            )
        ),
        paths=(file("/specs/base.tar"),),
    ),
    "rootmap": Machine(facts=host(uid=0, gid=0, user_name="root")),
    "refused": Machine(
        facts=host(
            fuse="missing",
            cgroups=NoHierarchy(reason="the cgroup /user is not delegated to this account", delegable=True),
            hard_limits={**host().hard_limits, "open_files": 1024},
            scopes=NoHierarchy(reason="/run/user/1000/bus: no such file or directory", delegable=True),
            systemd=True,
        ),
        paths=(
            missing("/specs/gone"),
            file("/specs/config"),
            PathFact(path="/dev/kvm", real="/dev/kvm", kind="missing", reason="no such file or directory"),
        ),
        state=StateError("state directory /state belongs to another user", hint="set SANDBOX_STATE_DIR"),
    ),
    "capable": Machine(
        facts=host(
            uid=0,
            gid=0,
            user_name="root",
            cgroups=V1Hierarchy(
                directories=(
                    ("memory", "/sys/fs/cgroup/memory"),
                    ("cpu", "/sys/fs/cgroup/cpu,cpuacct"),
                ),
                files=FilesThatAreThere(),  # type: ignore[arg-type]
            ),
        ),
        paths=(file("/images/debian.tar.zst", owner=0),),
    ),
}


def case(text: str, machine: Machine, name: str = "test") -> Case:
    """Return the case for the environment file *text* on *machine*; host paths without a fact are directories."""
    spec = parse(
        text.encode(),
        path=f"/specs/{name}.toml",
        environ=machine.environ,
        profiles=machine.profiles,
        assignments=machine.assignments,
        unenforced="keep",
    )
    disks = host_details(spec)["disks"]
    paths = {path: directory(path) for path in [*host_paths(spec), *disks]} | {
        fact.path: fact for fact in machine.paths
    }
    made = draft(
        spec,
        machine.facts,
        paths,
        environ=machine.environ,
        state_directory="/state",
        private=PRIVATE,
        joined=machine.joined,
        network=NETWORK,
    )
    return Case(
        spec=spec,
        draft=made,
        facts=machine.facts,
        paths=paths,
        environ=machine.environ,
        state_directory="/state",
        state=machine.state,
        surroundings=machine.surroundings,
    )


def case_of(name: str) -> Case:
    """Return the case for the file *name* in cases/."""
    return case((CASES / f"{name}.toml").read_text(encoding="utf-8"), MACHINES[name], name)
