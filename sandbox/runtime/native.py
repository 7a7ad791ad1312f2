"""The directories that are bound from the one layer that has them: found, examined and refused before anything of a sandbox runs.

What a layer has is known only once it is in the store, so these refusals come later than those of the plan, and like them
before any process is made.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence

from sandbox.errors import SetupError
from sandbox.image import native
from sandbox.image.native import NotNativeError, Tree
from sandbox.ops import BindNative
from sandbox.plan import IdPlan, MountPoint, Plan
from sandbox.records import dataclass
from sandbox.userns import run_with_ids, with_own_id

_NOSYMFOLLOW = 0x2000  # ST_NOSYMFOLLOW of statfs(2), Linux 5.10, for which os has no name


@dataclass(frozen=True, slots=True, kw_only=True)
class NativeSource:
    """Where a native path is bound from: the layer's tree by its path, and which directory that is."""

    target: str
    tree: str
    identity: tuple[int, int]


def choose(
    plan: Plan,
    trees: Sequence[Tree],
    points: Sequence[MountPoint],
    *,
    warn: Callable[[str], None],
) -> tuple[NativeSource, ...]:
    """Find the layer of each native path of *plan* among *trees*, the topmost first.

    Args:
        plan: what is to be bound, and under which ids.
        trees: the layers, and before them the writable one where it may hold something.
        points: where volumes are mounted, links of layers resolved; those below a native path have to be in its layer.
        warn: is told of what goes unenforced, as the file allows.

    Raises:
        SetupError: one cannot be had, with its place in the file.
        SandboxError: the layers cannot be looked at under the sandbox's ids.
    """
    chosen = []
    for step in plan.operations:
        if not isinstance(step, BindNative):
            continue
        try:
            chosen.append(_choose(step, plan.ids, trees, points))
        except NotNativeError as error:
            place = plan.places.get(step.key)
            key = step.key if place is None else f"{place}: {step.key}"
            if not step.optional:
                raise SetupError(key, error.message, hint=error.hint) from None
            warn(f"not enforced: {step.key}: {error.message}")
    return tuple(chosen)


def _choose(
    step: BindNative, ids: IdPlan, trees: Sequence[Tree], points: Sequence[MountPoint]
) -> NativeSource:
    below = [point for point in points if point.path.startswith(step.target + "/")]
    number, identity, missing = _find(step.target, ids, trees, below)
    tree = trees[number]
    if tree.place is None:
        raise NotNativeError(
            f"{step.target} is in {tree.name}, which is a directory of this machine: bound, its sockets could be connected to, "
            "and files be read that the program has no right to see",
            "pack the directory into an archive, which is unpacked under the ids of the sandbox: tar -C DIRECTORY -cf LAYER.tar .",
        )
    _refuse_flags(step, tree)
    found = native.recorded(tree.place, step.target, identity)
    if found is None:
        found = run_with_ids(ids, lambda: native.obstacle(tree, step.target))
        native.record(tree.place, step.target, identity, found)
    if found:
        raise NotNativeError(
            f"{tree.name} has what only the union can show: {found}",
            "name directories beside it, or leave it out of the archive",
        )
    if missing:
        raise NotNativeError(
            f"{missing} is to be a volume, and is not in {tree.name}: nothing can be made below {step.target}, which is read-only",
            "make it in the archive, choose another target, or name directories beside it in root.native",
        )
    info = os.fstat(tree.fd)
    return NativeSource(
        target=step.target, tree=os.path.join(tree.place, "tree"), identity=(info.st_dev, info.st_ino)
    )


def _find(
    path: str, ids: IdPlan, trees: Sequence[Tree], below: Sequence[MountPoint]
) -> tuple[int, list[int], str]:
    """Return which of *trees* has *path* alone, what identifies the directory, and the first of *below* that it lacks."""

    def ask() -> tuple[int, list[int], str]:
        tree = native.find_only(trees, path)
        lacking = (
            point.path for point in below if not native.has(tree, point.path, is_directory=point.is_directory)
        )
        return trees.index(tree), native.identify(tree, path), next(lacking, "")

    def ask_as_root() -> str:
        try:
            return json.dumps(ask())
        except NotNativeError as error:
            return json.dumps([error.message, error.hint])

    try:
        return ask()
    except PermissionError:
        pass  # directories of the sandbox's other users
    said = json.loads(run_with_ids(with_own_id(ids), ask_as_root))
    if len(said) == 2:
        raise NotNativeError(*said)
    number, identity, missing = said
    return number, identity, missing


def _refuse_flags(step: BindNative, tree: Tree) -> None:
    """Refuse a store on a file system whose mount would take from programs what the union lets them do."""
    flags = os.fstatvfs(tree.fd).f_flag
    for flag, name, cost in (
        (os.ST_NOEXEC, "noexec", "no program there could be executed"),
        (0 if step.nosuid else os.ST_NOSUID, "nosuid", "set-user-id programs there would be without effect"),
        (_NOSYMFOLLOW, "nosymfollow", "no symbolic link there would be followed"),
    ):
        if flags & flag:
            raise NotNativeError(
                f"the layers are on a file system that is mounted {name}: {cost}",
                "have the state directory on another one (SANDBOX_STATE_DIR)",
            )
