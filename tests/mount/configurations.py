"""The configurations in which third-party suites run: the options that the launcher uses, and the formats of its layers.

The launcher sends a request (unionfs/launch/protocol.py) instead of the command's options. Each option here has the effect
of a field of that request. `test_configurations.py` compares the two.
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
    """Options of the command, and whether the lower layers have an index, as unpacked layers of the launcher have."""

    options: str
    indexed: bool = False
    #: The lower layers are archives that are mounted instead of unpacked. They have no other index.
    archived: bool = False

    @property
    def direct(self) -> bool:
        """Whether the direct server serves."""
        return "server=pyfuse3" not in self.options.split(",")

    def union(self, base: str, *lowers: Tree, options: str = "") -> Union:
        """Write *lowers* (top first) below *base* and return their unmounted union, with further *options*."""
        paths = [os.path.join(base, f"lower{number}") for number in range(len(lowers))]
        for path, lower in zip(paths, lowers, strict=True):
            make_tree(path, lower)
        return Union(
            base,
            paths,
            options=options,
            server_options=self.options,
            indexed=self.indexed,
            archived=self.archived,
        )

    def all_options(self, index_directory: str) -> str:
        """Return the options for another mount command, with an index in *index_directory*, whose mode must be 0700."""
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
#: Fields on which no suite depends, and fields of descriptors, which every configuration has. Layers that are fetched are served
#: as mounted archives once their contents are there; tests/e2e/test_lazy_images.py has what differs.
NOT_VARIED = frozenset(
    ("layers", "upper_fd", "work_fd", "later_fd", "next_fds", "index_fd", "fetcher_fd", "hidden")
)

_OF_SANDBOX = {
    # Over unpacked archives, which never change (needs_open_requests, sandbox/plan/storage.py).
    "ephemeral-over-archives": Configuration("volatile,open_requests=off", indexed=True),
    "persistent-over-archives": Configuration("open_requests=off", indexed=True),
    "ephemeral-over-directories": Configuration("volatile"),
    "persistent-over-directories": Configuration(""),
    "bounded": Configuration("volatile,open_requests=off,size=4g,inodes=500000", indexed=True),
    "pyfuse3": Configuration("volatile,server=pyfuse3"),
}
#: In the launcher, the format of the writable layer depends on the user namespace and on the file system.
_OF_FORMAT = {
    # A server in a user namespace writes user.overlay.*.
    "user-marks": Configuration("volatile,open_requests=off,userxattr", indexed=True),
    # Where users cannot make device whiteouts.
    "aufs": Configuration("volatile,open_requests=off,whiteouts=aufs", indexed=True),
    # A map of a single id.
    "single-id": Configuration("volatile,open_requests=off,xattr_permissions=2", indexed=True),
}
CONFIGURATIONS: Mapping[str, Configuration] = MappingProxyType(_OF_SANDBOX | _OF_FORMAT)
#: The same over mounted archives. Suites that mount by themselves cannot make these.
ARCHIVED: Mapping[str, Configuration] = MappingProxyType(
    {
        "ephemeral-over-mounted": Configuration("volatile,open_requests=off", archived=True),
        "persistent-over-mounted": Configuration("open_requests=off", archived=True),
        "opened-over-mounted": Configuration("volatile", archived=True),
        "pyfuse3-over-mounted": Configuration("volatile,server=pyfuse3", archived=True),
    }
)
