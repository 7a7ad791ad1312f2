"""Names of the values that pass between the parts of the file system. Pure: no system calls, no pyfuse3."""

from __future__ import annotations

from enum import IntEnum

from unionfs._stdlib.typing import NewType

#: An inode number as the kernel sees it: the FUSE node id and ``st_ino`` at once (pyfuse3 sets both from one
#: value).
Ino = NewType("Ino", int)

#: The inode number of the root directory (FUSE_ROOT_ID, include/uapi/linux/fuse.h).
ROOT_INO = Ino(1)


class Mark(IntEnum):
    """What one layer says of one name in one directory."""

    #: The name is deleted: nothing of it in lower layers shows.
    WHITEOUT = 0
    #: A directory. Whether it hides lower directories of its name is known only after asking the directory
    #: itself.
    DIRECTORY = 1
    #: Anything that is not a directory. It hides everything below, as a directory never merges with it.
    OTHER = 2
    #: A directory of which it is already known that it hides lower directories of its name.
    OPAQUE_DIRECTORY = 3
