"""Record the bridge that connects private networks of root with other machines, and the sandboxes at its ports.

    RUN/bridges/NAMESPACE/lock          locked while the bridge, its table of nftables or its ports change
    RUN/bridges/NAMESPACE/record.json   the ports, and the setting of the machine that was changed

NAMESPACE is the inode number of the network namespace with the bridge: that of the machine, as a rule. The record of a port whose
supervisor was killed stays until another command changes it, so readers compare each with the process that it names.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from sandbox.kernel.process import is_alive
from sandbox.state import locks
from sandbox.state.node import this_place
from sandbox.state.trusted_files import read_json, replace_json
from unionfs._stdlib.dataclasses import asdict, dataclass

_VERSION = 1
_RECORD, _LOCK, _DIRECTORY = "record.json", "lock", "bridges"
_MAX_RECORD = 4 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class BridgePort:
    """A port of the bridge, with the network namespace of a sandbox or of a network behind it."""

    #: The interface of the host.
    link: str
    #: The IPv4 address behind it.
    address: str
    #: The supervisor, and the time of its start (`sandbox.kernel.process.start_time`).
    pid: int
    start: int

    @property
    def is_used(self) -> bool:
        """Whether its supervisor runs."""
        return is_alive(self.pid, self.start)


@dataclass(frozen=True, slots=True, kw_only=True)
class BridgeRecord:
    """The bridge with its ports."""

    #: Its addresses in CIDR notation; the first one is the bridge's.
    subnet: str
    #: Whether net.ipv4.ip_forward was 0 before the bridge was made, and is to be 0 again.
    set_forwarding: bool
    ports: tuple[BridgePort, ...]

    def used(self) -> tuple[BridgePort, ...]:
        """Return the ports whose supervisors run."""
        return tuple(one for one in self.ports if one.is_used)


class BridgeDirectory:
    """The directory with the record of the bridge of this process's network namespace."""

    def __init__(self, run_directory: str) -> None:
        """Name the directory in *run_directory*. Nothing is created."""
        namespace = os.stat("/proc/self/ns/net").st_ino
        #: Exists only while there is a record, or a lock.
        self.path = os.path.join(run_directory, _DIRECTORY, str(namespace))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Create the directory if it is missing, and lock it exclusively; for short operations only.

        Raises:
            OSError: it cannot be created or locked.
        """
        with locks.created_and_locked(self.path, _LOCK):
            yield

    def has_record(self) -> bool:
        """Return whether there is a record, also one that :meth:`read` does not return."""
        return os.path.exists(os.path.join(self.path, _RECORD))

    def read(self) -> BridgeRecord | None:
        """Return the record; None if there is none, or it cannot be read, or is of another pid namespace or an earlier boot."""
        try:
            found = read_json(os.path.join(self.path, _RECORD), _MAX_RECORD)
            place = this_place()
            if found["version"] != _VERSION or [place.boot, place.pid_namespace] != found["place"]:
                return None
            return BridgeRecord(
                subnet=found["subnet"],
                set_forwarding=found["set_forwarding"],
                ports=tuple(BridgePort(**one) for one in found["ports"]),
            )
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def write(self, record: BridgeRecord) -> None:
        """Replace the record. The caller has the lock.

        Raises:
            OSError: it cannot be written.
        """
        place = this_place()
        content = {"version": _VERSION, "place": [place.boot, place.pid_namespace], **asdict(record)}
        replace_json(os.path.join(self.path, _RECORD), content)

    def remove(self) -> None:
        """Remove the record and the directory. The caller has the lock.

        Raises:
            OSError: the record cannot be removed.
        """
        for name in (_RECORD, _LOCK):
            with suppress(FileNotFoundError):
                os.unlink(os.path.join(self.path, name))
        for path in (self.path, os.path.dirname(self.path)):
            with suppress(OSError):
                os.rmdir(path)


def may_have_record(run_directory: str) -> bool:
    """Return whether *run_directory* may have the record of a bridge."""
    return os.path.exists(BridgeDirectory(run_directory).path)
