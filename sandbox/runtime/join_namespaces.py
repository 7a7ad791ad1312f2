"""Open the namespaces of other processes that a sandbox joins."""

from __future__ import annotations

import os
from contextlib import ExitStack

from sandbox.errors import SetupError
from sandbox.kernel import namespaces
from sandbox.plan import Plan
from sandbox.state.joined_namespaces import open_again


def open_joined(plan: Plan, undo: ExitStack) -> dict[str, int]:
    """Return descriptors of the namespaces that *plan* joins, by kind; *undo* closes them.

    Raises:
        StateError: a namespace is another one than when it was examined.
        SetupError: the user namespace that owns one cannot be opened.
    """
    joined: dict[str, int] = {}
    for join in plan.joins:
        joined[join.kind] = open_again(join.kind, join.path, join.identity)
        undo.callback(os.close, joined[join.kind])
    if plan.through is not None:
        try:
            joined["user"] = namespaces.owner_of(joined[plan.through])
        except OSError as error:
            raise SetupError.from_os_error(f"namespaces.{plan.through}", "open", error) from None
        undo.callback(os.close, joined["user"])
    return joined
