"""Try the programs that connect private networks, pasta(1) and slirp4netns(1), in a network namespace of its own each."""

from __future__ import annotations

import os
from collections.abc import Callable

from sandbox.doctor.child import Report, attempt, run_limited
from sandbox.doctor.facts import ProgramFacts
from sandbox.errors import SetupError
from sandbox.host import network_facts
from sandbox.host.facts import HostFacts
from sandbox.kernel import idmaps, namespaces, process
from sandbox.network import pasta, slirp4netns
from sandbox.network.connecting_program import OUTPUT_FD, ConnectingProgram
from sandbox.plan.network_values import INTERFACE


def probe_pasta(facts: HostFacts, search_path: str) -> ProgramFacts:
    """Find pasta in *search_path* (as in $PATH), and connect a new network namespace with it as a start does."""

    def start(path: str, pid: int) -> ConnectingProgram:
        arguments = pasta.command_line(pid, INTERFACE, as_root=facts.is_real_root)
        return ConnectingProgram(path, arguments, ready_fd=OUTPUT_FD)

    return _probe(network_facts.look(search_path).pasta, start, facts)


def probe_slirp4netns(facts: HostFacts, search_path: str) -> ProgramFacts:
    """Do the same with slirp4netns."""

    def start(path: str, pid: int) -> ConnectingProgram:
        return slirp4netns.start(path, pid, INTERFACE, lambda _line: None)

    return _probe(network_facts.look(search_path).slirp4netns, start, facts)


_Start = Callable[[str, int], ConnectingProgram]
"""Starts the program at a path, which connects the network namespace of a process."""


def _probe(path: str | None, start: _Start, facts: HostFacts) -> ProgramFacts:
    if path is None:
        return ProgramFacts(path=None)
    outcome = run_limited(lambda report: _try(report, lambda pid: start(path, pid), facts))
    failed = outcome.results.get("unshare") or outcome.results.get("id map")
    if failed:
        return ProgramFacts(path=path, problem=f"it was not tried: {failed[1]}")
    problem = outcome.results.get("connect", outcome.problem or "it was not tried")
    return ProgramFacts(path=path, problem=problem)


def _try(report: Report, start: Callable[[int], ConnectingProgram], facts: HostFacts) -> None:
    ready, made = os.pipe()
    parent = os.getpid()
    owner = os.fork()
    if owner == 0:
        _own_namespaces(report, made, parent)
    os.close(made)
    try:
        if not os.read(ready, 1):
            return
        uid_map, gid_map = facts.single_maps()
        if not attempt(report, "id map", lambda: idmaps.write_maps(owner, uid_map, gid_map)):
            return
        try:
            started = start(owner)
            try:
                started.wait_until_ready()
            finally:
                started.stop()
        except SetupError as error:
            report("connect", error.message.partition(" cannot connect the network: ")[2] or error.message)
        else:
            report("connect", None)
    finally:
        process.kill_quietly(owner)
        os.waitpid(owner, 0)


def _own_namespaces(report: Report, made: int, parent: int) -> None:
    """Stay in new user and network namespaces until the parent ends this process."""
    try:
        process.set_parent_death_signal(parent=parent)
        if attempt(report, "unshare", lambda: namespaces.unshare(["user", "net"])):
            os.write(made, b"x")
            while True:
                os.read(os.pipe()[0], 1)
    finally:
        os._exit(0)
