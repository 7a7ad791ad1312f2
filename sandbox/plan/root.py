"""The root: served by unionfs, or the one layer itself. What that layer has only the store can tell."""

from __future__ import annotations

from sandbox.plan.direct_bind import bind_problem
from sandbox.plan.findings import Findings
from sandbox.plan.operations import BindRoot, MountRoot
from sandbox.spec.model import Spec

_KEY = "root.server"


def may_need_no_server(spec: Spec) -> bool:
    """Tell whether *spec* may be one whose root is bound, by what costs nothing to ask: a server need not be started yet."""
    kinds = [layer.kind for layer in spec.root.layers]
    return spec.root.server in ("auto", "none") and spec.root.writable == "none" and kinds == ["tar"]


def plan_root(
    spec: Spec, capabilities: frozenset[str], private: frozenset[str], findings: Findings
) -> MountRoot | BindRoot:
    """Return how the root is had; *private* are the kinds of namespaces that are the sandbox's own."""
    nosuid = spec.security.no_new_privileges
    served = MountRoot(read_only=spec.root.writable == "none", nosuid=nosuid)
    if spec.root.server not in ("auto", "none"):
        return served
    problem = _problem(spec, capabilities, private)
    asked, optional = spec.root.server == "none", "server" in spec.root.optional
    if problem is None:
        return BindRoot(nosuid=nosuid, otherwise="serve" if not asked else "warn" if optional else "refuse")
    if asked and optional:
        findings.differ(_KEY, None, problem[0])
    elif asked:
        findings.refuse(_KEY, *problem)
    return served


def _problem(spec: Spec, capabilities: frozenset[str], private: frozenset[str]) -> tuple[str, str] | None:
    """Return why the root has to be served, and what to do."""
    if spec.root.writable != "none":
        return (
            "changes to the root need somebody to keep them in a layer of their own",
            'set root.writable = "none", or remove it',
        )
    if len(spec.root.layers) != 1:
        return (
            f"there are {len(spec.root.layers)} layers, and somebody has to show them as one",
            "pack them into one archive, or remove it",
        )
    if "pid" not in private:
        return (
            "without a pid namespace of its own, its processes are found by what the mount table calls the root",
            "remove one of the two",
        )
    return bind_problem(spec, capabilities, own_user="user" in private)
