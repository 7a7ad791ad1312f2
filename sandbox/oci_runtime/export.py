"""Export a sandbox or an image of the store as a bundle, which runc and crun run."""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager

from sandbox.as_container_root import run_with_ids, with_own_id
from sandbox.changes.committing import topmost_config
from sandbox.changes.empty_layers import empty_layer
from sandbox.changes.extract import extract
from sandbox.changes.host_tree import HostTree
from sandbox.changes.reader import start
from sandbox.changes.writable_layers import find
from sandbox.errors import SandboxError
from sandbox.images.image_layers import ImageLayers
from sandbox.images.importing import host_platform
from sandbox.images.listing import config_of, find_record
from sandbox.images.oci.image_config import ImageConfig
from sandbox.kernel.trees import remove_contents
from sandbox.oci_runtime.bundle import write_bundle
from sandbox.oci_runtime.runtime_config import BundleOptions
from sandbox.plan import IdPlan

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandbox.changes.writable_layers import WritableLayer
    from sandbox.state.directory import StateDirectory
    from sandbox.state.location import Locations

_IMAGE = "image:"


def export_bundle(
    argument: str, target: str, where: Locations, state: StateDirectory, ids: IdPlan
) -> tuple[str, ...]:
    """Write the bundle *target* of the image "image:NAME", or of the sandbox that *argument* selects; return notices.

    A sandbox has the configuration of its topmost image, and an image is unpacked under *ids*. For root, the bundle has the host's
    ids; for another user, the maps under which the files were made.

    Raises:
        SandboxError: there is no such sandbox or image, or *target* cannot be written.
    """
    try:
        with _opened(argument, where, state, ids) as (layer, config):
            return write_bundle(target, config, _Root(layer, target), _options(layer))
    except OSError as error:
        raise SandboxError(f"{target}: {(error.strerror or str(error)).lower()}") from None


@contextmanager
def _opened(
    argument: str, where: Locations, state: StateDirectory, ids: IdPlan
) -> Iterator[tuple[WritableLayer, ImageConfig]]:
    if not argument.startswith(_IMAGE):
        layer = find(where.state, argument)
        config = topmost_config(where, layer.stack.layers)
        yield layer, config or ImageConfig(platform=host_platform(), diff_ids=())
        return
    _, record = find_record(where.images, argument.removeprefix(_IMAGE))
    with ExitStack() as undo:
        stored = ImageLayers(where.images).open(record.layers, ids)
        for one in stored:
            undo.callback(one.close)
        layer = undo.enter_context(empty_layer(state, ids, stored, name="bundle"))
        yield layer, config_of(where.images, record)


def _options(layer: WritableLayer) -> BundleOptions:
    if os.geteuid() == 0:
        return BundleOptions(hostname=layer.name)
    return BundleOptions(
        uid_map=layer.ids.uid_map, gid_map=layer.ids.gid_map, rootless=True, hostname=layer.name
    )


class _Root:
    """The union of *layer* as the root file system of a bundle (implements `RootFileSystem`)."""

    def __init__(self, layer: WritableLayer, target: str) -> None:
        self._layer = layer
        self._target = target

    def extract(self, directory: int, /) -> None:
        """Write all files of the union to *directory*."""
        ids = self._layer.ids
        with ExitStack() as undo:
            process = start(self._layer, ["--archive=trees"], ["/"], undo)

            def write() -> str:
                tree = HostTree(directory, self._target, keep_acls=ids.single)
                with open(process.output_fd, "rb", closefd=False) as stream:
                    return str(extract(stream, tree).entries)

            with process.explaining():
                # A bundle of root has no user namespace, so its files get the ids that they have inside.
                write() if os.geteuid() == 0 else run_with_ids(with_own_id(ids), write)

    def discard(self, directory: int, /) -> None:
        """Remove all that was written to *directory*."""
        if os.geteuid() == 0:
            remove_contents(directory)
        else:
            run_with_ids(with_own_id(self._layer.ids), lambda: remove_contents(directory))
