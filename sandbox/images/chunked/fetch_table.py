"""Fetch the table of contents of a layer from a registry, instead of the layer."""

from __future__ import annotations

from sandbox.images.chunked.toc import FOOTER, place_in_footer, place_of
from sandbox.images.oci.digest import Digest

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.images.chunked.partial_layers import PartialLayers
    from sandbox.images.oci.model import Descriptor
    from sandbox.images.transports.registry_image import RegistryImage


def fetch_table(source: RegistryImage, store: PartialLayers, layer: Descriptor) -> bool:
    """Store the table of *layer* of the image *source*, unless *store* has it; return whether the layer has one.

    The table is compared with its digest when it is read.

    Raises:
        RegistryError: it cannot be fetched.
        StateError: it cannot be stored.
    """
    place = place_of(layer.annotations, layer.size)
    if place is None:
        return False
    table = Digest.parse(place.digest)
    if store.has(table):
        return True
    if not place.length:
        footer = source.read_range(layer, layer.size - FOOTER, FOOTER)
        place = place_in_footer(footer, place, layer.size)
        if place is None:
            return False
    store.add(table, source.read_range(layer, place.offset, place.length), place)
    return True
