"""For each setting of the language, make a valid file that sets it."""

from __future__ import annotations

from typing import Any

import tomli_w

from sandbox.spec.lookup import declarations
from sandbox.spec.settings import Setting
from sandbox.spec.values import LayerTable

ALL = dict(declarations()) | {f"layer.{key}": value for key, value in declarations(LayerTable)}

# The other settings that a file must have so that the example of a setting is valid.
BESIDE: dict[str, dict[str, Any]] = {
    "limits.swap": {"limits.memory": "1G"},
    "volumes[].source": {"volumes[].type": "bind"},
    "volumes[].target": {"volumes[].type": "tmpfs"},
    "volumes[].type": {"volumes[].source": "."},
    "volumes[].read_only": {"volumes[].type": "tmpfs"},
    "volumes[].size": {"volumes[].type": "tmpfs"},
    "volumes[].mode": {"volumes[].type": "tmpfs"},
    "volumes[].options": {"volumes[].type": "tmpfs"},
    "volumes[].propagation": {"volumes[].type": "bind", "volumes[].source": "."},
    "volumes[].content": {"volumes[].type": "file"},
    "network.networks": {"networks.backend": {}},
    "network.aliases": {"network.networks": ["backend"], "networks.backend": {}},
    "restart.max": {"restart.policy": "always"},
    "restart.delay": {"restart.policy": "always"},
    "build[].network": {"build[].run": "make"},
    "sandboxes.NAME.depends_on": {"sandboxes.db.file": "db.toml"},
    "ids.uid_map": {"ids.gid_map": [{"inside": 0, "outside": 1, "count": 1}]},
    "ids.gid_map": {"ids.uid_map": [{"inside": 0, "outside": 1, "count": 1}]},
}


def with_example(key: str, setting: Setting[Any], value: object = None) -> str:
    """Return a file that sets *key* to its example or to *value*, with the other settings that it needs."""
    value = setting.example if value is None else value
    tree: dict[str, Any] = {"root": {"layers": ["dir:/"]}}
    for other, needed in BESIDE.get(key, {}).items():
        place(tree, other, needed)
    if key.startswith("network.") and key not in ("network.mode", "network.hosts", "network.optional"):
        place(tree, "network.mode", "private")
    if key.startswith("ids.uid_map[]"):
        place(tree, "ids.gid_map", [{"inside": 0, "outside": 1, "count": 1}])
    if key.startswith("ids.gid_map[]"):
        place(tree, "ids.uid_map", [{"inside": 0, "outside": 1, "count": 1}])
    if key.startswith("layer."):
        kind = {"dir": "x"} if key.endswith((".cross", ".immutable")) else {}
        kind |= {"tar": "x"} if key.endswith(".mount") else {}
        tree["root"]["layers"] = [{**kind, key.removeprefix("layer."): value}]
    elif key.startswith("profile"):
        tree["profile"] = value
    else:
        place(tree, key, value)
        complete(tree, key)
    return tomli_w.dumps(tree)


def place(tree: dict[str, Any], key: str, value: object) -> None:
    """Set *key*, as `keys` writes it, in *tree*, and create the tables and elements around it."""
    node: Any = tree
    *parents, last = key.split(".")
    for part in parents:
        name = "web" if part == "NAME" else part.removesuffix("[]")
        node = node.setdefault(name, [{}])[0] if part.endswith("[]") else node.setdefault(name, {})
    node[last] = value


def complete(tree: dict[str, Any], key: str) -> None:
    """Add the required settings to the tables around *key*."""
    for other, setting in ALL.items():
        around = other.rpartition(".")[0]
        inside = (
            key == around
            or key.startswith((f"{around}.", f"{around}[]."))
            or key == around.removesuffix("[]")
        )
        if setting.required and around and inside and other != key:
            node: Any = tree
            for part in around.split("."):
                name = "web" if part == "NAME" else part.removesuffix("[]")
                node = node[name][0] if part.endswith("[]") else node[name]
            node.setdefault(other.rpartition(".")[2], setting.example)
