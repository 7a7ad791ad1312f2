"""Find and check the layer that the root, or a directory of it, is bind-mounted from directly, without the union.

The content of a layer is known only once the layer is in the store. So these checks run after those of the plan, but still
before any process of the sandbox is forked.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence

from sandbox.as_container_root import run_with_ids, with_own_id
from sandbox.errors import SetupError
from sandbox.images import direct_bind
from sandbox.images.direct_bind import DirectBindError, LayerRoot
from sandbox.plan import IdPlan, MountPoint, Plan
from sandbox.plan.operations import BindRoot, DirectBind
from unionfs._stdlib.dataclasses import dataclass
from unionfs._stdlib.typing import Any

_NOSYMFOLLOW = 0x2000  # ST_NOSYMFOLLOW of statfs(2), Linux 5.10, for which os has no name


ROOT = "/"
"""The `target` of a `DirectBindSource` from which the whole root is bound."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectBindSource:
    """The source of a direct bind: the path of the layer's tree, and the device and inode number of that directory."""

    target: str
    tree: str
    identity: tuple[int, int]


def choose(
    plan: Plan,
    trees: Sequence[LayerRoot],
    points: Sequence[MountPoint],
    *,
    warn: Callable[[str], None],
) -> tuple[DirectBindSource, ...]:
    """Find the layer of each direct bind of *plan* among *trees*, the topmost first.

    Args:
        plan: the direct binds, and the ids of the sandbox.
        trees: the layers; before them the writable layer, if it may contain anything.
        points: the mount points of volumes, symbolic links of layers resolved. Those below a direct bind must exist in its layer.
        warn: receives a message for each direct bind that is impossible but optional.

    Raises:
        SetupError: a direct bind is impossible; with its place in the file.
        SandboxError: the layers cannot be examined under the sandbox's ids.
    """
    chosen = []
    for step in plan.operations:
        if not isinstance(step, DirectBind):
            continue
        try:
            chosen.append(_choose(step, plan.ids, trees, points))
        except DirectBindError as error:
            if not step.optional:
                raise _refusal(step.key, plan, error) from None
            warn(f"not enforced: {step.key}: {error.message}")
    return tuple(chosen)


def choose_root(
    step: BindRoot, plan: Plan, tree: LayerRoot, points: Sequence[MountPoint], *, warn: Callable[[str], None]
) -> DirectBindSource | str:
    """Return the source that the root is bound from, or the reason why *tree*, the only layer, needs the server.

    Args:
        step: the operation that binds the root.
        plan: the plan that contains *step*.
        tree: the layer, which is in the store.
        points: all mount points, symbolic links of the layer resolved. Each must exist in the layer.
        warn: receives a message if the root needs the server and `step.otherwise` is "warn".

    Raises:
        SetupError: the root needs the server, and the file forbids one; with the place in the file.
        SandboxError: the layer cannot be examined under the sandbox's ids.
    """
    try:
        return _choose_root(step, plan.ids, tree, points)
    except DirectBindError as error:
        if step.otherwise == "refuse":
            raise _refusal("root.server", plan, error) from None
        if step.otherwise == "warn":
            warn(f"not enforced: root.server: {error.message}")
        return error.message


def _choose_root(
    step: BindRoot, ids: IdPlan, tree: LayerRoot, points: Sequence[MountPoint]
) -> DirectBindSource:
    _refuse_flags(tree, nosuid=step.nosuid)

    def look() -> tuple[list[int], str]:
        return direct_bind.identify(tree, ROOT), _first_lacking(tree, points)

    identity, missing = _as_user_or_root(ids, look)
    if missing:
        raise DirectBindError(
            f"{missing} must be a mount point, but is not in {tree.name}: without a server it cannot be created",
            'add it to the archive, or remove server = "none"',
        )
    _refuse_content(ids, tree, ROOT, identity, 'remove it from the archive, or remove server = "none"')
    return _source(ROOT, tree)


def _refusal(key: str, plan: Plan, error: DirectBindError) -> SetupError:
    place = plan.places.get(key)
    return SetupError(key if place is None else f"{place}: {key}", error.message, hint=error.hint)


def _choose(
    step: DirectBind, ids: IdPlan, trees: Sequence[LayerRoot], points: Sequence[MountPoint]
) -> DirectBindSource:
    below = [point for point in points if point.path.startswith(step.target + "/")]
    number, identity, missing = _find(step.target, ids, trees, below)
    tree = trees[number]
    if tree.place is None:
        raise DirectBindError(
            f"{step.target} is in {tree.name}, which is a directory of the host: through a direct bind, the program could connect to sockets in it and read files that only the caller may read",
            "pack the directory into an archive, which is unpacked under the ids of the sandbox: tar -C DIRECTORY -cf LAYER.tar .",
        )
    _refuse_flags(tree, nosuid=step.nosuid)
    hint = "name directories that do not contain it, or remove it from the archive"
    _refuse_content(ids, tree, step.target, identity, hint)
    if missing:
        raise DirectBindError(
            f"{missing} must be the target of a volume, but is not in {tree.name}: it cannot be created below {step.target}, which is read-only",
            "add it to the archive, choose another target, or name directories in root.native that do not contain it",
        )
    return _source(step.target, tree)


def _source(target: str, tree: LayerRoot) -> DirectBindSource:
    assert tree.place is not None
    info = os.fstat(tree.fd)
    return DirectBindSource(
        target=target, tree=os.path.join(tree.place, "tree"), identity=(info.st_dev, info.st_ino)
    )


def _refuse_content(ids: IdPlan, tree: LayerRoot, path: str, identity: list[int], hint: str) -> None:
    """Refuse the directory *path* of *tree* if only the union can show its content. The walk's result is recorded and reused."""
    assert tree.place is not None
    found = direct_bind.recorded(tree.place, path, identity)
    if found is None:
        found = run_with_ids(ids, lambda: direct_bind.obstacle(tree, path))
        direct_bind.record(tree.place, path, identity, found)
    if found:
        raise DirectBindError(f"{tree.name} cannot be a direct bind: {found}", hint)


def _find(
    path: str, ids: IdPlan, trees: Sequence[LayerRoot], below: Sequence[MountPoint]
) -> tuple[int, list[int], str]:
    """Return the index of the only one of *trees* with *path*, its identity there, and the first of *below* that is missing."""

    def look() -> tuple[int, list[int], str]:
        tree = direct_bind.find_only(trees, path)
        return trees.index(tree), direct_bind.identify(tree, path), _first_lacking(tree, below)

    number, identity, missing = _as_user_or_root(ids, look)
    return number, identity, missing


def _first_lacking(tree: LayerRoot, points: Sequence[MountPoint]) -> str:
    """Return the path of the first of *points* that does not exist in *tree*, "" if all exist."""
    lacking = (
        point.path
        for point in points
        if not direct_bind.has(tree, point.path, is_directory=point.is_directory)
    )
    return next(lacking, "")


def _as_user_or_root(ids: IdPlan, examine: Callable[[], Any]) -> Any:
    """Return the result of *examine*. If it raises PermissionError, run it as root of the sandbox; tuples are lists then (JSON).

    Raises:
        DirectBindError: raised by *examine*.
    """

    def run_as_root() -> str:
        try:
            return json.dumps([examine()])
        except DirectBindError as error:
            return json.dumps([error.message, error.hint])

    try:
        return examine()
    except PermissionError:
        pass  # directories of other users of the sandbox
    result = json.loads(run_with_ids(with_own_id(ids), run_as_root))
    if len(result) == 2:
        raise DirectBindError(*result)
    return result[0]


def _refuse_flags(tree: LayerRoot, *, nosuid: bool) -> None:
    """Refuse layers on a file system mounted noexec, nosuid or nosymfollow: a bind mount inherits these, the union does not."""
    flags = os.fstatvfs(tree.fd).f_flag
    for flag, name, cost in (
        (os.ST_NOEXEC, "noexec", "no program in them could be executed"),
        (0 if nosuid else os.ST_NOSUID, "nosuid", "set-user-id programs in them would have no effect"),
        (_NOSYMFOLLOW, "nosymfollow", "no symbolic link in them would be followed"),
    ):
        if flags & flag:
            raise DirectBindError(
                f"the layers are on a file system that is mounted {name}: {cost}",
                "move the state directory to another file system (SANDBOX_STATE_DIR)",
            )
