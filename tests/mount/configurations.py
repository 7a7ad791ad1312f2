"""The configurations in which foreign suites run: what the launcher requests of the server, and the formats of its layers.

The launcher sends a request (unionfs/launch/protocol.py) where the command takes options, and each option here has the effect of a field of
that request. `test_configurations.py` compares the two.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from tests.mount.support import Union
from tests.support.tree import make_tree

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.support.tree import Tree


@dataclass(frozen=True, slots=True)
class Configuration:
    """Options of the command, and whether lower layers have an index, as those that the launcher has unpacked."""

    options: str
    indexed: bool = False

    @property
    def direct(self) -> bool:
        """Whether the direct server serves."""
        return "server=pyfuse3" not in self.options.split(",")

    def union(self, base: str, *lowers: Tree, options: str = "") -> Union:
        """Write *lowers* (top first) below *base* and describe their union with *options* more; it is not mounted yet."""
        paths = [os.path.join(base, f"lower{number}") for number in range(len(lowers))]
        for path, lower in zip(paths, lowers, strict=True):
            make_tree(path, lower)
        return Union(base, paths, options=options, server_options=self.options, indexed=self.indexed)

    def all_options(self, index_directory: str) -> str:
        """Return the options with those of an index in *index_directory*, a path of mode 0700, for another who mounts."""
        if not self.indexed:
            return self.options
        return f"{self.options},index_dir={index_directory},index_build=first"


#: By field of `ServedStack` (unionfs/launch/protocol.py), the option of the command that has its effect.
OPTION_OF: Mapping[str, str] = MappingProxyType(
    {
        "volatile": "volatile",
        "server": "server=pyfuse3",
        "open_requests": "open_requests=off",
        "size": "size=4g",
        "inodes": "inodes=500000",
    }
)
#: Fields that no suite depends on, and fields of descriptors, which every configuration has.
NOT_VARIED = frozenset(("layers", "upper_fd", "work_fd", "index_fd", "hidden"))

_OF_SANDBOX = {
    # Over unpacked archives, which nobody changes (needs_open_requests, sandbox/plan/storage.py).
    "ephemeral-over-archives": Configuration("volatile,open_requests=off", indexed=True),
    "persistent-over-archives": Configuration("open_requests=off", indexed=True),
    "ephemeral-over-directories": Configuration("volatile"),
    "persistent-over-directories": Configuration(""),
    "bounded": Configuration("volatile,open_requests=off,size=4g,inodes=500000", indexed=True),
    "pyfuse3": Configuration("volatile,server=pyfuse3"),
}
#: What the writable layer's format depends on in the launcher: the user namespace and what the file system can hold.
_OF_FORMAT = {
    # A server in a user namespace writes user.overlay.*.
    "user-marks": Configuration("volatile,open_requests=off,userxattr", indexed=True),
    # Where users cannot make device whiteouts.
    "aufs": Configuration("volatile,open_requests=off,whiteouts=aufs", indexed=True),
    # A map of a single id.
    "single-id": Configuration("volatile,open_requests=off,xattr_permissions=2", indexed=True),
}
CONFIGURATIONS: Mapping[str, Configuration] = MappingProxyType(_OF_SANDBOX | _OF_FORMAT)
