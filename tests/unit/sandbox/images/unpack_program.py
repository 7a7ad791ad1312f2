"""Unpack an archive in a separate program, for tests that need other ids or another file system, and print the result.

python -m tests.unit.sandbox.images.unpack_program ARCHIVE DESTINATION [--single-id]
"""

from __future__ import annotations

import json
import os
import sys

from sandbox.errors import ImageError
from sandbox.images.tar import open_archive
from sandbox.images.unpack import unpack


def main(archive: str, destination: str, *options: str) -> None:
    """Print a JSON object: owners by path, attributes by path, and the error if there was one."""
    os.makedirs(destination, exist_ok=True)
    fd = os.open(destination, os.O_RDONLY | os.O_DIRECTORY)
    result: dict[str, object] = {}
    try:
        with open(archive, "rb") as file:
            report = unpack(open_archive(file, "a.tar"), fd, single_id="--single-id" in options)
        result["notices"] = report.notices()
    except ImageError as error:
        result["image_error"] = error.message
    except OSError as error:
        result["os_error"] = [error.errno, error.filename]
    paths = [destination]
    for directory, names, files in os.walk(destination):
        paths += [os.path.join(directory, name) for name in (*names, *files)]
    result["owners"] = {
        os.path.relpath(path, destination): [os.lstat(path).st_uid, os.lstat(path).st_gid] for path in paths
    }
    result["xattrs"] = {
        os.path.relpath(path, destination): os.listxattr(path, follow_symlinks=False) for path in paths
    }
    result["modes"] = {os.path.relpath(path, destination): os.lstat(path).st_mode for path in paths}
    json.dump(result, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
