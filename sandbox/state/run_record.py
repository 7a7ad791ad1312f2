"""Decode the record of a run, a versioned JSON object in state.json, and conclude from it whether the run has ended. Pure.

Records of version 1 contain neither a version nor the machine, because the state directory could not be shared. Their runs count
as this machine's.
"""

from __future__ import annotations

import math

from sandbox.state.node import RECORD_VERSION, Node, Place
from unionfs._stdlib.dataclasses import dataclass
from unionfs._stdlib.typing import Any, Literal

Lock = Literal["held", "free", "missing"]
"""The state of a run's lock: a process has it, no process has it, or the lock file does not exist."""

RunState = Literal["running", "ended", "elsewhere", "unknown"]
"""The state of a run. "elsewhere": it belongs to another node and may run there. "unknown": it may run on this node."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """The record of one run: where its supervisor runs, and which resources it uses."""

    version: int
    #: None for version 1.
    place: Place | None
    pid: int | None
    #: When the supervisor was started, in clock ticks since boot (proc_pid_stat(5), field 22).
    start: int | None
    name: str = ""
    #: The environment file.
    file: str | None = None
    #: Its directory in the run directory; None for version 1, which has all files in the directory of the record.
    run_directory: str | None = None
    #: The directory of the record. The copy of the record in the run directory refers to it by this field.
    record: str | None = None
    #: The persistent layer, the named volumes and the paths of the archives that it uses.
    layer: str | None = None
    volumes: tuple[str, ...] = ()
    archives: tuple[str, ...] = ()
    #: The images that it uses: name and digest of the manifest.
    images: tuple[str, ...] = ()
    #: The ports of the host that are forwarded to it, in the notation of the file.
    ports: tuple[str, ...] = ()
    #: The program with its arguments.
    command: tuple[str, ...] = ()
    #: When the run began, and since when it has been in its phase, in seconds since 1970; None in records of older versions.
    began: float | None = None
    since: float | None = None
    #: "starting", "running", "stopping" or, of a run in the background, "exited".
    phase: str = "starting"
    #: Whether no command waits for it: its record and log stay when it has ended.
    background: bool = False
    #: The exit status, and why it ended, if it has.
    status: int | None = None
    reason: str = ""
    #: The pid of process 1, as the supervisor sees it; None before it exists.
    init: int | None = None
    #: The pid of the file system's server; None without one.
    server: int | None = None
    #: The numbers of the supervisor's descriptors of the run's namespaces, by kind.
    namespaces: tuple[tuple[str, int], ...] = ()
    #: The source of its root in the mount table, if its processes are to be found by that.
    root: str | None = None
    cgroups: tuple[str, ...] = ()
    #: The id maps, as decoded from JSON.
    ids: Any = None


def read(state: object) -> RunRecord | None:
    """Return the record decoded from *state*, the JSON value of a state.json; None if it is not a valid record."""
    if not isinstance(state, dict):
        return None
    version = state.get("version", 1)
    if not isinstance(version, int):
        return None
    place = None
    if version > 1:
        facts = [state.get(key) for key in ("machine", "host", "boot", "pid_namespace")]
        if not all(isinstance(fact, str) for fact in facts):
            return None
        machine, host, boot, pid_namespace = map(str, facts)
        place = Place(node=Node(machine=machine, host=host), boot=boot, pid_namespace=pid_namespace)
    namespaces = state.get("namespaces")
    return RunRecord(
        version=version,
        place=place,
        pid=_number(state.get("pid")),
        start=_number(state.get("start")),
        name=_text(state.get("name")) or "",
        file=_text(state.get("file")),
        run_directory=_text(state.get("run_directory")),
        record=_text(state.get("record")),
        layer=_text(state.get("layer")),
        volumes=_texts(state.get("volumes")),
        archives=_texts(state.get("archives")),
        images=_texts(state.get("images")),
        ports=_texts(state.get("ports")),
        command=_texts(state.get("command")),
        began=_time(state.get("began")),
        since=_time(state.get("since")),
        phase=_text(state.get("phase")) or "starting",
        background=state.get("background") is True,
        status=_number(state.get("status")),
        reason=_text(state.get("reason")) or "",
        init=_number(state.get("init")),
        server=_number(state.get("server")),
        namespaces=tuple(
            (str(kind), fd)
            for kind, fd in (namespaces.items() if isinstance(namespaces, dict) else ())
            if isinstance(fd, int)
        ),
        root=_text(state.get("root")),
        cgroups=_texts(state.get("cgroups")),
        ids=state.get("ids"),
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _texts(value: object) -> tuple[str, ...]:
    return tuple(map(str, value)) if isinstance(value, list) else ()


def _number(value: object) -> int | None:
    return value if isinstance(value, int) and 0 <= value < 1 << 63 else None


def _time(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def state_of(record: RunRecord | None, here: Place, *, lock: Lock, alive: bool) -> RunState:
    """Return the state of the run of *record*, None for an unreadable one, as seen by a process in *here*.

    *alive* says whether this pid namespace has a process with the recorded pid and start. The lock alone does not decide: on a
    network file system a lock may be local to its node, so that every other node could take it.
    """
    if record is None:
        # The run's node is not known, so only the lock counts.
        return "running" if lock == "held" else "ended" if lock == "free" else "unknown"
    if record.version > RECORD_VERSION:
        return "unknown"
    if record.place is not None and record.place.node != here.node:
        return "elsewhere"
    if record.place is not None and record.place.boot != here.boot:
        return "ended"
    if lock == "held":
        return "running"
    if record.place is None or record.place.pid_namespace == here.pid_namespace:
        return "running" if alive else "ended"
    # Its pid belongs to another pid namespace, and its /var/tmp may be another directory, too.
    return "ended" if lock == "free" else "unknown"
