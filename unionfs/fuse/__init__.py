"""The rim: the only code that knows pyfuse3 and trio. Turns requests into calls of
:class:`unionfs.vfs.filesystem.UnionFs`.
"""
