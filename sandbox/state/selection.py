"""Find the sandbox that an argument of the command line selects: a name, the beginning of an id, or an environment file."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from sandbox.errors import StateError
from sandbox.state.runs import Run, list_runs
from unionfs._stdlib.typing import TypeVar

T = TypeVar("T")


def is_file(argument: str) -> bool:
    """Return whether *argument* names an environment file, not a sandbox."""
    return "/" in argument or argument.endswith(".toml")


def selects(argument: str, names: Sequence[str], file: str | None) -> bool:
    """Return whether *argument* is one of *names* or the environment file *file*."""
    if not is_file(argument):
        return argument in names
    try:
        return file is not None and os.path.samefile(file, argument)
    except OSError:
        return file == os.path.abspath(argument)


def by_prefix(argument: str, candidates: Sequence[T], id_of: Callable[[T], str]) -> list[T]:
    """Return those of *candidates* whose id begins with *argument*, which is not a file: none or one.

    Raises:
        StateError: there are several.
    """
    found = [one for one in candidates if id_of(one).startswith(argument)]
    if len(found) > 1:
        names = ", ".join(sorted(map(id_of, found)))
        raise StateError(f"{argument} is the beginning of several names: {names}", hint="write more of it")
    return found


def running(state_directory: str, argument: str) -> Run:
    """Return the run on this node that *argument* selects; of several with one name or file, the newest.

    Raises:
        StateError: there is none.
    """
    runs = [run for run in list_runs(state_directory) if run.state == "running" and run.record is not None]
    found = [
        run for run in runs if run.record and selects(argument, (run.record.name, run.id), run.record.file)
    ]
    if not found and not is_file(argument):
        found = by_prefix(argument, runs, lambda run: run.id)
    if not found:
        raise StateError(
            f"no sandbox {argument} is running",
            hint="`sandbox up` starts one; its name is sandbox.name of the file",
        )
    return max(found, key=lambda run: (run.record.start if run.record else None) or 0)
