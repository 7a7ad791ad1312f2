"""Plan the process of the program: its command, user, environment, terminal, capabilities and rlimits."""

from __future__ import annotations

from collections.abc import Mapping

from sandbox.host.facts import HostFacts
from sandbox.host.paths import PathFact
from sandbox.kernel import capabilities
from sandbox.plan.environment import plan_environment
from sandbox.plan.findings import Findings
from sandbox.plan.values import ProcessPlan
from sandbox.spec.model import Spec
from sandbox.spec.values import User

DEFAULT_COMMAND = ("/bin/sh",)


def plan_process(
    spec: Spec,
    facts: HostFacts,
    paths: Mapping[str, PathFact],
    environ: Mapping[str, str],
    command: tuple[str, ...] | None,
    limits: Mapping[str, int | str],
    findings: Findings,
    *,
    user: User,
    groups: tuple[int | str, ...] | None,
) -> ProcessPlan:
    """Plan the program, which runs as *user* with *groups*; *command* replaces the command and arguments of the file."""
    process = spec.process
    security = spec.security
    automatic = facts.terminal and not facts.background
    terminal = automatic if process.terminal == "auto" else bool(process.terminal)
    empty_input = facts.background and not terminal
    if empty_input:
        without = "" if process.terminal is False or not facts.terminal else "no terminal and "
        findings.degrade(
            "process.terminal",
            f"gives {without}an empty standard input (/dev/null)",
            "the command was started in the background",
        )
    try:
        allowed = capabilities.effective_set(
            capabilities.DEFAULT, security.capabilities.drop, security.capabilities.add
        )
        added = capabilities.effective_set(frozenset(), (), security.capabilities.add)
    except ValueError as error:
        findings.refuse("security.capabilities", str(error))
        allowed = added = frozenset()
    return ProcessPlan(
        argv=command or (process.command or DEFAULT_COMMAND) + process.args,
        cwd=process.cwd,
        env=plan_environment(spec, paths, environ, findings, terminal=terminal),
        user=user,
        groups=groups,
        umask=process.umask,
        terminal=terminal,
        empty_input=empty_input,
        stop_signal=process.stop_signal,
        stop_timeout=process.stop_timeout,
        capabilities=allowed,
        added_capabilities=added,
        no_new_privileges=security.no_new_privileges,
        rlimits=limits,
        oom_score_adj=spec.limits.oom_score_adj,
    )
