"""From an environment file that is loaded to its plan on this machine, for the verbs that plan. Changes nothing."""

from __future__ import annotations

import os

from sandbox.records import dataclass

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from sandbox.errors import SandboxError
    from sandbox.host import HostFacts
    from sandbox.joining import Found
    from sandbox.plan import Draft, Kept
    from sandbox.private import PrivateFacts
    from sandbox.sources import PathFact
    from sandbox.spec.model import Spec


@dataclass(frozen=True, slots=True, kw_only=True)
class Planning:
    """A draft, and what it was made from."""

    draft: Draft
    facts: HostFacts
    paths: Mapping[str, PathFact]
    #: Where the state is kept; empty where it cannot be, for the reason *state*.
    state_directory: str
    state: SandboxError | None
    #: What is kept there that the file would use.
    kept: Kept


def plan(spec: Spec, command: tuple[str, ...] | None = None, *, accept_layers: bool = False) -> Planning:
    """Look at this machine and draft the plan of *spec*, with *command* instead of the file's.

    With *accept_layers* a persistent layer is taken that was made over other layers.
    """
    from sandbox import host, state
    from sandbox.errors import StateError
    from sandbox.keeping import default_path
    from sandbox.kept import look
    from sandbox.plan import Kept, draft, host_details, host_files, host_paths
    from sandbox.sources import inspect_all

    facts = host.gather()
    problem: SandboxError | None
    try:
        path = default_path(os.environ, facts.uid)
        directory = os.path.realpath(path)
        problem = state.examine(directory)
    except StateError as error:
        path, directory, problem = "", "", error
    kept = Kept()
    try:
        kept = look(spec, directory)
    except StateError as error:
        problem = problem or error
    paths = inspect_all(host_paths(spec, facts), read=host_files(spec), **host_details(spec, facts))
    made = draft(
        spec,
        facts,
        paths,
        environ=os.environ,
        state_directory=directory,
        private=private_directories(path, facts.uid),
        joined=joined_namespaces(spec, directory),
        command=command,
        kept=kept,
        accept_layers=accept_layers,
    )
    return Planning(draft=made, facts=facts, paths=paths, state_directory=directory, state=problem, kept=kept)


def private_directories(state: str, uid: int) -> PrivateFacts:
    """Look at the state directory *state*, none where that is empty, and at the run directory of the user *uid*."""
    from sandbox import private, run_directory

    return private.look(state=state, run=run_directory.default_path(os.environ, uid))


def joined_namespaces(spec: Spec, state_directory: str) -> Found:
    """Look at the namespaces that *spec* joins; what that takes is imported where there are any."""
    names = spec.namespaces
    kinds = (names.user, names.pid, names.net, names.ipc, names.uts, names.cgroup, names.time)
    if not any(isinstance(value, str) and ":" in value for value in kinds):
        return {}
    from sandbox.joining import inspect

    return inspect(spec, state_directory)
