"""Start sandboxes in the background for `sandbox up --detach`, and check that this is possible."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from sandbox.errors import SandboxError, StateError
from sandbox.plan import Plan
from sandbox.runtime.detaching import Background, detach
from sandbox.state.directory import StateDirectory
from sandbox.state.names import reserve
from sandbox.state.runs import Run, list_runs


def run_in_background(arguments: argparse.Namespace, run: Callable[[Background], int]) -> int:
    """Call *run* in a supervisor in the background; return the exit status of this process.

    Raises:
        SandboxError: an option needs the foreground; or, in the supervisor, what *run* raises.
    """
    for option in ("json", "report", "timings", "diff", "trace_denials"):
        if getattr(arguments, option):
            name = option.replace("_", "-")
            raise SandboxError(
                f"--{name} prints to this terminal at the end, which --detach does not wait for"
            )
    if arguments.file == "-":
        raise SandboxError("--detach cannot read the file from standard input", hint="write it to a file")
    started = detach()
    if isinstance(started, Background):
        return run(started)
    if started.identity:
        sys.stdout.write(f"{started.identity}\n")
    return started.status


def check_plan(plan: Plan, directory: StateDirectory, *, replace: bool) -> None:
    """Refuse *plan* if it cannot run in the background; reserve its name there. With *replace*, end the sandbox that has it.

    The name is free again when this process ends, and its record is removed.

    Raises:
        SandboxError: it cannot, or the name is in use.
    """
    if plan.process.terminal:
        raise SandboxError(
            "--detach: a program in the background has no terminal",
            hint='remove process.terminal = true, or set it to "auto"',
        )
    if directory.run_path == directory.path:
        raise SandboxError(
            "--detach needs a run directory", hint="set SANDBOX_RUN_DIR to a directory on a local file system"
        )
    if plan.network is not None and plan.network.on_failure == "restart":
        raise SandboxError(
            '--detach: network.on_failure = "restart" works only in the foreground',
            hint='set it to "stop", or run `sandbox up` as a service of systemd',
        )
    others = [one for one in list_runs(directory.path) if _has_name(one, plan.name)]
    if replace and others:
        from sandbox.lifecycle.running import remove
        from sandbox.state.location import Locations

        for other in others:
            remove(Locations(state=directory.path, images=directory.images), other)
        others = []
    hint = f"`sandbox rm --force {plan.name}`, or add --replace"
    if not reserve(directory.run_path, plan.name):
        raise StateError(
            f"the name {plan.name} is in use by a sandbox that is starting or running", hint=hint
        )
    if others:
        other = others[0]
        state = "running" if other.state == "running" else "kept although it has ended"
        raise StateError(f"the name {plan.name} is in use: {other.shown()} is {state}", hint=hint)


def _has_name(run: Run, name: str) -> bool:
    return run.record is not None and run.record.background and run.record.name == name
