"""Show /etc/hosts and /etc/resolv.conf, in which programs find the addresses of names; hosts(5), hostname(1), resolv.conf(5)."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence

from sandbox.kernel import open_paths
from sandbox.plan.operations import HOSTS, RESOLV_CONF, ShowHosts, ShowResolver
from sandbox.runtime.rootfs.volumes import show_content

#: The largest /etc/hosts that is read, in bytes. Lists of blocked names take a few megabytes.
_LIMIT = 16 << 20
#: Flags with which open(2) neither blocks on a file that a layer provides nor acquires a controlling terminal.
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


#: Bytes for the names of members, in addition to the content. They take 50 to 100 each.
_ROOM = 4 << 20


def with_names(text: bytes, hostname: str | None, entries: Sequence[tuple[str, str]]) -> bytes | None:
    """Return *text*, the content of a hosts file, with added names; None if it contains them already.

    The lines of *entries*, pairs of an address and a name, come first, because resolvers use the first line with a name. The
    address of *hostname* is 127.0.1.1, as Debian's installer writes it, because 127.0.0.1 remains the address of localhost.
    """
    added = "".join(f"{address}\t{name}\n" for address, name in entries).encode()
    names = {word for line in (added + text).splitlines() for word in line.partition(b"#")[0].split()[1:]}
    own = (
        b"" if hostname is None or hostname.encode() in names else b"127.0.1.1\t" + hostname.encode() + b"\n"
    )
    if not added and not own:
        return None
    if b"localhost" not in names:
        added += b"127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
    ended = text if not text or text.endswith(b"\n") else text + b"\n"
    return added + ended + own


def has_directory(tree_fd: int) -> bool:
    """Return whether the layer *tree_fd* has a directory /etc. A root without one, such as a single program's, gets none."""
    try:
        os.close(open_paths.open_in_root(tree_fd, os.path.dirname(HOSTS), directory=True))
    except OSError:
        return False
    return True


def show_hosts(operation: ShowHosts, root_fd: int, staging_fd: int) -> tuple[int, int] | None:
    """Mount a read-only file over /etc/hosts of the root: its own content and the lines of *operation*.

    Do nothing if the root has no regular file there that is readable by all users, or if it belongs to another mount.

    Args:
        operation: the names to add.
        root_fd: the root, O_PATH.
        staging_fd: a directory of this mount namespace that no program reaches.

    Returns an O_PATH descriptor of the mount, and one for reading and writing the file; None if there is no mount.

    Raises:
        OSError: the file cannot be made or mounted.
    """
    try:
        target = open_paths.open_in_root(root_fd, HOSTS)
    except OSError:
        return None
    try:
        text = content_of(target) if open_paths.mount_id(target) == open_paths.mount_id(root_fd) else None
        shown = None if text is None else with_names(text, operation.name, operation.entries)
        if shown is None and operation.members:
            shown = text
        if shown is None:
            return None
        room = _ROOM if operation.members else 0
        return show_content(shown, target, staging_fd, "hosts", mode=0o644, noexec=True, room=room)
    finally:
        os.close(target)


def show_resolver(operation: ShowResolver, root_fd: int, staging_fd: int) -> int:
    """Mount a read-only file with the content of *operation* over /etc/resolv.conf of the root.

    Do nothing if the file belongs to another mount, which a volume has there. Arguments as of :func:`show_hosts`.

    Returns an O_PATH descriptor of the mount, -1 if there is none.

    Raises:
        OSError: the file cannot be made or mounted; ENOENT if the root's is a symbolic link that leads nowhere.
    """
    target = open_paths.open_in_root(root_fd, RESOLV_CONF)
    try:
        if open_paths.mount_id(target) != open_paths.mount_id(root_fd):
            return -1
        tree, file = show_content(
            operation.content, target, staging_fd, "resolv.conf", mode=0o644, noexec=True
        )
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
