"""Convert the configuration of an image to that of a bundle (image-spec, conversion.md; runtime-spec 1.0, config.md). Pure.

What the image does not decide is as in a sandbox: the default capabilities, no new privileges, the masked paths, and namespaces of
its own, so that the network has the loopback interface alone. There is no seccomp filter.

The image's volumes get no mounts: the root file system of a bundle is a copy, which the program may change.
"""

from __future__ import annotations

from sandbox.images.oci.image_config import ImageConfig
from sandbox.kernel.capabilities import DEFAULT
from sandbox.kernel.idmaps import IdMap, lookup
from sandbox.kernel.masked_paths import MASKED_PATHS, READONLY_PATHS
from unionfs._stdlib.dataclasses import dataclass
from unionfs._stdlib.typing import Any

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

ROOT_FILE_SYSTEM = "rootfs"
"""The directory of the root file system in a bundle."""

_VERSION = "1.0.2"
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_DEFAULT_COMMAND = ("sh",)  # as of umoci
_TTY_GROUP = 5  # the group of terminals in all distributions
_ANNOTATION = "org.opencontainers.image."
_SEALED = ["nosuid", "noexec", "nodev"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleOptions:
    """What the configuration of an image does not decide about a bundle."""

    #: The maps of a user namespace. Without them root has to run the bundle, with the host's ids.
    uid_map: tuple[IdMap, ...] = ()
    gid_map: tuple[IdMap, ...] = ()
    #: Whether an ordinary user runs the bundle, which then needs maps. runc refuses supplementary groups there.
    rootless: bool = False
    hostname: str = "sandbox"
    terminal: bool = False
    read_only: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessUser:
    """The ids that the program runs with."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()


def runtime_config(image: ImageConfig, user: ProcessUser, options: BundleOptions) -> dict[str, Any]:
    """Return the document config.json for *image*, whose user has the ids *user*."""
    config: dict[str, Any] = {
        "ociVersion": _VERSION,
        "root": {"path": ROOT_FILE_SYSTEM, "readonly": options.read_only},
        "hostname": options.hostname,
        "process": _process(image, user, options),
        "mounts": _mounts(options),
        "linux": _linux(options),
    }
    annotations = _annotations(image)
    if annotations:
        config["annotations"] = annotations
    return config


def _process(image: ImageConfig, user: ProcessUser, options: BundleOptions) -> dict[str, Any]:
    defaults = image.process
    # An entry without a name or a value sets nothing, and runtimes differ about it.
    env = [entry for entry in defaults.env if entry.find("=") > 0]
    if not any(entry.startswith("PATH=") for entry in env):
        env.append(f"PATH={_DEFAULT_PATH}")
    process: dict[str, Any] = {
        "terminal": options.terminal,
        "user": {"uid": user.uid, "gid": user.gid},
        "args": list((*defaults.entrypoint, *defaults.cmd) or _DEFAULT_COMMAND),
        "env": env,
        "cwd": f"/{defaults.working_dir.lstrip('/')}",
        "noNewPrivileges": True,
        "capabilities": _capabilities(is_root=user.uid == 0),
    }
    if user.groups:
        process["user"]["additionalGids"] = list(user.groups)
    return process


def _capabilities(*, is_root: bool) -> dict[str, list[str]]:
    """Return the sets of the program. Another user than root has none, as after execve(2) by root; capabilities(7)."""
    names = sorted(f"CAP_{name}" for name in DEFAULT)
    effective = names if is_root else []
    return {"bounding": names, "effective": effective, "permitted": effective}


def _mounts(options: BundleOptions) -> list[dict[str, Any]]:
    terminals = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]
    if not options.gid_map or lookup(options.gid_map, _TTY_GROUP) is not None:
        terminals.append(f"gid={_TTY_GROUP}")
    mounts = [
        _mount("/proc", "proc", "proc", _SEALED),
        _mount("/dev", "tmpfs", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
        _mount("/dev/pts", "devpts", "devpts", terminals),
        _mount("/dev/shm", "tmpfs", "shm", [*_SEALED, "mode=1777", "size=65536k"]),
        _mount("/dev/mqueue", "mqueue", "mqueue", _SEALED),
        _mount("/sys", "sysfs", "sysfs", [*_SEALED, "ro"]),
    ]
    if not options.uid_map:  # an ordinary user may be unable to mount cgroups of version 1
        mounts.append(_mount("/sys/fs/cgroup", "cgroup", "cgroup", [*_SEALED, "relatime", "ro"]))
    return mounts


def _mount(destination: str, kind: str, source: str, options: Iterable[str]) -> dict[str, Any]:
    return {"destination": destination, "type": kind, "source": source, "options": list(options)}


def _linux(options: BundleOptions) -> dict[str, Any]:
    kinds = ["pid", "network", "ipc", "uts", "mount", "cgroup"]
    linux: dict[str, Any] = {
        # Runtimes take the paths as they are, so those with a "*" cannot be among them.
        "maskedPaths": [path for path in MASKED_PATHS if "*" not in path],
        "readonlyPaths": list(READONLY_PATHS),
    }
    if options.uid_map:
        kinds.append("user")
        linux["uidMappings"] = _mappings(options.uid_map)
        linux["gidMappings"] = _mappings(options.gid_map)
    else:
        # The runtime allows its own list of devices, such as /dev/null; an ordinary user's runtime can deny none.
        linux["resources"] = {"devices": [{"allow": False, "access": "rwm"}]}
    linux["namespaces"] = [{"type": kind} for kind in kinds]
    return linux


def _mappings(id_map: Iterable[IdMap]) -> list[dict[str, int]]:
    return [{"containerID": entry.inside, "hostID": entry.outside, "size": entry.count} for entry in id_map]


def _annotations(image: ImageConfig) -> dict[str, str]:
    """Return the image's labels, and what else conversion.md makes annotations of; labels have precedence."""
    platform = image.platform
    implied = {
        "os": platform.os,
        "architecture": platform.architecture,
        "variant": platform.variant,
        "os.version": platform.os_version,
        "os.features": ",".join(platform.os_features),
        "author": image.author,
        "created": image.created,
        "stopSignal": image.process.stop_signal,
        "exposedPorts": ",".join(image.process.exposed_ports),
    }
    found = {f"{_ANNOTATION}{name}": value for name, value in implied.items() if value}
    # runtime-spec, config.md, "Annotations": a key must not be empty.
    return {**found, **{key: value for key, value in image.process.labels.items() if key}}
