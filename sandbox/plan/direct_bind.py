"""Plan direct binds: directories that are bind-mounted from the one layer that has them.

Only the layer store can find that layer, so the plan does not name it.
"""

from __future__ import annotations

from sandbox.plan.findings import Findings
from sandbox.plan.operations import DirectBind
from sandbox.spec.model import Spec


def plan_direct_binds(
    spec: Spec, capabilities: frozenset[str], findings: Findings, *, own_user: bool
) -> tuple[DirectBind, ...]:
    """Return the direct binds in mount order; an empty tuple if none is possible.

    *own_user* tells whether the sandbox has its own user namespace.
    """
    problem = bind_problem(spec, capabilities, own_user=own_user)
    optional = "native" in spec.root.optional
    if spec.root.native and problem is not None:
        reason, hint = problem
        if optional:
            findings.degrade("root.native", None, reason)
        else:
            findings.refuse("root.native", reason, hint)
        return ()
    steps = [
        DirectBind(
            target=path,
            nosuid=spec.security.no_new_privileges,
            key=f"root.native[{number}]",
            optional=optional,
        )
        for number, path in enumerate(spec.root.native)
    ]
    return tuple(sorted(steps, key=lambda step: step.target.split("/")))


def bind_problem(spec: Spec, capabilities: frozenset[str], *, own_user: bool) -> tuple[str, str] | None:
    """Return the reason why no part of a layer can be bound for a program with *capabilities*, and a hint; None if it can."""
    if all(layer.kind == "dir" for layer in spec.root.layers):
        return (
            "no layer is an archive: a directory of the host is not bound, because the program could connect to sockets in it",
            "remove the setting, or pack the directory into an archive: tar -C DIRECTORY -cf LAYER.tar .",
        )
    mounted = next((layer for layer in spec.root.layers if layer.mount), None)
    if mounted is not None:
        return (
            f"{mounted.shown()} is mounted, not unpacked, so it has no directories that could be bound",
            'remove the setting, or remove "mount = true"',
        )
    if "SYS_ADMIN" in capabilities:
        return (
            "with SYS_ADMIN the program could make the direct bind writable, and change the layer of every sandbox that uses it",
            "remove one of the two",
        )
    if not own_user:
        return (
            "root of the joined user namespace could make the direct bind writable, and change the layer",
            "remove one of the two",
        )
    return None
