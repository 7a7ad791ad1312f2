"""Numbered changes of a tree. Each is one system call, apart from opening.

A program in a sandbox makes them, and a test makes the same ones in a model on the host. As a script in a sandbox,
``changes.py do ROOT KINDS FIRST COUNT`` makes COUNT changes from number FIRST on, of the KINDS in turn. It prints the
number of each change that has returned. ``changes.py show ROOT`` prints the tree. The script needs the standard
library only.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import sys
import time

KINDS = "create write append chmod rename move unlink mkdir rmdir list link symlink truncate setxattr".split()
#: Number of objects of each kind in the tree. Consecutive changes use consecutive objects.
COUNT = 40
LARGE = b"lower" * 4_000
_ATTRIBUTE = "user.changed"
#: Errors of a mount whose server has ended.
_GONE = (errno.ENOTCONN, errno.ECONNABORTED)


def tree(count: int = COUNT) -> dict[str, bytes | None]:
    """Return the tree that the first *count* changes of each kind need: by path, the contents, or None for a directory."""
    made: dict[str, bytes | None] = {"new": None}
    for number in range(count):
        for kind in ("write", "append", "chmod", "rename", "unlink", "link", "truncate", "setxattr"):
            made[f"{kind}/{number}"] = LARGE
        made[f"move/{number}/in/file"] = b"moved"
        made[f"rmdir/{number}"] = None
    return made


def change(root: str, kind: str, number: int) -> None:
    """Make the change *number* of *kind* below *root*.

    Raises:
        OSError: it failed.
    """
    path, new = f"{root}/{kind}/{number % COUNT}", f"{root}/new/{kind}-{number}"
    if kind == "create":
        os.close(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640))
    elif kind in ("write", "append"):
        fd = os.open(path, os.O_WRONLY | (os.O_APPEND if kind == "append" else 0))
        try:
            os.write(fd, b"%d " % number * 200)
        finally:
            os.close(fd)
    elif kind == "chmod":
        os.chmod(path, 0o600 | number // COUNT % 8)
    elif kind in ("rename", "move"):
        os.rename(path, new)
    elif kind in ("unlink", "rmdir"):
        (os.unlink if kind == "unlink" else os.rmdir)(path)
    elif kind == "mkdir":
        os.mkdir(new, 0o750)
    elif kind == "list":
        assert os.listdir(f"{root}/write")
    elif kind == "link":
        os.link(path, new)
    elif kind == "symlink":
        os.symlink(f"to {number}", new)
    elif kind == "truncate":
        os.truncate(path, 10_000 - number)
    else:
        os.setxattr(path, _ATTRIBUTE, b"%d" % number)


def shown(root: str) -> dict[str, list[object]]:
    """Return the tree below *root*: type, permissions and contents by path."""
    found: dict[str, list[object]] = {}
    for at, directories, files in os.walk(root):
        for name in directories + files:
            path = os.path.join(at, name)
            info = os.lstat(path)
            content = attribute = ""
            if stat.S_ISLNK(info.st_mode):
                content = os.readlink(path)
            elif stat.S_ISREG(info.st_mode):
                with open(path, "rb") as file:
                    content = hashlib.sha256(file.read()).hexdigest()
                if _ATTRIBUTE in os.listxattr(path):
                    attribute = os.getxattr(path, _ATTRIBUTE).decode()
            found[os.path.relpath(path, root)] = [info.st_mode, content, attribute]
    return found


def step(kinds: list[str], number: int) -> tuple[str, int]:
    """Return the kind of the change *number* of a program, and its number among the changes of that kind."""
    return kinds[number % len(kinds)], number // len(kinds)


def _do(root: str, kinds: list[str], first: int, count: int) -> None:
    for number in range(first, first + count):
        try:
            change(root, *step(kinds, number))
        except OSError as error:
            if error.errno in _GONE:
                return
            raise
        print(number, flush=True)  # noqa: T201 - a program
    time.sleep(60)


if __name__ == "__main__":
    if sys.argv[1] == "do":
        _do(sys.argv[2], sys.argv[3].split(","), int(sys.argv[4]), int(sys.argv[5]))
    else:
        print(json.dumps(shown(sys.argv[2])))  # noqa: T201 - a program
