"""Types of the values that pass between the parts of the file system. Pure: no system calls, no pyfuse3."""

from __future__ import annotations

from enum import IntEnum

from unionfs._stdlib.typing import NewType

#: An inode number as the kernel sees it: both the FUSE node id and ``st_ino`` (pyfuse3 sets both from one value).
Ino = NewType("Ino", int)

#: The inode number of the root directory (FUSE_ROOT_ID, include/uapi/linux/fuse.h).
ROOT_INO = Ino(1)


class Mark(IntEnum):
    """The kind of one name in one directory of one layer."""

    #: The name is deleted: it hides the name in lower layers.
    WHITEOUT = 0
    #: A directory. Only reading the directory itself shows whether it hides lower directories of its name.
    DIRECTORY = 1
    #: An object that is not a directory. It hides the name in lower layers, because a directory never merges with it.
    OTHER = 2
    #: A directory that is already known to hide lower directories of its name.
    OPAQUE_DIRECTORY = 3
