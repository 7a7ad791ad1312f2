"""Make the sections about the program, its user and its environment, and about the remaining settings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from sandbox.explain.case import Case
from sandbox.explain.report import DEFAULT, Fact, Origin
from sandbox.plan import Variable, written
from sandbox.spec.notation import KeyPath, format_key_path, parse_key_path, quote
from sandbox.spec.units import format_duration


def program_section(case: Case) -> Iterator[Fact]:
    """Yield facts about the command line, user, groups, directory, umask, terminal and stop signal of the program."""
    plan, process = case.plan, case.plan.process
    own = case.spec.process
    argv = list(process.argv)
    command = argv[: len(argv) - len(own.args)] if own.args else argv
    # A script is shown line by line: quoted on one line it would be unreadable.
    scripts = [line for word in command if "\n" in word for line in word.rstrip("\n").split("\n")]
    looked_up = () if "/" in command[0] else ("looked up in PATH, inside the sandbox",)
    yield Fact(
        label="command",
        text=" ".join("SCRIPT" if "\n" in word else quote(word) for word in command),
        value=argv,
        origin=case.origin("process.command"),
        keys=("process.command",),
        notes=(*looked_up, *(f"| {line}" for line in scripts)),
    )
    if own.args:
        text = " ".join(map(quote, own.args))
        origin = case.origin("process.args")
        yield Fact(label="arguments", text=text, value=list(own.args), origin=origin, keys=("process.args",))
    user = process.user
    group = "" if user.group is None else f", group {user.group}"
    named = isinstance(user.user, str) or isinstance(user.group, str)
    yield Fact(
        label="user",
        text=f"{user.user}{group}",
        value={"user": user.user, "group": user.group},
        origin=case.origin("process.user")
        if user == own.user
        else case.origin("ids.map").because("machine", "the user who starts the sandbox keeps the id"),
        keys=("process.user",),
        notes=("names are looked up in the sandbox's own /etc/passwd and /etc/group",) if named else (),
    )
    yield _groups(case)
    if own.env_file is not None:
        path, count = own.env_file, len(case.variables())
        yield _simple(case, "variables", "process.env_file", f"{count} come from {path}", path)
    yield _simple(case, "directory", "process.cwd", process.cwd, process.cwd)
    yield _simple(case, "umask", "process.umask", f"{process.umask:04o}", f"{process.umask:04o}")
    yield _terminal(case)
    wait = format_duration(process.stop_timeout)
    yield _simple(case, "stop signal", "process.stop_signal", process.stop_signal, process.stop_signal)
    yield _simple(
        case, "stop timeout", "process.stop_timeout", f"{wait}, then it is killed", process.stop_timeout
    )
    text = "an init of the sandbox, which reaps processes and forwards signals"
    yield _simple(case, "process 1", "process.init", text, own.init)
    yield _simple(case, "name", "sandbox.name", plan.name, plan.name)


def _groups(case: Case) -> Fact:
    groups, user = case.plan.process.groups, case.plan.process.user
    requested = case.spec.process.groups is not None
    by_name = isinstance(user.user, str) and user.group is None
    notes = []
    if any(isinstance(group, str) for group in groups or ()):
        notes.append("names are looked up in the sandbox's own /etc/group")
    if by_name and not requested and groups is not None:
        notes.append("the groups of the user in /etc/group cannot be set with these ids")
    return Fact(
        label="other groups",
        text="those of the user in the sandbox's own /etc/group"
        if groups is None
        else " ".join(map(str, groups)) or "none",
        value=None if groups is None else list(groups),
        origin=case.origin("process.user" if groups is None else "process.groups"),
        keys=("process.groups",),
        notes=tuple(notes),
    )


def _simple(case: Case, label: str, key: str, text: str, value: object) -> Fact:
    return Fact(label=label, text=text, value=value, origin=case.origin(key), keys=(key,))


def _terminal(case: Case) -> Fact:
    requested, given = case.spec.process.terminal, case.plan.process.terminal
    key = "process.terminal"
    is_one = "are a terminal" if case.facts.terminal else "are not both a terminal"
    return Fact(
        label="terminal",
        text="a pseudo-terminal of its own"
        if given
        else "none of its own: standard input and output are those of `up`",
        value=given,
        origin=case.origin(key)
        if requested != "auto"
        else case.decided_here(f"standard input and output {is_one}", key),
        keys=(key,),
    )


def environment_section(case: Case) -> Iterator[Fact]:
    """Yield a fact for each variable. Values from outside the file are not shown, because a report is passed on to others."""
    env = case.plan.process.env
    inherited = {name: number for number, name in enumerate(case.spec.process.inherit_env)}
    from_file = case.variables()
    for name, value in env.items():
        yield _variable(case, name, value, inherited.get(name), from_file.get(name))
    if "HOME" not in env:
        text = "the home directory of the user in the sandbox's /etc/passwd, or /"
        yield Fact(label="HOME", text=text, value={"value": None, "present": True}, origin=DEFAULT)
    if "USER" not in env:
        text = "the name of the user in the sandbox's /etc/passwd, if it has one"
        yield Fact(label="USER", text=text, value={"value": None, "present": None}, origin=DEFAULT)
    for name, number in inherited.items():
        if name not in env:
            key = f"process.inherit_env[{number}]"
            yield Fact(
                label=name,
                text="absent",
                value={"value": None, "present": False},
                origin=case.decided_here("not set in the environment of `up`", key),
                keys=(key,),
            )


def _variable(case: Case, name: str, value: str, inherited: int | None, from_file: Variable | None) -> Fact:
    """Return the fact about a variable. Its origin is the first place that gives it, in the order of precedence."""
    own = case.spec.process
    key = format_key_path(("process", "env", name))
    passed = f"process.inherit_env[{inherited or 0}]"
    places = [
        (key, case.origin(key), quote(value), name in own.env),
        (
            "process.env_file",
            Origin(kind="file", file=own.env_file, line=from_file.line if from_file else None, column=1),
            "the value in that file",
            from_file is not None,
        ),
        (
            passed,
            case.origin(passed),
            "the value in the environment of `up`",
            inherited is not None and name in case.environ,
        ),
    ]
    given = [(where, origin, text) for where, origin, text, there in places if there]
    if not given:
        terminal = case.decided_here("the program gets a terminal", "process.terminal")
        image = case.spec.image_env.get(name)
        of_image = Origin(kind="image", reason=case.spec.image_values.get("process.env"))
        origin = terminal if name == "TERM" else of_image if image is not None else DEFAULT
        return Fact(label=name, text=quote(value), value={"value": value, "present": True}, origin=origin)
    where, origin, text = given[0]
    lost = [other for other, _, _ in given[1:]]
    keys = [where, *lost, *([passed] if inherited is not None and passed not in (where, *lost) else [])]
    return Fact(
        label=name,
        text=text,
        value={"value": value if where == key else None, "present": True},
        origin=origin,
        keys=tuple(keys),
        notes=(f"overrides {' and '.join(lost)}",) if lost else (),
    )


def settings_section(case: Case, reported: Iterable[Fact]) -> Iterator[Fact]:
    """Yield a fact for each setting of the file that no fact in *reported* covers, so that the report is complete."""
    answered = {parse_key_path(key) for fact in reported for key in fact.keys}
    left = [
        path
        for path in set_keys(case)
        if not any(path[:length] in answered for length in range(1, len(path) + 1))
    ]
    # A list of strings is one setting.
    for path in dict.fromkeys(path[:-1] if isinstance(path[-1], int) else path for path in left):
        key = format_key_path(path)
        value = written(case.spec, path)
        # The settings of a selected profile appear as the values that they change.
        text = f"{value}, with --profile {path[1]}" if path[0] == "profile" and len(path) > 1 else value
        yield Fact(label=key, text=text, value=value, origin=case.effective(key), keys=(key,))


def set_keys(case: Case) -> list[KeyPath]:
    """Return the settings that the files set, in order, without the tables and lists that contain other settings."""
    paths = case.spec.origins.by_path
    around = {path[:length] for path in paths for length in range(1, len(path))}
    return [path for path in paths if path not in around]
