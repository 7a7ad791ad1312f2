"""Record the networks that running sandboxes share, and their members.

    RUN/networks/.lock               locked while a network gets its addresses
    RUN/networks/NAME/lock           locked while the record and the links of the network change
    RUN/networks/NAME/uplink         locked by the supervisor that connects the network with other machines
    RUN/networks/NAME/members.json   the members, each with its address and the descriptors by which its supervisor keeps the gate

A network exists as long as one of its members runs. The record of a member that was killed stays until another command changes it,
so readers compare each with the process that it names.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from ipaddress import IPv4Network

from sandbox.kernel.process import is_alive
from sandbox.state import locks
from sandbox.state.node import this_place
from sandbox.state.trusted_files import distrust, read_json, replace_json
from unionfs._stdlib.dataclasses import asdict, dataclass

_VERSION = 1
_MEMBERS = "members.json"
_LOCK, _UPLINK = "lock", "uplink"
_ALL_LOCK = ".lock"  # no network has such a name
_MAX_RECORD = 4 << 20
_LONGEST_LINK = 15  # IFNAMSIZ


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkMember:
    """A running sandbox in one network."""

    #: The id of the run.
    run: str
    #: The name of the sandbox and its aliases.
    names: tuple[str, ...]
    #: Its IPv4 address in the network.
    address: str
    #: The interface of the gate that leads to it.
    link: str
    #: The environment file, and what it says of the network.
    file: str
    subnet: str | None
    internal: bool
    #: The supervisor, and the time of its start (`sandbox.kernel.process.start_time`).
    pid: int
    start: int
    #: Its descriptors of the gate's namespaces, and the inode number of the network namespace.
    user_fd: int
    network_fd: int
    inode: int

    @property
    def is_running(self) -> bool:
        """Whether its supervisor runs."""
        return is_alive(self.pid, self.start)


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkRecord:
    """A network with its members."""

    #: Its addresses in CIDR notation; the first one is the gateway's.
    subnet: str
    internal: bool
    members: tuple[NetworkMember, ...]

    def running(self) -> tuple[NetworkMember, ...]:
        """Return the members whose supervisors run."""
        return tuple(one for one in self.members if one.is_running)


class NetworkDirectory:
    """The directory of one network."""

    def __init__(self, run_directory: str, name: str) -> None:
        """Name the directory of the network *name* in *run_directory*. Nothing is created."""
        self.name = name
        self._path = os.path.join(run_directory, "networks", name)

    @contextmanager
    def locked(self, seconds: float | None = None) -> Iterator[None]:
        """Create the directory if it is missing, and lock it exclusively; for short operations only.

        Raises:
            TimeoutError: another process keeps it locked longer than *seconds*.
            OSError: it cannot be created or locked.
        """
        with locks.created_and_locked(self._path, _LOCK, seconds=seconds):
            yield

    @contextmanager
    def all_locked(self) -> Iterator[None]:
        """Lock the choice of addresses for all networks.

        Raises:
            OSError: it cannot be locked.
        """
        with addresses_locked(os.path.dirname(os.path.dirname(self._path))):
            yield

    def read(self) -> NetworkRecord | None:
        """Return the record of this machine; None if there is none, or it cannot be read."""
        try:
            found = read_json(os.path.join(self._path, _MEMBERS), _MAX_RECORD)
            place = this_place()
            if found["version"] != _VERSION or [place.boot, place.pid_namespace] != found["place"]:
                return None
            members = tuple(_decoded_member(one) for one in found["members"])
            return NetworkRecord(
                subnet=_network(found["subnet"]), internal=bool(found["internal"]), members=members
            )
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def write(self, record: NetworkRecord) -> None:
        """Replace the record; without members, remove the directory. The caller has the lock.

        Raises:
            OSError: it cannot be written.
        """
        if not record.members:
            self._remove()
            return
        place = this_place()
        content = {"version": _VERSION, "place": [place.boot, place.pid_namespace], **asdict(record)}
        replace_json(os.path.join(self._path, _MEMBERS), content)

    def _remove(self) -> None:
        # The lock is removed last: whoever waits for it finds then that it has no name any more.
        for name in (_MEMBERS, _UPLINK, _LOCK):
            with suppress(FileNotFoundError):
                os.unlink(os.path.join(self._path, name))
        with suppress(OSError):
            os.rmdir(self._path)

    def claim_uplink(self) -> int | None:
        """Return a descriptor whose lock says that this process connects the network; None if another process does.

        Raises:
            OSError: the file cannot be locked.
        """
        return locks.take(os.path.join(self._path, _UPLINK), wait=False)


def _decoded_member(fields: Mapping[str, object]) -> NetworkMember:
    """Return the member with the *fields* of a record.

    Raises:
        KeyError, TypeError, ValueError: a field is missing, unknown or malformed.
    """
    names = fields["names"]
    if not isinstance(names, list) or not names:
        raise ValueError("no names")
    member = NetworkMember(**{**fields, "names": tuple(map(str, names))})  # type: ignore[arg-type]
    texts = (member.run, member.link, member.file, member.subnet or "")
    numbers = (member.pid, member.start, member.user_fd, member.network_fd, member.inode)
    if not (all(isinstance(one, str) for one in texts) and all(isinstance(one, int) for one in numbers)):
        raise TypeError("a field of another type")
    if len(member.link.encode()) > _LONGEST_LINK or member.pid <= 0:
        raise ValueError("a value out of range")
    _network(f"{member.address}/32")
    return member


def _network(text: str) -> str:
    """Return *text*, an IPv4 network.

    Raises:
        ValueError: it is none.
    """
    return str(IPv4Network(text))


@contextmanager
def addresses_locked(run_directory: str) -> Iterator[None]:
    """Lock the choice of addresses for networks, and for the bridge of root (`host_bridge`), in *run_directory*.

    Raises:
        OSError: it cannot be locked.
    """
    directory = os.path.join(run_directory, "networks")
    os.makedirs(directory, mode=0o700, exist_ok=True)
    fd = locks.take(os.path.join(directory, _ALL_LOCK), wait=True)
    assert fd is not None
    try:
        yield
    finally:
        os.close(fd)


def has_networks(run_directory: str) -> bool:
    """Return whether *run_directory* may have records of networks, and belongs with them to this user, who alone may write there."""
    try:
        found = [os.lstat(path) for path in (run_directory, os.path.join(run_directory, "networks"))]
    except OSError:
        return False
    return all(stat.S_ISDIR(info.st_mode) and distrust(info) is None for info in found)


def list_networks(run_directory: str) -> list[tuple[str, NetworkRecord]]:
    """Return the networks that have running members, by name."""
    found = []
    for name in _names(run_directory):
        record = NetworkDirectory(run_directory, name).read()
        if record is not None and record.running():
            found.append((name, record))
    return found


def directories_with_records(environ: Mapping[str, str], uid: int) -> list[str]:
    """Return the directories that may have records: the run directory, and the state directory, which takes its place if it is unusable.

    A directory that other users can write is left out: any user can create one at the default path of the run directory.
    """
    from sandbox.state.location import default_path  # imported here, because `up` knows its directories
    from sandbox.state.run_directory import default_path as run_path

    found = [run_path(environ, uid), os.path.realpath(default_path(environ, uid))]
    return [path for path in found if has_networks(path)]


def found_networks(environ: Mapping[str, str], uid: int) -> dict[str, NetworkRecord]:
    """Return the networks of the user *uid* that have running members, by name."""
    return dict(pair for path in directories_with_records(environ, uid) for pair in list_networks(path))


def remove_ended(run_directory: str) -> list[str]:
    """Remove the records of members that have ended, and return the names of the networks without any other.

    Raises:
        OSError: a record cannot be changed.
    """
    removed = []
    for name in _names(run_directory):
        directory = NetworkDirectory(run_directory, name)
        record = directory.read()
        if record is not None and len(record.running()) == len(record.members):
            continue  # nothing to remove, so a supervisor that has locked it need not be waited for
        with directory.locked():
            record = directory.read()
            running = () if record is None else record.running()
            if record is None or len(running) < len(record.members):
                subnet, internal = ("", True) if record is None else (record.subnet, record.internal)
                directory.write(NetworkRecord(subnet=subnet, internal=internal, members=running))
        if not running:
            removed.append(name)
    return removed


def _names(run_directory: str) -> Sequence[str]:
    """Return the names of the directories of networks. Other files, also symbolic links, are not ours."""
    try:
        with os.scandir(os.path.join(run_directory, "networks")) as found:
            return sorted(one.name for one in found if one.is_dir(follow_symlinks=False))
    except (FileNotFoundError, NotADirectoryError):
        return ()
