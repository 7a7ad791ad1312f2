"""Changes of a tree that are drawn from a seed, the same on every file system. Each is one system call, apart from opening.

As a script, ``workload.py ROOT SEED FIRST``, it makes them one after the other below ROOT, from number FIRST on, and
prints the number of each change that has returned. It ends when the server of the file system has ended.
"""

from __future__ import annotations

import errno
import os
import random
import sys

_DIRECTORIES = ["d", "d/sub", "e", "e/deep/er", "new", "new/er", "moved"]
_NAMES = ["one", "two", "large", "linked", "sub", "f"]
_GONE = (errno.ENOTCONN, errno.ECONNABORTED)

#: The kinds of steps, and their paths.
Step = tuple[str, str, str]

#: The tree at the start, which has only paths that steps use.
LOWER: dict[str, bytes] = {
    **{
        f"{at}/{name}": name.encode() * 10 for at in ("d", "d/sub", "e", "e/deep/er") for name in ("one", "f")
    },
    "d/large": b"large" * 8000,
    "e/deep/er/large": b"LARGE" * 8000,
}


def step(seed: int, number: int) -> Step:
    """Return step *number* of the workload *seed*."""
    generator = random.Random(f"{seed} {number}")
    kind = generator.choice(
        "create write write sync chmod truncate unlink rename rename link symlink mkdir rmdir movedir".split()
    )

    def path() -> str:
        return f"{generator.choice(_DIRECTORIES)}/{generator.choice(_NAMES)}"

    if kind in ("mkdir", "rmdir", "movedir"):
        return kind, generator.choice(_DIRECTORIES), generator.choice(_DIRECTORIES)
    return kind, path(), path()


def run(root: str, one: Step) -> int:
    """Do *one* step below *root*; return its errno, or 0."""
    kind, first, second = one
    path, other = os.path.join(root, first), os.path.join(root, second)
    try:
        if kind in ("create", "write", "sync"):
            flags = os.O_WRONLY | (os.O_CREAT | os.O_EXCL if kind == "create" else 0)
            fd = os.open(path, flags, 0o644)
            try:
                if kind != "create":
                    os.pwrite(fd, second.encode() * 20, 7)
                if kind == "sync":
                    os.fsync(fd)
            finally:
                os.close(fd)
        elif kind == "chmod":
            os.chmod(path, 0o700 | len(second) % 8)  # some are directories
        elif kind == "truncate":
            os.truncate(path, len(second) % 3 * 50)
        elif kind == "unlink":
            os.unlink(path)
        elif kind in ("rename", "movedir"):
            os.rename(path, other)
        elif kind == "link":
            os.link(path, other)
        elif kind == "symlink":
            os.symlink(second, path)
        elif kind == "mkdir":
            os.mkdir(path)
        else:
            os.rmdir(path)
    except OSError as error:
        return error.errno or 0
    return 0


def main() -> None:
    """Run the script."""
    root, seed, number = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    while True:
        if run(root, step(seed, number)) in _GONE:
            return
        os.write(1, b"%d\n" % number)
        number += 1


if __name__ == "__main__":
    main()
