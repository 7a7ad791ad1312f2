"""unionfs: a copy-on-write union file system over FUSE that needs neither root nor kernel OverlayFS.

It is available as the command ``unionfs``, and ``sandbox`` mounts it as the root file system of a sandbox. Only
:mod:`unionfs.fuse` depends on pyfuse3 and trio; the pure and the synchronous parts do not. See
``docs/unionfs/internals.md`` for the invariants.
"""

__version__ = "0.1.0"
