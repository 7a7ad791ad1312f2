"""List the processes of a running sandbox with their ids inside and outside; proc_pid_status(5)."""

from __future__ import annotations

from sandbox.errors import StateError
from sandbox.kernel import process
from sandbox.state.layer_records import ids_from_json
from sandbox.state.runs import Run
from unionfs._stdlib.dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxProcess:
    """One process of a sandbox."""

    #: Its pid on this machine, and that in the sandbox; None if the sandbox has no pid namespace of its own.
    pid: int
    pid_inside: int | None
    #: Its effective user id on this machine, and that in the sandbox; None if the sandbox has no such id.
    uid: int
    uid_inside: int | None
    #: The memory that it has in use, in bytes (VmRSS).
    memory: int
    command: str

    def as_dict(self) -> dict[str, object]:
        """Return the process for JSON."""
        return asdict(self)


def processes_of(run: Run) -> list[SandboxProcess]:
    """Return the processes of *run*, process 1 first. One that ends meanwhile is left out.

    Raises:
        StateError: the sandbox is only starting.
    """
    record = run.record
    if record is None or record.init is None:
        raise StateError(f"sandbox {run.shown()} has no process yet", hint="run the command again")
    ids = ids_from_json(record.ids)
    maps = () if ids is None else ids.uid_map
    found = []
    for pid in process.family_of(record.init):
        status = _status(pid)
        if status is None:
            continue
        uid, pids = int(status["Uid"].split()[1]), status.get("NSpid", "").split()
        inside = next(
            (one.inside + uid - one.outside for one in maps if one.outside <= uid < one.outside + one.count),
            None,
        )
        found.append(
            SandboxProcess(
                pid=pid,
                pid_inside=int(pids[-1]) if len(pids) > 1 else None,
                uid=uid,
                uid_inside=inside,
                memory=int(status.get("VmRSS", "0 kB").split()[0]) << 10,
                command=_command(pid) or f"[{status['Name']}]",
            )
        )
    return found


def _status(pid: int) -> dict[str, str] | None:
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
            return {key: value.strip() for key, _, value in (line.partition(":") for line in file)}
    except (FileNotFoundError, ProcessLookupError):
        return None


def _command(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", encoding="utf-8", errors="replace") as file:
            return " ".join(file.read().rstrip("\0").split("\0"))
    except (FileNotFoundError, ProcessLookupError):
        return ""
