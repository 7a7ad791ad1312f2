"""Facts of machines that do not exist, to plan for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sandbox.host.facts import HostFacts, IdHelper
from sandbox.host.network_facts import NetworkFacts
from sandbox.host.paths import DeviceNode, PathFact
from sandbox.host.private_directories import PrivateDirectory, PrivateFacts
from sandbox.kernel.cgroups import NoHierarchy
from sandbox.kernel.idmaps import IdMap, SubidRange
from sandbox.kernel.namespaces import NamespaceFact
from sandbox.kernel.rlimits import RESOURCES, UNLIMITED
from sandbox.plan import Plan, host_details, host_paths, make_plan
from sandbox.plan.image_values import NO_IMAGES, StoredImage
from sandbox.plan.images import with_image_defaults
from sandbox.spec.load import parse

#: A machine with pasta and two name servers.
NETWORK = NetworkFacts(
    pasta="/usr/bin/pasta",
    nft="/usr/sbin/nft",
    resolv_conf=b"nameserver 127.0.0.53\nnameserver 192.0.2.53\nsearch lan\n",
)

PRIVATE = PrivateFacts(
    directories=(
        PrivateDirectory(name="state directory", path="/state", variable="SANDBOX_STATE_DIR", readable=True),
        PrivateDirectory(name="run directory", path="/run/sandbox", variable="SANDBOX_RUN_DIR"),
    )
)
EVERY_ID = (IdMap(inside=0, outside=0, count=2**32 - 1),)


def host(**changes: Any) -> HostFacts:
    """Return an ordinary user's machine: uid 1000, subordinate ids, /dev/fuse, no cgroup."""
    facts: dict[str, Any] = {
        "uid": 1000,
        "gid": 1000,
        "user_name": "user",
        "groups": (1000,),
        "uid_ranges": (SubidRange(start=100000, count=65536),),
        "gid_ranges": (SubidRange(start=100000, count=65536),),
        "own_uid_map": EVERY_ID,
        "own_gid_map": EVERY_ID,
        "newuidmap": IdHelper(path="/usr/bin/newuidmap", problem=None),
        "newgidmap": IdHelper(path="/usr/bin/newgidmap", problem=None),
        "fuse": "ok",
        "cgroups": NoHierarchy(reason="there is none"),
        "kernel_version": (6, 12),
        "terminal": False,
        "hard_limits": dict.fromkeys(RESOURCES, UNLIMITED),
        "seccomp_actions": frozenset({"errno", "log", "user_notif", "allow"}),
        "libseccomp": "2.6.0",
        "landlock": 6,
    }
    return HostFacts(**{**facts, **changes})


def directory(path: str, real: str | None = None) -> PathFact:
    """Return the fact of a directory that is there."""
    return PathFact(path=path, real=real or path, kind="directory", identity=(1, 2), device="8:0")


def device(path: str, *, kind: str = "c", numbers: tuple[int, int] = (10, 232)) -> PathFact:
    """Return the fact of a device node."""
    node = DeviceNode(path="", kind=kind, major=numbers[0], minor=numbers[1])
    return PathFact(path=path, real=path, kind="file", devices=(node,))


def plan(
    text: str,
    facts: HostFacts | None = None,
    paths: Mapping[str, PathFact] | None = None,
    environ: Mapping[str, str] | None = None,
    command: tuple[str, ...] | None = None,
    joined: Mapping[str, NamespaceFact] | None = None,
    private: PrivateFacts = PRIVATE,
    images: Mapping[int, StoredImage] = NO_IMAGES,
    network: NetworkFacts = NETWORK,
) -> Plan:
    """Plan the environment file *text*; host paths without a fact are directories that are there.

    *images* are those of the store, by the number of their layer.
    """
    spec = parse(text.encode(), path="/specs/test.toml", environ={"HOME": "/home/user", **(environ or {})})
    spec = with_image_defaults(spec, images)
    known = {path: directory(path) for path in [*host_paths(spec), *host_details(spec)["disks"]]}
    return make_plan(
        spec,
        facts or host(),
        {**known, **(paths or {})},
        environ=environ or {},
        state_directory="/state",
        private=private,
        joined=joined,
        command=command,
        images=images,
        network=network,
    )
