"""Map words of compose, podman, docker, bubblewrap and systemd-nspawn to keys and values of the language.

Imported only when a file has an unknown key or value. A meaning is a key of the language or, if it contains a space, a
complete hint.
"""

from __future__ import annotations

from collections.abc import Mapping

from sandbox.spec.notation import KeyPath, format_key, format_key_path, literal, type_name
from sandbox.spec.settings import Invalid, settings_of
from sandbox.spec.short_forms import parse_volume
from unionfs._stdlib.typing import Any


def _words(meanings: Mapping[str, str]) -> dict[str, str]:
    """Return the meaning of each word; *meanings* maps a meaning to its words, separated by blanks."""
    return {word: meaning for meaning, words in meanings.items() for word in words.split()}


KEYS: Mapping[str, str] = _words({
    # the program
    "process.command": "cmd entrypoint exec program run",
    "process.cwd": "workdir working_dir workingdir working_directory chdir pwd directory",
    "process.env": "environment environ setenv variables envs",
    "process.env_file": "env_files environment_file",
    "process.user": "uid username run_as runas",
    "process.groups": "gid group_add supplementary_groups additional_gids",
    "process.terminal": "tty pty interactive stdin_open",
    "process.stop_timeout": "stop_grace_period kill_timeout",
    "process.stop_signal": "kill_signal stopsignal",
    # the root
    "root.layers": "image images rootfs base from lower lowerdir overlay overlays",
    'write writable = "none" in [root] for a read-only root': "read_only readonly ro",
    "root.writable": "persistent ephemeral volatile",
    # volumes and devices
    "volumes": "volume mounts mount bind binds tmpfs storage",
    "devices": "device",
    # limits
    "limits.wall_time": "timeout time_limit max_time walltime runtime_max",
    "limits.memory": "memory_limit mem_limit memory_max max_memory mem ram",
    "limits.memory_high": "mem_reservation memory_reservation",
    "limits.swap": "memswap memswap_limit memory_swap swap_max",
    "limits.cpus": "cpu cpu_limit cpu_quota nano_cpus cpu_count",
    "limits.cpu_weight": "cpu_shares",
    "limits.cpuset": "cpuset_cpus",
    "limits.pids": "pids_limit pids_max tasks_max max_pids max_processes",
    "limits.open_files": "nofile ulimit ulimits",
    "limits.io": "blkio_config device_read_bps device_write_bps io_max",
    "limits.oom_score_adj": "oom_score",
    # names
    "sandbox.name": "container_name",
    "sandbox.hostname": "host_name",
    # the network
    "network.mode": "network_mode",
    "network.ports": "port publish expose forward_ports",
    "network.hosts": "extra_hosts add_host",
    "network.dns": "dns_servers nameserver nameservers resolv_conf",
    "network.search": "dns_search",
    # rights
    "security.capabilities.add": "cap_add",
    "security.capabilities.drop": "cap_drop",
    "security.no_new_privileges": "no_new_privs",
    "security.seccomp": "security_opt seccomp_profile syscall_filter system_call_filter",
    "security.masked_paths": "inaccessible_paths inaccessible",
    "there is no privileged mode: list the capabilities in security.capabilities.add, and devices in [[devices]]": "privileged",
    # ids and namespaces
    "ids.map": "userns userns_mode private_users",
    "namespaces": "unshare share_namespaces",
    # files
    "extends": "include includes inherit inherits import",
    "profile": "profiles",
    "health": "healthcheck",
    "sandboxes": "services containers",
    "write depends_on in [sandboxes.NAME]": "depends_on depends",
    "remove it: environment files have no version number": "version",
})  # fmt: skip

KEYS_INSIDE: Mapping[str, Mapping[str, str]] = {
    "volumes": _words({
        "volumes[].source": "src from host host_path hostpath what device",
        "volumes[].target": "destination dest dst to path mountpoint mount_point container_path guest where mount_path",
        "volumes[].read_only": "readonly ro",
        "remove it: volumes are writable unless read_only = true": "rw writable write",
        "volumes[].content": "text data contents inline",
        "volumes[].mode": "perm perms permissions",
        "volumes[].size": "tmpfs_size",
        "volumes[].type": "driver kind fstype",
        "volumes[].options": "option opts mount_options",
        "write the name of a named volume as its source": "name",
    }),
    "devices": _words({
        "devices[].path": "source src host from",
        "devices[].target": "destination dest dst to",
    }),
    "network": _words({"network.mode": "type driver kind"}),
    "process": _words({"process.cwd": "dir", "process.command": "path"}),
    "limits": _words({"limits.cpu_time": "cputime", "limits.wall_time": "time"}),
}  # fmt: skip
"""Words that have another meaning inside a table than elsewhere."""

VALUES: Mapping[str, Mapping[str, str]] = {
    "volumes[].type": _words({
        "named": "volume persistent",
        "bind": "rbind ro-bind dir directory path mount host hostpath",
        "tmpfs": "memory ramdisk ramfs mem",
        "file": "config secret content inline text",
    }),
    "network.mode": _words({
        "private": "bridge slirp4netns pasta default nat",
        "none": "no off false disabled disable isolated",
        "host": "yes on true",
    }),
    "root.writable": _words({
        "none": "no off false ro readonly read-only",
        "ephemeral": "yes true rw tmpfs volatile overlay temporary",
        "persistent": "keep kept",
    }),
    "ids.map": _words({"single": "none", "auto": "host nomap"}),
    "restart.policy": _words({"always": "unless-stopped"}),
}  # fmt: skip

MAIN_KEYS: Mapping[str, str] = {
    "network": "mode",
    "restart": "policy",
    "health": "command",
    "process": "command",
    "root": "layers",
    "sandbox": "name",
    "ids": "map",
    "limits": "memory",
    "security": "seccomp",
}
"""For each table, the key that is meant when a value is written in place of the table."""


def meaning_of_key(word: str, around: KeyPath, root: type) -> tuple[str, str | None] | None:
    """Return what to write instead of the unknown key *word* in the table *around*, and the key of that table that it means.

    The key is None if the meaning is no key of *around*. Returns None if *word* has no known meaning.
    """
    profile, inside = _split(around)
    table = str(inside[0]) if inside else ""
    folded = word.replace("-", "_").casefold()
    meaning = KEYS_INSIDE.get(table, {}).get(folded) or (KEYS.get(folded) if len(inside) < 2 else None)
    if meaning is None:
        return None
    if " " in meaning:
        return meaning, None
    header, _, key = meaning.rpartition(".")
    if not header:
        return f"write {_header(profile + meaning, settings_of(root)[meaning])}", None
    if header.removesuffix("[]") == table:
        return f"did you mean {key}?", key
    return f"write {key} in [{profile}{header}]", None


def meaning_of_value(value: str, path: KeyPath) -> str | None:
    """Return the value of the language that *value* at *path* means; None if no other program uses that word."""
    _, inside = _split(path)
    key = "".join("[]" if isinstance(part, int) else f".{part}" for part in inside).removeprefix(".")
    return VALUES.get(key, {}).get(value.casefold())


def hint_for_table(value: object, path: KeyPath, root: type) -> str | None:
    """Return how to write *value*, found in place of the table at *path*; None if no key of the table takes such a value."""
    profile, inside = _split(path)
    table = str(inside[0]) if len(inside) == 1 else ""
    key = MAIN_KEYS.get(table)
    codec = None if key is None else settings_of(root)[table].codec.inside(key)
    if codec is None or not value or type_name(value) not in codec.toml_types:
        return None
    return f"write [{profile}{table}], and below it {key} = {literal(value)}"


def hint_for_misplaced_key(key: str, value: object, around: KeyPath, root: type) -> str | None:
    """Return the hint for *key*, a top-level key that TOML assigns to the table *around* before it; None for other keys."""
    profile, inside = _split(around)
    setting = settings_of(root).get(key)
    if setting is None or not inside:
        return None
    header = _header(profile + key, setting)
    below = f"all keys below [{format_key_path(around)}] belong to that table"
    if not header.startswith("["):
        return f"move it above the first [table]: {below}"
    return f"write {header}{_as_table(value)}: {below}"


def _as_table(value: object) -> str:
    """Return the settings of the first volume of *value*, if it is written as container engines write volumes; else ""."""
    if not isinstance(value, list) or not value or not isinstance(value[0], str):
        return ""
    try:
        table = parse_volume(value[0])
    except Invalid:
        return ""
    return f" with {', '.join(f'{key} = {literal(item)}' for key, item in table.items())}"


def _header(key: str, setting: Any) -> str:
    """Return how the top-level setting *key* starts in a file: its header, or its place."""
    element = setting.codec.inside(0)
    if element is not None and element.toml_types == ("table",):
        return f"[[{key}]]"
    if "table" not in setting.codec.toml_types:
        return f"{key} above the first [table]"
    return f"[{key}.NAME]" if setting.codec.inside("NAME") is not None and key in _NAMED else f"[{key}]"


_NAMED = ("profile", "networks", "sandboxes")


def _split(path: KeyPath) -> tuple[str, KeyPath]:
    """Return the header prefix of the profile that *path* is in, and *path* within that profile."""
    if path[:1] == ("profile",) and len(path) > 1:
        return f"profile.{format_key(str(path[1]))}.", path[2:]
    return "", path
