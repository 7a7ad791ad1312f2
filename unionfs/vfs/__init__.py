"""File system operations on inode numbers, independent of FUSE. :class:`unionfs.vfs.filesystem.UnionFs` is the facade."""
