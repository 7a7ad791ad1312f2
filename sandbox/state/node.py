"""Which machine this is: what tells runs of this machine in a shared state directory from those of others.

The machine id is that of machine-id(5). Containers of one image may share it, so the host name belongs to the identity of a node.
"""

from __future__ import annotations

import os

from unionfs._stdlib.dataclasses import dataclass

RECORD_VERSION = 2
"""The version of the records of runs (sandbox/state/run_record.py). Those of version 1 do not say where a run is."""

_MACHINE_ID = ("/etc/machine-id", "/var/lib/dbus/machine-id")
_BOOT_ID = "/proc/sys/kernel/random/boot_id"
_PID_NAMESPACE = "/proc/self/ns/pid"


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One machine, as its users tell it from others. *machine* is empty where the machine has no id."""

    machine: str
    host: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a process runs: on which node, since which boot of it, and in which pid namespace, whose numbers its pid is one of."""

    node: Node
    boot: str
    pid_namespace: str

    def as_record(self, *, pid: int, start: int | None) -> dict[str, int | str | None]:
        """Return the part of a record that says whose it is: of the process *pid* here, which was started at *start*."""
        return {
            "version": RECORD_VERSION,
            "machine": self.node.machine,
            "host": self.node.host,
            "boot": self.boot,
            "pid_namespace": self.pid_namespace,
            "pid": pid,
            "start": start,
        }


def this_place() -> Place:
    """Return where this process runs.

    Raises:
        OSError: a file that says so is there and cannot be read.
    """
    return Place(
        node=Node(machine=_machine_id(), host=os.uname().nodename),
        boot=_read(_BOOT_ID),
        pid_namespace=_link(_PID_NAMESPACE),
    )


def _machine_id() -> str:
    for path in _MACHINE_ID:
        found = _read(path)
        if found and found != "uninitialized":  # machine-id(5), of an image that was never booted
            return found
    return ""


def _read(path: str) -> str:
    """Return the line in *path*, "" where there is none for this account."""
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.readline().strip()
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return ""


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except FileNotFoundError:
        return ""
