"""Look up the program's account in the sandbox's own files, and check that its ids are mapped in the sandbox."""

from __future__ import annotations

from collections.abc import Sequence

from sandbox.kernel.idmaps import IdMap, lookup
from sandbox.plan import Plan
from sandbox.runtime.process.passwd import (
    MAX_GROUPS,
    Account,
    UnknownAccountError,
    find_groups,
    groups_of,
    resolve,
)
from sandbox.runtime.rootfs.executor import StepError
from sandbox.spec.notation import visible
from unionfs._stdlib.dataclasses import replace

#: The most characters of a name from the sandbox's files that a message shows.
_SHOWN = 64


def find_account(plan: Plan, root_fd: int) -> Account:
    """Return the account of the program of *plan* in the root *root_fd*.

    Raises:
        StepError: the user or group does not exist, or is not mapped in the sandbox.
    """
    user, ids = plan.process.user, plan.ids
    try:
        account = resolve(root_fd, user.user, user.group)
    except UnknownAccountError as error:
        raise StepError(
            "process.user", "", OSError(0, str(error)), "name one that exists there, or an id"
        ) from None
    for what, number, id_map in (("user", account.uid, ids.uid_map), ("group", account.gid, ids.gid_map)):
        if lookup(id_map, number) is None:
            text = f"{what} {number} of {_shown(account.name or str(user.user))} in the sandbox's /etc/passwd is not in its id map"
            raise StepError("process.user", "", OSError(0, text), "name another user, or map more ids")
    groups = plan.process.groups
    found = (
        _numbers(root_fd, groups, ids.gid_map)
        if groups is not None
        else _groups_of(root_fd, str(user.user), ids.gid_map)
    )
    return replace(account, groups=found)


def _numbers(root_fd: int, groups: tuple[int | str, ...], gid_map: Sequence[IdMap]) -> tuple[int, ...]:
    try:
        found = find_groups(root_fd, groups)
    except UnknownAccountError as error:
        key = f"process.groups[{error.number}]"
        raise StepError(key, "", OSError(0, str(error)), "name one that exists there, or an id") from None
    for index, number in enumerate(found):
        if lookup(gid_map, number) is None:
            text = f"group {number}, {groups[index]} in the sandbox's /etc/group, is not in its id map"
            raise StepError(
                f"process.groups[{index}]", "", OSError(0, text), "name another group, or map more ids"
            )
    return tuple(dict.fromkeys(found))


def _groups_of(root_fd: int, name: str, gid_map: Sequence[IdMap]) -> tuple[int, ...]:
    """Return the groups that /etc/group lists for the user *name*; used if `process.groups` is not set."""
    found = groups_of(root_fd, name)
    hint = "list its groups in process.groups: [] for none"
    for number, group in found.items():
        if lookup(gid_map, number) is None:
            text = f"{name} is in group {number}, {_shown(group)} in the sandbox's /etc/group, which is not in its id map"
            raise StepError("process.user", "", OSError(0, text), hint)
    if len(found) > MAX_GROUPS:
        text = f"{name} is in {len(found)} groups of the sandbox's /etc/group, more than the kernel allows"
        raise StepError("process.user", "", OSError(0, text), hint)
    return tuple(found)


def _shown(name: str) -> str:
    return "".join(map(visible, name[:_SHOWN]))
