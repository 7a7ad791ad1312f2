"""The FUSE front ends: two servers that turn requests of the kernel into calls of :class:`unionfs.vfs.filesystem.UnionFs`."""
