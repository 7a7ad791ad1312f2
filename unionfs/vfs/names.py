"""Change the names of the union: create, link, remove and rename entries.

    creation    MKNOD, CREATE, SYMLINK, MKDIR, LINK
    removal     UNLINK, RMDIR
    renaming    RENAME, by the plan of rename_plan

Every method is synchronous and atomic to every other.
"""

from __future__ import annotations

from unionfs.copyup.copyup import CopyUp
from unionfs.inode.table import InodeTable
from unionfs.layer.ownership import Ownership
from unionfs.upper.link_index import LinkIndex
from unionfs.upper.permissions import Permissions
from unionfs.upper.quota import Quota
from unionfs.upper.upper import Upper
from unionfs.vfs.creation import Creation
from unionfs.vfs.removal import Removal
from unionfs.vfs.renaming import Renaming


class Names:
    """The entries of one writable mount. `assemble` creates it; there is nothing to close.

    Its operations are the methods of its parts, bound once, so that a request makes no additional call.
    """

    def __init__(
        self,
        inode_table: InodeTable,
        upper: Upper,
        index: LinkIndex,
        copy_up: CopyUp,
        ownership: Ownership,
        permissions: Permissions,
        quota: Quota | None = None,
    ) -> None:
        """Create the parts; *quota* limits the number and size of new objects."""
        creation = Creation(inode_table, upper, copy_up, ownership, permissions, quota)
        removal = Removal(inode_table, upper, index, copy_up)
        renaming = Renaming(inode_table, upper, index, copy_up, quota, removal)
        self.mknod = creation.mknod
        self.symlink = creation.symlink
        self.create = creation.create
        self.mkdir = creation.mkdir
        self.link = creation.link
        self.owner_for_new = creation.owner_for_new
        self.unlink = removal.unlink
        self.rmdir = removal.rmdir
        self.rename = renaming.rename
        self.link_remaining = renaming.link_remaining
        copy_up.on_index_dropped_later = renaming.link_known_names
