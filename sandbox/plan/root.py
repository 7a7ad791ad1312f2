"""Plan the root: served by unionfs, or a direct bind of the only layer.

Only the layer store can read the layer's content, so it decides later whether the layer can be the root.
"""

from __future__ import annotations

from sandbox.plan.direct_bind import bind_problem
from sandbox.plan.findings import Findings
from sandbox.plan.operations import BindRoot, MountRoot
from sandbox.spec.model import Spec

_KEY = "root.server"


def may_need_no_server(spec: Spec) -> bool:
    """Tell from settings alone whether the root of *spec* may be a direct bind, so that the server need not be started early."""
    kinds = [layer.kind for layer in spec.root.layers if not layer.mount]
    only = len(spec.root.layers) == 1 and kinds == ["tar"]
    return spec.root.server in ("auto", "none") and spec.root.writable == "none" and only


def plan_root(
    spec: Spec, capabilities: frozenset[str], private: frozenset[str], findings: Findings
) -> MountRoot | BindRoot:
    """Return the operation that provides the root; *private* are the kinds of the sandbox's own namespaces."""
    nosuid = spec.security.no_new_privileges
    served = MountRoot(read_only=spec.root.writable == "none", nosuid=nosuid)
    if spec.root.server not in ("auto", "none"):
        return served
    problem = _problem(spec, capabilities, private)
    required, optional = spec.root.server == "none", "server" in spec.root.optional
    if problem is None:
        return BindRoot(
            nosuid=nosuid, otherwise="serve" if not required else "warn" if optional else "refuse"
        )
    if required and optional:
        findings.degrade(_KEY, None, problem[0])
    elif required:
        findings.refuse(_KEY, *problem)
    return served


def _problem(spec: Spec, capabilities: frozenset[str], private: frozenset[str]) -> tuple[str, str] | None:
    """Return the reason why the root cannot be a direct bind, and a hint; None if it may be one."""
    if spec.root.writable != "none":
        return (
            "a writable root needs the file system server",
            'set root.writable = "none", or remove server = "none"',
        )
    if len(spec.root.layers) != 1:
        return (
            f"there are {len(spec.root.layers)} layers, and only the file system server can merge them",
            'pack them into one archive, or remove server = "none"',
        )
    if "pid" not in private:
        return (
            "without its own pid namespace, the processes of the sandbox are found by the name that the server gives the root in the mount table",
            "remove one of the two",
        )
    return bind_problem(spec, capabilities, own_user="user" in private)
