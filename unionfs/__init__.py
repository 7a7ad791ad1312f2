"""unionfs: a copy-on-write union file system over FUSE that needs neither root nor kernel OverlayFS.

It stands alone as the command ``unionfs`` and is what ``sandbox`` mounts as a root file system. The pure and
the synchronous parts know neither pyfuse3 nor trio; those live in :mod:`unionfs.fuse`. See
``unionfs/README.md`` for the invariants.
"""

__version__ = "0.1.0"
