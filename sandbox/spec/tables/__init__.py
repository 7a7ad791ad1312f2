"""The tables of an environment file: each table is a frozen class, and each key is a field declared by `setting`.

The names follow OCI, compose and cgroups. These modules contain declarations only: codecs check single values, and
`sandbox.spec.rules` checks combinations of settings.

    root        [sandbox] [root]
    process     [process] [health] [restart]
    storage     [[volumes]] [[devices]]
    isolation   [namespaces] [ids] [security]
    network     [network] [networks]
    limits      [limits]
    parts       [sandboxes] [[build]]
"""

from sandbox.spec.tables.isolation import Capabilities, IdRange, Ids, Landlock, Namespaces, Seccomp, Security
from sandbox.spec.tables.limits import IoLimit, Limits
from sandbox.spec.tables.network import Egress, Network, NetworkDefinition
from sandbox.spec.tables.parts import BuildCopy, BuildStep, Member
from sandbox.spec.tables.process import Health, Process, Restart
from sandbox.spec.tables.root import Root, Sandbox
from sandbox.spec.tables.storage import Device, Volume, VolumeCodec

__all__ = [
    "BuildCopy",
    "BuildStep",
    "Capabilities",
    "Device",
    "Egress",
    "Health",
    "IdRange",
    "Ids",
    "IoLimit",
    "Landlock",
    "Limits",
    "Member",
    "Namespaces",
    "Network",
    "NetworkDefinition",
    "Process",
    "Restart",
    "Root",
    "Sandbox",
    "Seccomp",
    "Security",
    "Volume",
    "VolumeCodec",
]
