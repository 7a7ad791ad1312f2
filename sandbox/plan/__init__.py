"""From a spec and the facts of this machine to a plan: what will be done, in order, all of it values. Pure.

    values      the plan, and what it is made of; `describe`
    findings    what is refused, and what will differ from what the file asks for
    exposure    what the program can change of its own next start
    kept        persistent layers that are kept, and for whom
    operations  what happens inside the namespaces, as values; mount_order puts it in order
    ids, namespaces, native, root, private, storage, volumes, limits, environment, process, filters      one part of the plan each
    make        the whole: `make_plan`, which refuses, and `draft`, which goes on and says what is refused

A line imports only lines above it. Every refusal is made here, before anything is touched, and points at its place in
the file. Nothing that was asked for is dropped: it is in the plan, or it is refused, or, where the file allows that, it
is a `Degradation`.
"""

from sandbox.plan.environment import DEFAULT_PATH, Variable, parse_variables
from sandbox.plan.exposure import exposures
from sandbox.plan.findings import written
from sandbox.plan.kept import Kept, KeptLayer
from sandbox.plan.limits import wants_cgroup
from sandbox.plan.make import (
    Draft,
    draft,
    fuse_problem,
    host_details,
    host_files,
    host_paths,
    make_plan,
)
from sandbox.plan.process import DEFAULT_COMMAND
from sandbox.plan.root import may_need_no_server
from sandbox.plan.values import (
    CGROUP_LEVELS,
    Degradation,
    IdPlan,
    LayerPlan,
    LayerRecord,
    MountPoint,
    NamedVolume,
    Plan,
    ProcessPlan,
    SeccompPlan,
    as_dict,
    default_name,
    describe,
    warnings_of,
)

__all__ = [
    "CGROUP_LEVELS",
    "DEFAULT_COMMAND",
    "DEFAULT_PATH",
    "Degradation",
    "Draft",
    "IdPlan",
    "Kept",
    "KeptLayer",
    "LayerPlan",
    "LayerRecord",
    "MountPoint",
    "NamedVolume",
    "Plan",
    "ProcessPlan",
    "SeccompPlan",
    "Variable",
    "as_dict",
    "default_name",
    "describe",
    "draft",
    "exposures",
    "fuse_problem",
    "host_details",
    "host_files",
    "host_paths",
    "make_plan",
    "may_need_no_server",
    "parse_variables",
    "wants_cgroup",
    "warnings_of",
    "written",
]
