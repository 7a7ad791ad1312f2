"""Check the program, its limits and its restarts, the steps of a build, and the other sandboxes of the file."""

from __future__ import annotations

from collections.abc import Iterator

from sandbox.spec.model import Spec
from sandbox.spec.notation import guesses, quote, shown
from sandbox.spec.origin import Problem
from sandbox.spec.relations import cycles
from sandbox.spec.rules.rule import elements
from sandbox.spec.settings import settings_of
from sandbox.spec.units import format_size


def stop_signal_can_end_programs(spec: Spec) -> Iterator[Problem]:
    # Process 1 receives it for its own children, and cannot tell that from a signal to pass on.
    if spec.process.stop_signal == "SIGCHLD":
        yield Problem(
            path=("process", "stop_signal"),
            message="SIGCHLD does not end a program",
            hint='use another signal, such as "SIGTERM"',
        )


def swap_needs_memory(spec: Spec) -> Iterator[Problem]:
    if spec.limits.swap is not None and spec.limits.memory is None:
        yield Problem(
            path=("limits", "swap"),
            message="needs limits.memory: without it, memory is not limited",
            hint='add memory = "512M" to [limits]',
        )


def memory_high_is_below_memory(spec: Spec) -> Iterator[Problem]:
    high, most = spec.limits.memory_high, spec.limits.memory
    if high is not None and most is not None and high > most:
        yield Problem(
            path=("limits", "memory_high"),
            message=f"is above limits.memory, which is {format_size(most)}, and would have no effect",
            hint="lower it, or remove it",
        )


def restarting_is_wanted(spec: Spec) -> Iterator[Problem]:
    if spec.restart is None or spec.restart.policy != "no":
        return
    for key in ("max", "delay"):
        if spec.is_set(("restart", key)):
            yield Problem(
                path=("restart", key),
                message='has no effect with restart.policy = "no"',
                hint='set policy = "on-failure"',
                part="key",
            )


def dependencies_have_an_order(spec: Spec) -> Iterator[Problem]:
    cycle_of = cycles({name: member.depends_on for name, member in spec.sandboxes.items()})
    guess = guesses()
    for name, member in spec.sandboxes.items():
        for index, other in elements(member.depends_on):
            path = ("sandboxes", name, "depends_on", index)
            if other not in spec.sandboxes:
                meant = guess(other, spec.sandboxes)
                hint = f"did you mean {quote(meant)}?" if meant else f"add [sandboxes.{other}]"
                yield Problem(path=path, message=f"there is no sandbox {shown(other)}", hint=hint)
            elif cycle_of[other] == cycle_of[name]:
                yield Problem(
                    path=path,
                    message=f"{other} depends on {name} itself",
                    hint="remove one of these dependencies",
                )


def build_steps_do_one_thing(spec: Spec) -> Iterator[Problem]:
    for index, step in elements(spec.build):
        path = ("build", index)
        run, copy = (spec.is_set((*path, key)) for key in ("run", "copy"))
        if run and copy:
            message = 'expected one of "run" and "copy", found both'
            yield Problem(path=path, message=message, hint="write a step of its own for each", part="key")
        elif not any(spec.is_set((*path, key)) for key in settings_of(type(step)) if key != "network"):
            hint = 'add run = "make", for example, or remove the step'
            yield Problem(path=path, message="the step does nothing", hint=hint, part="key")
        elif spec.is_set((*path, "network")) and not run:
            yield Problem(
                path=(*path, "network"),
                message="only a step with run uses a network",
                hint="remove it",
                part="key",
            )


def optional_names_settings(spec: Spec) -> Iterator[Problem]:
    guess = guesses()
    for table in settings_of(Spec):
        value = getattr(spec, table)
        if not isinstance(getattr(value, "optional", None), tuple):
            continue
        known = [key for key in settings_of(type(value)) if key != "optional"]
        for index, name in elements(value.optional):
            if name in known and settings_of(type(value))[name].required:
                yield Problem(
                    path=(table, "optional", index),
                    message=f"{shown(name)} cannot be optional: it is required",
                    hint="remove it from the list",
                )
            if name not in known:
                meant = guess(name, known)
                yield Problem(
                    path=(table, "optional", index),
                    message=f"{shown(name)} is not a key of [{table}]",
                    hint=f"did you mean {quote(meant)}?" if meant else f"list other keys of [{table}]",
                )
