"""The directories of the writable layers that a sandbox has had, and of the next one.

    HOME/upper, work               the first writable layer; HOME is STATE/sandboxes/NAME or STATE/changes/ID
    HOME/later/N/upper, work       those after it
    HOME/snapshots.json            the snapshots (sandbox/state/snapshots.py)
    LAYER/relocated                LAYER is HOME or HOME/later/N: what lies below that layer if it is the lowest earlier one, since
                                   objects were moved in the layers of the environment file (sandbox/changes/relocating.py)

A snapshot freezes the writable layer: it becomes an earlier layer, which never changes again, and the sandbox goes on with a new
one above it. The record of the stack (sandbox/state/stack_record.py) names the new directory as ``next`` before the freeze, and as
``writable`` after it. A process that is killed between the two leaves a record of which :func:`settle` knows what it means.

A fork uses the earlier layers of the sandbox that it was made from, its origin. So a layer is removed only if no record and no
snapshot of any sandbox names it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from sandbox.as_container_root import run_with_ids, with_own_id
from sandbox.errors import SandboxError, StateError
from sandbox.plan import IdPlan
from sandbox.state import locks
from sandbox.state.layer_records import ids_from_json
from sandbox.state.locks import exclusively_locked
from sandbox.state.removal import remove_directory
from sandbox.state.runs import paths_in
from sandbox.state.snapshots import read_snapshots
from sandbox.state.stack_record import LATER, RecordedStack
from sandbox.state.trusted_files import read_json
from unionfs._stdlib.dataclasses import replace
from unionfs.launch.protocol import BEGUN

PARTS = ("upper", "work")
"""The directories of a writable layer."""
RELOCATED = "relocated"
"""The directory of relocations, beside the parts of the lowest earlier layer."""
_REMOVED = ".removed-"


def settle(stack: RecordedStack, ids: IdPlan) -> RecordedStack:
    """Return *stack* without ``next``: as it was before the recorded freeze, or as it is after it if the freeze took place.

    Raises:
        SandboxError: the work directory, which belongs to *ids*, cannot be examined.
    """
    if stack.next is None:
        return stack
    path = os.path.join(stack.next, "work", BEGUN)
    try:
        begun = bool(os.lstat(path))
    except FileNotFoundError:
        begun = False
    except PermissionError:
        begun = run_with_ids(with_own_id(ids), lambda: "begun" if os.path.lexists(path) else "") == "begun"
    return stack.frozen() if begun else replace(stack, next=None)


def relocation_of(earlier: Sequence[str]) -> str | None:
    """Return the directory of the relocation below the layers *earlier*, bottom first. It has the parts of a writable layer.

    None: nothing was moved below them.
    """
    if not earlier:
        return None
    place = os.path.join(earlier[0], RELOCATED)
    try:
        numbers = [int(name) for name in os.listdir(place) if name.isdecimal()]
    except FileNotFoundError:
        return None
    return os.path.join(place, str(max(numbers))) if numbers else None


def make_next(home: str) -> str:
    """Create the directory for one more writable layer in *home*, and return its path.

    Raises:
        OSError: it cannot be created.
    """
    later = os.path.join(home, LATER)
    os.makedirs(later, mode=0o700, exist_ok=True)
    numbers = [int(name) for name in os.listdir(later) if name.isdecimal()]
    path = os.path.join(later, str(max(numbers, default=0) + 1))
    os.mkdir(path, 0o700)
    return path


def used_by_others(state_directory: str, home: str) -> list[str]:
    """Return the homes of other sandboxes whose records or snapshots name a layer in *home*, sorted.

    Raises:
        StateError: a record cannot be read.
    """
    return forks(state_directory).get(home, [])


def sharing(state_directory: str, directory: str) -> list[str]:
    """Return the homes of the sandboxes whose records or snapshots name the layer in *directory*.

    Raises:
        StateError: a record cannot be read.
    """
    return [home for home, used in _all_used(state_directory) if directory in used]


def forks(state_directory: str) -> dict[str, list[str]]:
    """Return, for each home with a layer that another one names, those others, sorted.

    Raises:
        StateError: a record cannot be read.
    """
    found: dict[str, set[str]] = {}
    for other, used in _all_used(state_directory):
        for path in used:
            home = _home_of(path)
            if home != other:
                found.setdefault(home, set()).add(other)
    return {home: sorted(others) for home, others in found.items()}


def refuse_if_forked(state_directory: str, home: str, name: str) -> None:
    """Raise StateError if another sandbox uses a layer in *home*, the directory of the sandbox *name*."""
    others = used_by_others(state_directory, home)
    if others:
        names = [os.path.basename(other) for other in others]
        raise StateError(
            f"{' and '.join(names)} {'uses' if len(names) == 1 else 'use'} layers of {name}, and would lose files",
            hint=f"remove that first: {' '.join(['sandbox rm', *(_thing(other) for other in others)])}",
        )


def _thing(home: str) -> str:
    kind = "changes" if os.path.basename(os.path.dirname(home)) == "changes" else "layer"
    return f"{kind}:{os.path.basename(home)}"


def remove_unused(state_directory: str, home: str, ids: IdPlan) -> None:
    """Remove the layers in *home* that no record and no snapshot names, and what an earlier call left.

    The caller has the locks of *home* and of the state directory, so no record changes meanwhile.

    Raises:
        StateError: a record cannot be read, and nothing is removed; or a file cannot be removed.
        SandboxError: the user namespace of *ids* cannot be created.
    """
    used = {path for _, paths in _all_used(state_directory) for path in paths}
    later = os.path.join(home, LATER)
    unused = [path for path in _layers_in(later) if path not in used]
    if home not in used:
        unused += [path for part in (*PARTS, RELOCATED) if os.path.lexists(path := os.path.join(home, part))]
    for path in unused:
        # Renamed first: if the removal is interrupted, no part of the layer is taken for a layer.
        os.rename(path, os.path.join(home, f"{_REMOVED}{os.urandom(4).hex()}"))
    for name in os.listdir(home):
        if name.startswith(_REMOVED):
            remove_directory(os.path.join(home, name), ids)


def origins_of(home: str) -> list[str]:
    """Return the homes of other sandboxes with layers that the record and the snapshots in *home* name, sorted.

    A caller that is about to remove such names calls :func:`remove_unused_of` afterwards.
    """
    try:
        used = _used_by(home)
    except (FileNotFoundError, StateError):
        return []
    return sorted({_home_of(path) for path in used} - {home})


def remove_unused_of(state_directory: str, homes: Sequence[str]) -> None:
    """Remove the layers in *homes* that no record and no snapshot names any more. The caller does not have the state directory's
    lock.

    A home whose snapshots another command is using is left alone, and so are layers that cannot be removed. A later command on
    that sandbox removes them.
    """
    for home in homes:
        lock, fd = locks.claim(os.path.join(home, "snapshots.lock"))
        try:
            state = read_json(os.path.join(home, "state.json")) if lock == "free" else {}
            ids = ids_from_json(state.get("ids"))
            if ids is not None and RecordedStack.read(state, home) is not None:
                with exclusively_locked(state_directory):
                    remove_unused(state_directory, home, ids)
        except (SandboxError, OSError, ValueError, AttributeError):
            continue
        finally:
            if fd >= 0:
                os.close(fd)


def _home_of(path: str) -> str:
    """Return the home of the layer in the directory *path*."""
    above = os.path.dirname(path)
    return os.path.dirname(above) if os.path.basename(above) == LATER else path


def _layers_in(later: str) -> list[str]:
    try:
        return [os.path.join(later, name) for name in os.listdir(later)]
    except FileNotFoundError:
        return []


def _all_used(state_directory: str) -> Iterator[tuple[str, set[str]]]:
    """Yield the home of each sandbox, and the directories of layers that its record and its snapshots name."""
    for base in ("sandboxes", "changes"):
        for home in paths_in(os.path.join(state_directory, base)):
            if os.path.basename(home).startswith("."):
                continue
            try:
                yield home, _used_by(home)
            except FileNotFoundError:
                continue  # it is being created or removed


def _used_by(home: str) -> set[str]:
    """Return the directories of layers that the record and the snapshots in *home* name."""
    try:
        stack = RecordedStack.read(read_json(os.path.join(home, "state.json")), home)
    except FileNotFoundError:
        raise
    except (OSError, ValueError):
        raise StateError(
            f"{home}/state.json cannot be read: which layers it uses is unknown",
            hint=f"restore the file, or remove {home}",
        ) from None
    used = set() if stack is None else stack.directories()
    for snapshot in read_snapshots(home):
        used.update(snapshot.layers)
    return used
