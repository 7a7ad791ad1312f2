"""Execute COPY, ADD and WORKDIR: write their files to a layer, without running anything.

What the layers so far have at the target is looked up in a child with the ids that may read them. The child may be deceived by the
layers about their own content alone, and its answer only decides under which names the files are written.
"""

from __future__ import annotations

import json
import os
from contextlib import ExitStack, contextmanager
from functools import partial

from sandbox.builder.added_archives import AddedMembers, archive_directories
from sandbox.builder.copied_members import ContextMembers, CopyTarget, NewFiles
from sandbox.builder.layer_output import write_members
from sandbox.builder.placement import Placement, Source, directories_of, missing_directories, place
from sandbox.builder.stage_members import stage_members
from sandbox.builder.union import Union
from sandbox.changes.empty_layers import empty_layer
from sandbox.errors import ImageError, SandboxError
from sandbox.images.build.patterns import glob
from sandbox.images.names import printable
from unionfs._stdlib.dataclasses import dataclass

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from sandbox.builder.context import BuildContext
    from sandbox.builder.inputs import Inputs, InputTree
    from sandbox.builder.layer_output import Opener
    from sandbox.builder.machine import Machine
    from sandbox.images.build.plan import CopyFiles, MakeDirectory
    from sandbox.images.tar import Archive
    from sandbox.plan.image_values import ImageLayer

LATEST = 253402300799  # 9999-12-31T23:59:59Z, the last time that RFC 3339 can write
_ENCODING = "surrogateescape"


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """How the layer of a step is written: its compression, and the latest time of a file, in seconds after the epoch."""

    compression: str
    latest: int


def copy_from_context(
    machine: Machine,
    layers: Sequence[ImageLayer],
    action: CopyFiles,
    context: BuildContext,
    inputs: Inputs,
    output: Output,
) -> ImageLayer | None:
    """Copy *inputs* of *context*, and the documents of *action*, over *layers*; return the new layer, None if it is empty.

    Raises:
        ImageError: a file cannot be copied to the target.
        StateError: the image directory cannot be written.
    """
    archives = [
        archive_directories(context, tree) if action.unpack and not tree.is_directory else None
        for tree in inputs.trees
    ]
    described = [
        _described(tree, directories) for tree, directories in zip(inputs.trees, archives, strict=True)
    ]
    described += [Source(name=one.name, is_directory=False) for one in action.documents]
    placement = _placed(machine, layers, action, described)
    sources: list[Opener] = [_new_files(action, placement, output)]
    for number, tree in enumerate(inputs.trees):
        if archives[number] is not None:
            target = _target(placement, number, action, keep_owner=True)
            sources.append(partial(AddedMembers, context, tree, target))
        else:
            target = _target(placement, number, action, keep_owner=False)
            sources.append(partial(_given, ContextMembers(context, tree, target)))
    return write_members(machine.where.images, sources, compression=output.compression, latest=output.latest)


def copy_from_layers(
    machine: Machine,
    layers: Sequence[ImageLayer],
    action: CopyFiles,
    origin: Sequence[ImageLayer],
    output: Output,
) -> ImageLayer | None:
    """Copy files of the union of *origin* over *layers*; return the new layer, None if it is empty.

    Raises:
        ImageError: a source does not exist, or cannot be copied to the target.
        StateError: the image directory cannot be written.
    """
    with ExitStack() as undo:
        here = undo.enter_context(machine.opened(layers))
        there = undo.enter_context(machine.opened(origin))

        def find() -> str:
            source, target = (Union([one.tree_fd for one in reversed(some)]) for some in (there, here))
            paths = [path for name in action.sources for path in _find(source, name)]
            found = [_source(source, path) for path in paths]
            found += [Source(name=one.name, is_directory=False) for one in action.documents]
            placement = place(target, action.target, action.owner, found)
            return json.dumps({"paths": paths, "placement": placement.as_json()})

        found = json.loads(_explained(machine, [*layers, *origin], find))
        placement = Placement.from_json(found["placement"])
        sources: list[Opener] = [_new_files(action, placement, output)]
        if found["paths"]:
            layer = undo.enter_context(empty_layer(machine.state, machine.ids, there, name="build"))
            sources += [
                partial(stage_members, layer, path, _target(placement, number, action, keep_owner=True))
                for number, path in enumerate(found["paths"])
            ]
        return write_members(
            machine.where.images, sources, compression=output.compression, latest=output.latest
        )


def make_directory(
    machine: Machine, layers: Sequence[ImageLayer], action: MakeDirectory, output: Output
) -> ImageLayer | None:
    """Create the directory of *action*, and those above it, over *layers*; return the new layer, None if it exists.

    Raises:
        ImageError: a file is in the way, or the owner is unknown.
        StateError: the image directory cannot be written.
    """
    with machine.opened(layers) as here:

        def find() -> str:
            from sandbox.builder.owners import owner_ids

            union = Union([one.tree_fd for one in reversed(here)])
            missing = missing_directories(union, union.resolve(action.path))
            return json.dumps([missing, owner_ids(action.owner, union) if missing else (0, 0)])

        missing, owner = json.loads(_explained(machine, layers, find))
    members = NewFiles(missing, {}, owner=(owner[0], owner[1]), mode=None, seconds=output.latest)
    return write_members(
        machine.where.images,
        [partial(_given, members)],
        compression=output.compression,
        latest=output.latest,
    )


def _described(tree: InputTree, archive: tuple[str, ...] | None) -> Source:
    if archive is not None:
        return Source(name=tree.name, is_directory=True, directories=archive)
    below = (tree.below(file) for file in tree.files if file.is_directory)
    return Source(
        name=tree.name, is_directory=tree.is_directory, directories=tuple(path for path in below if path)
    )


def _target(placement: Placement, number: int, action: CopyFiles, *, keep_owner: bool) -> CopyTarget:
    """Return the target of source *number*. With *keep_owner*, files keep their owners, unless *action* has one."""
    return CopyTarget(
        top=placement.targets[number],
        moved=placement.moved[number],
        owner=None if keep_owner and not action.owner else placement.owner,
        mode=action.mode,
    )


def _placed(
    machine: Machine, layers: Sequence[ImageLayer], action: CopyFiles, sources: Sequence[Source]
) -> Placement:
    with machine.opened(layers) as here:

        def find() -> str:
            union = Union([one.tree_fd for one in reversed(here)])
            return json.dumps(place(union, action.target, action.owner, sources).as_json())

        return Placement.from_json(json.loads(_explained(machine, layers, find)))


def _explained(machine: Machine, layers: Sequence[ImageLayer], find: Callable[[], str]) -> str:
    try:
        return machine.as_root(layers, find)
    except SandboxError as error:
        raise ImageError(error.message, hint=error.hint) from None


def _new_files(action: CopyFiles, placement: Placement, output: Output) -> Opener:
    """Return the opener of the missing directories and of the documents, which are the last sources."""
    first = len(placement.targets) - len(action.documents)
    documents = {
        path: document.content.encode("utf-8", _ENCODING)
        for path, document in zip(placement.targets[first:], action.documents, strict=True)
    }
    members = NewFiles(
        placement.missing, documents, owner=placement.owner, mode=action.mode, seconds=output.latest
    )
    return partial(_given, members)


@contextmanager
def _given(members: Archive) -> Iterator[Archive]:
    yield members


def _find(union: Union, source: str) -> list[str]:
    """Return the paths that *source*, which may have wildcards, names in *union*: absolute and without links."""

    def names(path: str) -> list[str]:
        return list(union.listing(union.resolve(f"/{path}")))

    found = [union.resolve(f"/{path}") for path in glob(source, names)]
    found = [path for path in found if union.kind(path)]
    if not found:
        raise ImageError(
            f"{printable(os.fsencode(f'/{source}'))} is not in the stage or image that --from names",
            hint="check the path, and the steps of that stage",
        )
    return found


def _source(union: Union, path: str) -> Source:
    is_directory = union.kind(path) == "directory"
    below = tuple(directories_of(union, path)) if is_directory else ()
    return Source(name=path.rpartition("/")[2], is_directory=is_directory, directories=below)
