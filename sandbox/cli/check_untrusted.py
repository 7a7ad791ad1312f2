"""Add facts of this machine to the results of `check --untrusted`: files that the program could change, and data it would use."""

from __future__ import annotations

import os

from unionfs._stdlib.dataclasses import replace

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.plan import PersistentState
    from sandbox.spec.check import CheckResult
    from sandbox.spec.diagnostic import Diagnostic
    from sandbox.spec.model import Spec
    from sandbox.spec.requests import Request


def with_local_facts(checked: CheckResult) -> CheckResult:
    """Return *checked* with warnings about files that decide the next start, and with existing state that the file would use.

    Host paths are resolved, but only the records of persistent layers and volumes are opened for reading.
    """
    warnings = {warning: None for spec in checked.specs for warning in _exposures(spec)}
    persistent = [_persistent_state(spec) for spec in checked.specs]
    requests = checked.requests
    if requests is not None:
        requests = tuple(_with_persistent_state(request, persistent) for request in requests)
    return replace(checked, diagnostics=[*warnings, *checked.diagnostics], requests=requests)


def _exposures(spec: Spec) -> tuple[Diagnostic, ...]:
    from sandbox.host.facts import launcher_paths, launcher_trees
    from sandbox.host.paths import inspect_all
    from sandbox.plan import exposures
    from sandbox.plan.exposure import watched_paths

    trees, others = launcher_trees(), launcher_paths()
    paths, shown = watched_paths(spec, trees=trees, others=others)
    return exposures(spec, inspect_all(paths, shown=shown), trees=trees, others=others)


def _persistent_state(spec: Spec) -> PersistentState | str:
    """Return the existing layers and volumes that *spec* would use, or the reason why they cannot be examined."""
    from sandbox.errors import StateError
    from sandbox.state.layer_records import look
    from sandbox.state.location import default_path

    try:
        return look(spec, os.path.realpath(default_path(os.environ, os.geteuid())))
    except StateError as error:
        return error.message


def _with_persistent_state(request: Request, persistent: list[PersistentState | str]) -> Request:
    notes: list[str] = []
    for one in persistent:
        if isinstance(one, str):
            notes += [one] if request.key == "root.writable" else []
        elif request.key == "root.writable" and one.own is not None:
            notes.append(one.own.shown())
        elif request.what.removeprefix("volume ") in one.volumes:
            notes.append("it exists already")
    return replace(request, text="; ".join(dict.fromkeys([request.text, *notes])))
