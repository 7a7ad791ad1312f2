"""List the runs recorded in the state directory, and find out which of them still run. Changes nothing.

    STATE/run/ID/state.json     the record (sandbox/state/run_record.py), which names the directory below RUN
    RUN/run/ID/                 lock, state.json, skeleton and ephemeral layer of the run

The lock and the supervisor's process decide about runs of this node. sandbox/state/sweeping.py removes those that have ended.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping

from sandbox.errors import StateError
from sandbox.kernel.process import is_alive
from sandbox.spec.values.addresses import Port, single_ports
from sandbox.state import run_record
from sandbox.state.locks import probe
from sandbox.state.node import Place, this_place
from sandbox.state.run_record import Lock, RunRecord, RunState
from sandbox.state.trusted_files import distrust, read_json
from unionfs._stdlib.dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run: its directory in the state directory, its record, None if that cannot be read, and its state."""

    id: str
    path: str
    record: RunRecord | None
    state: RunState

    def shown(self) -> str:
        """Return the run's name for messages: "db-1f2e3d4c (pid 7, on host b)"."""
        record = self.record
        pid = "" if record is None or record.pid is None else f"pid {record.pid}"
        host = "" if record is None or record.place is None else record.place.node.host
        where = f"on {host or 'another machine'}" if self.state == "elsewhere" else ""
        facts = ", ".join(fact for fact in (pid, where) if fact)
        return f"{self.id} ({facts})" if facts else self.id


def read_run_record(path: str) -> RunRecord | None:
    """Return the record in the directory *path*; None if there is none that can be read."""
    try:
        return run_record.read(read_json(os.path.join(path, "state.json")))
    except (OSError, ValueError):
        return None


def lock_of(path: str, record: RunRecord | None) -> str | None:
    """Return the path of the lock of the run whose record in the directory *path* is *record*.

    Return None if the directory that the record names is writable by other users: then its files must not be opened.
    """
    if record is None or record.run_directory is None:
        return os.path.join(path, "lock")
    return os.path.join(record.run_directory, "lock") if is_private(record.run_directory) else None


def is_private(place: str) -> bool:
    """Return whether *place*, RUN/run/ID, and the two directories above it belong to this user, who alone may write them.

    RUN may be in /var/tmp. If it has been removed there, any user can create a directory of that name.
    """
    above = os.path.dirname(place)
    try:
        found = [os.lstat(path) for path in (place, above, os.path.dirname(above))]
    except OSError:
        return False
    return all(stat.S_ISDIR(info.st_mode) and distrust(info) is None for info in found)


def _lock(path: str, record: RunRecord | None) -> Lock:
    lock = lock_of(path, record)
    return "missing" if lock is None else probe(lock)


def alive(record: RunRecord | None) -> bool:
    """Return whether the supervisor of *record* runs in this pid namespace."""
    return (
        record is not None
        and record.pid is not None
        and record.start is not None
        and is_alive(record.pid, record.start)
    )


def state_of(path: str, record: RunRecord | None, lock: Lock, here: Place) -> RunState:
    """Return the state of the run whose *record* is in the directory *path*."""
    state = run_record.state_of(record, here, lock=lock, alive=alive(record))
    if record is None and state == "unknown" and is_empty(path):
        return "ended"  # a command is removing it, or was killed meanwhile: the record is removed last
    return state


def is_empty(path: str) -> bool:
    """Return whether *path* is an empty directory."""
    try:
        return not os.listdir(path)
    except FileNotFoundError:
        return False


def paths_in(base: str) -> list[str]:
    """Return the paths of the directories in *base*; none if *base* does not exist."""
    try:
        with os.scandir(base) as entries:
            return sorted(entry.path for entry in entries if entry.is_dir(follow_symlinks=False))
    except FileNotFoundError:
        return []


def name_by_port(state_directory: str, port: Port) -> str | None:
    """Return the name of the running sandbox of this node to which *port*, a single one, is forwarded; None if there is none.

    Its address decides only if neither is the address of all interfaces.
    """
    for path in paths_in(os.path.join(state_directory, "run")):
        record = read_run_record(path)
        if record is None or not record.ports or not alive(record):
            continue
        for other in single_ports(record.ports):
            same = {other.address, port.address} & {"0.0.0.0", "::"} or other.address == port.address
            if same and (other.host, other.protocol) == (port.host, port.protocol):
                return record.name
    return None


def list_runs(state_directory: str, here: Place | None = None) -> list[Run]:
    """Return every run with a record in the state directory.

    Raises:
        OSError: the records cannot be listed, or a lock cannot be tested.
    """
    here = this_place() if here is None else here
    found = []
    for path in paths_in(os.path.join(state_directory, "run")):
        name = os.path.basename(path)
        if name.startswith("."):
            continue
        record = read_run_record(path)
        state = state_of(path, record, _lock(path, record), here)
        found.append(Run(id=name, path=path, record=record, state=state))
    return found


def users_of(
    state_directory: str, *, layer: str | None = None, volume: str | None = None, archive: str | None = None
) -> list[Run]:
    """Return the runs that use a persistent layer or a named volume, by its name, or an archive, by its path.

    Runs of this process and runs that have ended are left out.
    """
    return [
        run
        for run in list_runs(state_directory)
        if run.state != "ended"
        and (record := run.record) is not None
        and not (run.state == "running" and record.pid == os.getpid() and alive(record))
        and (
            (layer is not None and record.layer == layer)
            or (volume is not None and volume in record.volumes)
            or (archive is not None and archive in record.archives)
        )
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningSandbox:
    """A sandbox that runs on this node."""

    name: str
    supervisor: int
    #: The kinds of its own namespaces, with the number of the supervisor's descriptor of each.
    namespaces: Mapping[str, int]

    def namespace(self, kind: str) -> str:
        """Return the path at which its namespace of *kind* can be opened.

        Raises:
            StateError: it has no such namespace of its own.
        """
        if kind not in self.namespaces:
            raise StateError(
                f"sandbox {self.name} has no {kind} namespace of its own",
                hint=f'join the namespace that this sandbox joined, or set namespaces.{kind} = "private" in its file',
            )
        return f"/proc/{self.supervisor}/fd/{self.namespaces[kind]}"


def find_running(state_directory: str, name: str) -> RunningSandbox:
    """Return the running sandbox *name*. Locks and changes nothing.

    The supervisor keeps the namespaces open while it lives. A process with the recorded pid but another start time is another
    process. A supervisor that ends later is noticed, too: the namespace opened by its path is compared with the planned one.

    Raises:
        StateError: no such sandbox runs on this node, or more than one.
    """
    here = this_place()
    found, hosts = [], []
    try:
        paths = paths_in(os.path.join(state_directory, "run"))
    except OSError:
        paths = []
    for path in paths:
        record = read_run_record(path) if os.path.basename(path)[:-9] == name else None
        if record is None or record.pid is None:
            continue
        if record.place is not None and record.place.node != here.node:
            hosts.append(record.place.node.host)
        elif record.place not in (None, here):
            continue  # of an earlier boot, or its pid belongs to another pid namespace
        elif record.namespaces and alive(record):
            numbers = dict(record.namespaces)
            found.append(RunningSandbox(name=name, supervisor=record.pid, namespaces=numbers))
    if not found and hosts:
        raise StateError(
            f"sandbox {name} runs on another machine: {', '.join(sorted(set(hosts)))}",
            hint="namespaces of another machine cannot be joined: start it on this one, too",
        )
    if not found:
        raise StateError(
            f"no sandbox {name} is running",
            hint=f"start it first: `sandbox up` with a file that has sandbox.name = {name}",
        )
    if len(found) > 1:
        pids = " and ".join(str(item.supervisor) for item in found)
        raise StateError(
            f"{len(found)} sandboxes {name} are running (pids {pids})", hint="give each its own sandbox.name"
        )
    return found[0]
