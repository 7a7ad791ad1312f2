"""Parse the JSON profiles that docker and podman take with --security-opt seccomp=FILE. Pure.

Unknown keys and values are errors: an ignored key might be the one that refuses something.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator, Mapping

from sandbox.seccomp.values import (
    ALLOW,
    KILL_PROCESS,
    KILL_THREAD,
    LOG,
    TRACE,
    TRAP,
    Comparison,
    Filter,
    Machine,
    Rule,
    fail,
)
from unionfs._stdlib.typing import Any, TypeGuard

_ACTIONS: Mapping[str, int] = {
    "SCMP_ACT_ALLOW": ALLOW,
    "SCMP_ACT_LOG": LOG,
    "SCMP_ACT_KILL": KILL_THREAD,
    "SCMP_ACT_KILL_THREAD": KILL_THREAD,
    "SCMP_ACT_KILL_PROCESS": KILL_PROCESS,
    "SCMP_ACT_TRAP": TRAP,
    "SCMP_ACT_TRACE": TRACE,
}
_OPERATIONS = frozenset({"NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"})

_LISTENERS = ("listenerPath", "listenerMetadata")
_KEYS = frozenset(
    {
        "defaultAction", "defaultErrnoRet", "defaultErrno", "architectures", "archMap", "flags", "syscalls", "$schema",
        *_LISTENERS,
    }
)  # fmt: skip
_FLAGS = frozenset({"SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_TSYNC"})
"""The accepted `flags`. None of them changes what is allowed, and none is passed to the kernel."""
_CALL_KEYS = frozenset(
    {"name", "names", "action", "args", "comment", "includes", "excludes", "errnoRet", "errno"}
)
_FILTER_KEYS = frozenset({"arches", "caps", "minKernel"})
_ARGUMENT_KEYS = frozenset({"index", "value", "valueTwo", "op"})


class ProfileError(ValueError):
    """The profile cannot be used. *where* is a position in it, such as "syscalls[3].args[0]"."""

    def __init__(self, where: str, message: str) -> None:
        super().__init__(f"{where}: {message}" if where else message)


def parse_profile(
    text: bytes, machine: Machine, capabilities: frozenset[str], kernel: tuple[int, int]
) -> Filter:
    """Return the filter of the profile *text* for a program that may have *capabilities* on *machine* with *kernel*.

    Raises:
        ProfileError: *text* is not such a profile, or needs a feature that is not supported.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ProfileError("", f"is not JSON: {error}") from None
    profile = _table(document, "", _KEYS)
    for key in _LISTENERS:
        if profile.get(key):
            raise ProfileError(key, "needs a seccomp agent, which sandbox does not support")
    for number, flag in enumerate(_list(profile, "flags", "")):
        if flag not in _FLAGS:
            raise ProfileError(f"flags[{number}]", f"{flag!r} is not a known flag")
    default = _action(
        profile.get("defaultAction"),
        "defaultAction",
        profile.get("defaultErrnoRet"),
        profile.get("defaultErrno"),
    )
    rules: list[Rule] = []
    for number, item in enumerate(_list(profile, "syscalls", "")):
        where = f"syscalls[{number}]"
        call = _table(item, where, _CALL_KEYS)
        if _applies(call, where, machine, capabilities, kernel):
            rules += _rules(call, where)
    return Filter(
        default=default,
        architectures=_architectures(profile, machine),
        rules=tuple(rules),
    )


def _table(value: Any, where: str, keys: frozenset[str]) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ProfileError(where, "is not an object")
    for key in value:
        if key not in keys:
            raise ProfileError(f"{where}.{key}".lstrip("."), "is not a known key")
    return value


def _list(table: Mapping[str, Any], key: str, where: str) -> list[Any]:
    value = table.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        raise ProfileError(f"{where}.{key}".lstrip("."), "is not an array")
    return value


def _action(name: Any, where: str, number: Any, symbol: Any) -> int:
    if name == "SCMP_ACT_NOTIFY":
        raise ProfileError(where, "needs a seccomp agent, which sandbox does not support")
    if name == "SCMP_ACT_ERRNO":
        return fail(_errno(where, number, symbol))
    if name not in _ACTIONS:
        raise ProfileError(where, f"{name!r} is not an action")
    action = _ACTIONS[name]
    return action | _errno(where, number, symbol) if action == TRACE else action


def _errno(where: str, number: Any, symbol: Any) -> int:
    # A name, if present, takes precedence: errno numbers differ between machines.
    if symbol:
        found = getattr(errno, symbol, None) if isinstance(symbol, str) else None
        if not isinstance(found, int):
            raise ProfileError(where, f"{symbol!r} is not the name of an errno")
        return found
    if number is None:
        return errno.EPERM
    if not _is_integer(number) or not 0 < number <= 4095:
        raise ProfileError(where, f"{number!r} is not an errno")
    return int(number)


def _is_integer(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _architectures(profile: Mapping[str, Any], machine: Machine) -> tuple[str, ...]:
    """Return the named architectures, other than its own, that *machine* can run. Others would only make the program longer."""
    named: list[Any] = []
    for number, item in enumerate(_list(profile, "archMap", "")):
        where = f"archMap[{number}]"
        entry = _table(item, where, frozenset({"architecture", "subArchitectures"}))
        if entry.get("architecture") == f"SCMP_ARCH_{machine.native}":
            named += _list(entry, "subArchitectures", where)
    named += _list(profile, "architectures", "")
    possible = (*machine.others, "X32") if machine.native == "X86_64" else machine.others
    return tuple(name for name in possible if f"SCMP_ARCH_{name}" in named)


def _applies(
    call: Mapping[str, Any],
    where: str,
    machine: Machine,
    capabilities: frozenset[str],
    kernel: tuple[int, int],
) -> bool:
    includes = _table(call.get("includes") or {}, f"{where}.includes", _FILTER_KEYS)
    excludes = _table(call.get("excludes") or {}, f"{where}.excludes", _FILTER_KEYS)
    arches = _list(includes, "arches", f"{where}.includes")
    caps = _list(includes, "caps", f"{where}.includes")
    if arches and machine.go not in arches:
        return False
    if caps and not all(_has(capabilities, name) for name in caps):
        return False
    if (least := includes.get("minKernel")) and kernel < _version(least, f"{where}.includes.minKernel"):
        return False
    if machine.go in _list(excludes, "arches", f"{where}.excludes"):
        return False
    if any(_has(capabilities, name) for name in _list(excludes, "caps", f"{where}.excludes")):
        return False
    too_new = excludes.get("minKernel")
    return not (too_new and kernel >= _version(too_new, f"{where}.excludes.minKernel"))


def _has(capabilities: frozenset[str], name: Any) -> bool:
    return isinstance(name, str) and name.removeprefix("CAP_") in capabilities


def _version(text: Any, where: str) -> tuple[int, int]:
    parts = text.split(".") if isinstance(text, str) else []
    if len(parts) != 2 or not all(part.isdecimal() for part in parts):
        raise ProfileError(where, f"{text!r} is not a version such as 4.8")
    return int(parts[0]), int(parts[1])


def _rules(call: Mapping[str, Any], where: str) -> Iterator[Rule]:
    names = tuple(_list(call, "names", where)) or ((call["name"],) if call.get("name") else ())
    if not names or not all(isinstance(name, str) and name and name.isascii() for name in names):
        raise ProfileError(where, "names no system call")
    action = _action(call.get("action"), f"{where}.action", call.get("errnoRet"), call.get("errno"))
    conditions = [
        _condition(item, f"{where}.args[{number}]") for number, item in enumerate(_list(call, "args", where))
    ]
    indexes = [one.index for one in conditions]
    if len(set(indexes)) == len(indexes):
        yield Rule(action, names, tuple(conditions))
        return
    # Two conditions on one argument are alternatives, as in runc and crun: libseccomp does not support them in one rule.
    for one in conditions:
        yield Rule(action, names, (one,))


def _condition(value: Any, where: str) -> Comparison:
    table: Mapping[str, Any] = _table(value, where, _ARGUMENT_KEYS)
    index, first, second = table.get("index"), table.get("value", 0), table.get("valueTwo") or 0
    operation = table.get("op")
    name = operation.removeprefix("SCMP_CMP_") if isinstance(operation, str) else ""
    if name not in _OPERATIONS:
        raise ProfileError(f"{where}.op", f"{operation!r} is not a comparison")
    if not _is_integer(index) or not 0 <= index <= 5:
        raise ProfileError(f"{where}.index", f"{index!r} is not the number of an argument, 0 to 5")
    for key, number in (("value", first), ("valueTwo", second)):
        if not _is_integer(number) or not 0 <= number < 1 << 64:
            raise ProfileError(f"{where}.{key}", f"{number!r} is not a number of 64 bits")
    return Comparison(index, name, first, second if name == "MASKED_EQ" else 0)
