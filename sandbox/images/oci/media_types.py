"""Media types of the parts of images: of the OCI image-spec (media-types.md) and of Docker's schema 2. Pure."""

from __future__ import annotations

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"

MANIFESTS = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
INDEXES = frozenset({OCI_INDEX, DOCKER_LIST})
CONFIGS = frozenset({OCI_CONFIG, DOCKER_CONFIG})

SCHEMA_1 = frozenset(
    {
        "application/vnd.docker.distribution.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v1+prettyjws",
    }
)
"""The manifests of Docker before 1.10, whose layers have no digests of their uncompressed content."""

LAYERS = {
    OCI_LAYER: "",
    f"{OCI_LAYER}+gzip": "gzip",
    f"{OCI_LAYER}+zstd": "zstd",
    DOCKER_LAYER: "",
    f"{DOCKER_LAYER}.gzip": "gzip",
    f"{DOCKER_LAYER}.zstd": "zstd",
}
"""The compression of each type of layer: "" for none. Readers detect it by the content, because registries hold wrong types."""


def is_foreign(layer_type: str) -> bool:
    """Return whether a layer of *layer_type* is not distributed with its image, as those of Windows are not.

    The field `urls` must not decide that (layer.md, "Non-Distributable Layers").
    """
    return ".nondistributable." in layer_type or layer_type.startswith(
        "application/vnd.docker.image.rootfs.foreign"
    )


def is_encrypted(layer_type: str) -> bool:
    """Return whether a layer of *layer_type* is encrypted, as the tools ocicrypt and skopeo do it."""
    return layer_type.endswith("+encrypted")
