"""Tell whether a layout or an archive has changed since an image was imported from it."""

from __future__ import annotations

import os


def version_of(path: str) -> tuple[int, ...]:
    """Return facts about the layout or archive at *path* that differ once it has changed; empty if it cannot be examined."""
    try:
        info = os.stat(path)
        if not os.path.isdir(path):
            return (info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns)
        index = os.stat(os.path.join(path, "index.json"))
    except OSError:
        return ()
    return (info.st_dev, info.st_ino, index.st_ino, index.st_size, index.st_mtime_ns, index.st_ctime_ns)
