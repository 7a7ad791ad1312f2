"""The writable layer: each change of it on disk, the marks that it leaves, and what it may take."""
