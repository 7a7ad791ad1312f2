"""Try pasta(1), which connects private networks, in a network namespace of its own."""

from __future__ import annotations

import os

from sandbox.doctor.child import Report, attempt, run_limited
from sandbox.doctor.facts import ProgramFacts
from sandbox.errors import SetupError
from sandbox.host import network_facts
from sandbox.host.facts import HostFacts
from sandbox.kernel import idmaps, namespaces, process
from sandbox.network import pasta
from sandbox.plan.network_values import NetworkPlan


def probe_pasta(facts: HostFacts, search_path: str) -> ProgramFacts:
    """Find pasta in *search_path* (as in $PATH), and connect a new network namespace with it as a start does."""
    path = network_facts.look(search_path).pasta
    if path is None:
        return ProgramFacts(path=None)
    plan = NetworkPlan(pasta=path, as_root=facts.is_real_root)
    outcome = run_limited(lambda report: _try(report, path, plan, facts))
    failed = outcome.results.get("unshare") or outcome.results.get("id map")
    if failed:
        return ProgramFacts(path=path, problem=f"it was not tried: {failed[1]}")
    problem = outcome.results.get("pasta", outcome.problem or "it was not tried")
    return ProgramFacts(path=path, problem=problem)


def _try(report: Report, path: str, plan: NetworkPlan, facts: HostFacts) -> None:
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
            pasta.Pasta(path, pasta.command_line(plan, (), owner)).stop()
        except SetupError as error:
            report("pasta", error.message.partition("pasta cannot connect the network: ")[2] or error.message)
        else:
            report("pasta", None)
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
