"""Plan the environment variables of the program, from the spec, its env_file, inherited variables and defaults."""

from __future__ import annotations

from collections.abc import Mapping

from sandbox.host.paths import PathFact
from sandbox.plan.findings import Findings
from sandbox.spec.diagnostic import Diagnostic
from sandbox.spec.model import Spec
from sandbox.spec.notation import shown
from unionfs._stdlib.dataclasses import dataclass

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """A variable of an env_file, and the line that sets it, counted from 1."""

    name: str
    value: str
    line: int


def plan_environment(
    spec: Spec,
    paths: Mapping[str, PathFact],
    environ: Mapping[str, str],
    findings: Findings,
    *,
    terminal: bool,
) -> Mapping[str, str]:
    """Return the variables. In falling precedence: process.env, process.env_file, process.inherit_env, image, defaults."""
    env = {"PATH": DEFAULT_PATH, "container": "sandbox"}
    if terminal:
        env["TERM"] = environ.get("TERM", "xterm")
    env |= spec.image_env
    from_file = _of_file(spec, paths, findings)
    for number, name in enumerate(spec.process.inherit_env):
        if name in environ:
            env[name] = environ[name]
        elif name not in spec.process.env and name not in from_file:
            reason = "not set in the environment of `sandbox up`"
            findings.degrade(f"process.inherit_env[{number}]", "is absent", reason, warned=False)
    return {**env, **from_file, **spec.process.env}


def _of_file(spec: Spec, paths: Mapping[str, PathFact], findings: Findings) -> Mapping[str, str]:
    path = spec.process.env_file
    if path is None:
        return {}
    fact = paths[path]
    if fact.content is None:
        reason = fact.reason or f"is a {fact.kind}, not a file"
        hint = fact.remedy or "name a file with lines NAME=VALUE"
        findings.refuse("process.env_file", f"{path}: {reason}", hint)
        return {}
    variables, mistakes = parse_variables(fact.content, path)
    findings.refusals += mistakes
    return {variable.name: variable.value for variable in variables}


def parse_variables(content: bytes, path: str) -> tuple[list[Variable], list[Diagnostic]]:
    """Return the variables of an env_file, in order, and a diagnostic for each line with a mistake.

    The format is that of --env-file of docker-run(1): each line is NAME=VALUE. The value is taken as it is, quotes included.
    Blank lines and lines that begin with # are ignored. A NAME alone is a mistake here: in docker-run(1) it passes the
    caller's variable on, which process.inherit_env does. Messages do not quote values, which are often secrets.
    """
    variables: list[Variable] = []
    mistakes: list[Diagnostic] = []
    for number, raw in enumerate(content.split(b"\n"), 1):
        try:
            line = raw.decode().removesuffix("\r").lstrip()
        except UnicodeDecodeError as error:
            message = f"the line is not UTF-8: byte 0x{raw[error.start]:02x}"
            mistakes.append(_mistake(path, number, message, "save the file as UTF-8"))
            continue
        if not line or line.startswith("#"):
            continue
        name, equals, value = line.partition("=")
        mistake = _wrong(name, value, has_value=bool(equals))
        if mistake is not None:
            mistakes.append(_mistake(path, number, *mistake))
        else:
            variables.append(Variable(name=name, value=value, line=number))
    return variables, mistakes


def _wrong(name: str, value: str, *, has_value: bool) -> tuple[str, str] | None:
    """Return message and hint for a line that sets no valid variable; None if it sets one."""
    if not has_value:
        # Do not quote the line: it may be a secret whose name is missing.
        return (
            "expected NAME=VALUE",
            "write NAME=VALUE; to pass a variable on, name it in process.inherit_env",
        )
    if name.startswith("\ufeff"):
        return "the file starts with a byte order mark", "save it as UTF-8 without byte order mark"
    if not name or any(char.isspace() or not char.isprintable() for char in name):
        return (
            f"{shown(name)} cannot name an environment variable",
            "a name must not be empty or contain blanks",
        )
    if "\0" in value:
        return (
            f"the value of {name} contains a NUL character",
            "remove it: no variable can contain one (environ(7))",
        )
    return None


def _mistake(path: str, line: int, message: str, hint: str) -> Diagnostic:
    return Diagnostic(file=path, line=line, column=1, message=message, hint=hint)
