"""The file system in terms of inode numbers: what a request changes or reads, apart from FUSE. UnionFs is its facade."""
