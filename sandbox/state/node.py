"""Identify this machine, to distinguish its runs from those of other machines that share the state directory.

The identity contains the machine id (machine-id(5)) and the host name, because containers of one image may share the machine id.
"""

from __future__ import annotations

import os

from unionfs._stdlib.dataclasses import dataclass

RECORD_VERSION = 2
"""The version of the records of runs (sandbox/state/run_record.py). Records of version 1 do not contain the machine."""

_MACHINE_ID = ("/etc/machine-id", "/var/lib/dbus/machine-id")
_BOOT_ID = "/proc/sys/kernel/random/boot_id"
_PID_NAMESPACE = "/proc/self/ns/pid"


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """The identity of one machine. *machine* is empty if the machine has no id."""

    machine: str
    host: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a process runs: the node, its current boot, and the pid namespace that the process's pid belongs to."""

    node: Node
    boot: str
    pid_namespace: str

    def as_record(self, *, pid: int, start: int | None) -> dict[str, int | str | None]:
        """Return the part of a record that identifies the process *pid* in this place, started at *start*."""
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
    """Return the place of this process.

    Raises:
        OSError: a file with such a fact exists but cannot be read.
    """
    return Place(
        node=Node(machine=_machine_id(), host=os.uname().nodename),
        boot=_read(_BOOT_ID),
        pid_namespace=_link(_PID_NAMESPACE),
    )


def _machine_id() -> str:
    for path in _MACHINE_ID:
        found = _read(path)
        if found and found != "uninitialized":  # machine-id(5): an image that was never booted
            return found
    return ""


def _read(path: str) -> str:
    """Return the first line of *path*, "" if it does not exist or this user may not read it."""
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
