"""FUSE front ends: two servers that translate FUSE requests into calls of :class:`unionfs.vfs.filesystem.UnionFs`."""
