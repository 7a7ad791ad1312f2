"""The record of a run, a versioned JSON object in state.json, and what it tells about whether the run has ended. Pure.

Version 1 had neither a version nor the machine: a state directory had no second one. Its runs count as this machine's.
"""

from __future__ import annotations

from sandbox.state.node import RECORD_VERSION, Node, Place
from unionfs._stdlib.dataclasses import dataclass
from unionfs._stdlib.typing import Any, Literal

Lock = Literal["held", "free", "missing"]
"""What is known of the lock of a run: a process has it, none has, or there is no such file."""

Verdict = Literal["running", "ended", "elsewhere", "unknown"]
"""What is known of a run. "elsewhere": it belongs to another node, on which it may run. "unknown": it may run on this one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """One run: where its supervisor runs, and what it uses."""

    version: int
    #: None in a record of version 1.
    place: Place | None
    pid: int | None
    #: When the supervisor was started, in clock ticks since boot (proc_pid_stat(5), field 22).
    start: int | None
    name: str = ""
    #: The environment file.
    file: str | None = None
    #: Its directory of the run directory; None in a record of version 1, whose directory has everything.
    run_directory: str | None = None
    #: The directory of the record, which that directory names.
    record: str | None = None
    #: The persistent layer, the named volumes and the paths of the archives that it uses.
    layer: str | None = None
    volumes: tuple[str, ...] = ()
    archives: tuple[str, ...] = ()
    #: The descriptors of the supervisor that refer to the namespaces of the run, by kind.
    namespaces: tuple[tuple[str, int], ...] = ()
    #: How the mount table names its root, where processes are found by that.
    root: str | None = None
    cgroups: tuple[str, ...] = ()
    #: The id maps, as JSON has them.
    ids: Any = None


def read(state: object) -> RunRecord | None:
    """Return the record that *state* is, what JSON has of a state.json; None where it is something else."""
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


def judge(record: RunRecord | None, here: Place, *, lock: Lock, alive: bool) -> Verdict:
    """Return what is known of the run of *record*, None for one that cannot be read, to a process in *here*.

    *alive* says whether this pid namespace has a process with the recorded pid and start. A lock alone is not trusted: on a
    network file system it may be known to one node only, and succeed for everyone.
    """
    if record is None:
        # Whose it is is not known: the lock alone tells.
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
    # Its pid is a number of another pid namespace, and its /var/tmp may be another one, too.
    return "ended" if lock == "free" else "unknown"
