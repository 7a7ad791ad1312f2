"""Plan a sandbox: turn a spec and the facts of this machine into a plan, an ordered set of values, without side effects.

    operations   the operations inside the namespaces, as values
    values       the plan and its parts; `describe`
    findings     refusals, and degradations from what the file asks for
    ids, namespaces, private, storage, volumes, direct_bind, root, limits, environment, process, filters
                 one part of the plan each
    exposure     what the program can change of its own next start
    kept         persistent layers in the state directory, and which file may use each
    mount_order  the order of the operations
    make         the whole plan: `make_plan` raises the refusals, `draft` returns them with the rest of the plan

A module imports only modules that are listed above it, or before it in its line. Every refusal is made here, before anything
is changed, and gives the place of the setting in the file. No setting is dropped silently: it is in the plan, it is refused,
or, if the file allows that, it is a `Degradation`.
"""

from sandbox.plan.environment import DEFAULT_PATH, Variable, parse_variables
from sandbox.plan.exposure import exposures
from sandbox.plan.findings import written
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
from sandbox.plan.persistent_state import PersistentLayer, PersistentState
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
    "LayerPlan",
    "LayerRecord",
    "MountPoint",
    "NamedVolume",
    "PersistentLayer",
    "PersistentState",
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
