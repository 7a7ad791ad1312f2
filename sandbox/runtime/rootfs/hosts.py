"""Add the host name of the sandbox to its /etc/hosts: programs look their own name up there (hosts(5), hostname(1))."""

from __future__ import annotations

import os
import stat

from sandbox.kernel import open_paths
from sandbox.runtime.rootfs.volumes import show_content

PATH = "/etc/hosts"
#: The largest /etc/hosts that is read, in bytes. Lists of blocked names take a few megabytes.
_LIMIT = 16 << 20
#: Flags with which open(2) neither blocks on a file that a layer provides nor acquires a controlling terminal.
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def with_name(text: bytes, name: str) -> bytes | None:
    """Return *text*, the content of a hosts file, with a line for the host name *name*; None if it contains the name already.

    The address is 127.0.1.1, as Debian's installer writes it, because 127.0.0.1 remains the address of localhost.
    """
    names = {word for line in text.splitlines() for word in line.partition(b"#")[0].split()[1:]}
    if name.encode() in names:
        return None
    lines = (
        b"" if b"localhost" in names else b"127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
    )
    ended = text if not text or text.endswith(b"\n") else text + b"\n"
    return lines + ended + b"127.0.1.1\t" + name.encode() + b"\n"


def has_directory(tree_fd: int) -> bool:
    """Return whether the layer *tree_fd* has a directory /etc. A root without one, such as a single program's, gets none."""
    try:
        os.close(open_paths.open_in_root(tree_fd, os.path.dirname(PATH), directory=True))
    except OSError:
        return False
    return True


def show(name: str, root_fd: int, staging_fd: int) -> int:
    """Mount a read-only file over /etc/hosts of the root: its own content and a line for *name*.

    Do nothing if the root has no regular file there that is readable by all users, or if it belongs to another mount.

    Args:
        name: the host name.
        root_fd: the root, O_PATH.
        staging_fd: a directory of this mount namespace that no program reaches.

    Returns an O_PATH descriptor of the mount, -1 if there is none.

    Raises:
        OSError: the file cannot be made or mounted.
    """
    try:
        target = open_paths.open_in_root(root_fd, PATH)
    except OSError:
        return -1
    try:
        text = content_of(target) if open_paths.mount_id(target) == open_paths.mount_id(root_fd) else None
        shown = None if text is None else with_name(text, name)
        if shown is None:
            return -1
        tree, file = show_content(shown, target, staging_fd, "hosts", mode=0o644, noexec=True)
        os.close(file)
        return tree
    finally:
        os.close(target)


def content_of(place: int) -> bytes | None:
    """Return the content of the file *place*, O_PATH; None unless it is regular, readable by all users and not too large.

    Every user of the sandbox can read the file that replaces it.
    """
    info = os.fstat(place)
    if not stat.S_ISREG(info.st_mode) or not info.st_mode & stat.S_IROTH or info.st_size > _LIMIT:
        return None
    try:
        with open(os.open(f"/proc/self/fd/{place}", _READ), "rb") as file:
            text = file.read(_LIMIT + 1)
    except OSError:
        return None
    return None if len(text) > _LIMIT else text
