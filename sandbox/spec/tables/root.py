"""[sandbox] and [root]: the name of the sandbox, and its root file system."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from sandbox.spec.codecs import Boolean, Choice, Integer, ListOf, Size, TableOf, Text
from sandbox.spec.settings import setting
from sandbox.spec.values.direct_bind import DirectBindPathCodec
from sandbox.spec.values.layers import Layer, LayerCodec
from sandbox.spec.values.namespaces import SANDBOX_NAME, SANDBOX_NAME_RULE, HostnameCodec
from unionfs._stdlib.dataclasses import dataclass

_NO_LABELS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True, slots=True)
class Sandbox:
    """[sandbox]: the names, description and labels of the sandbox."""

    name: str | None = setting(
        Text(SANDBOX_NAME, SANDBOX_NAME_RULE),
        doc="Name by which other commands refer to the sandbox.",
        example="web",
    )
    hostname: str | None = setting(
        HostnameCodec(),
        doc="Host name in the sandbox, also in its /etc/hosts; needs a private uts namespace.",
        example="web.internal",
    )
    description: str | None = setting(
        Text(), doc="One line of description, shown in listings.", example="throw-away shell over the host"
    )
    labels: Mapping[str, str] = setting(
        TableOf(Text()), doc="Labels to select sandboxes by.", example={"team": "infra"}, default=_NO_LABELS
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Root:
    """[root]: the layers of the root file system, and where changes to it are stored."""

    layers: tuple[Layer, ...] = setting(
        ListOf(LayerCodec(), minimum=1),
        doc="Layers of the root file system, bottom first: a file of a later layer hides the same path in earlier ones.",
        example=["dir:/"],
        required=True,
    )
    pull: str = setting(
        Choice("missing", "always", "never"),
        doc="When `sandbox up` fetches the images of docker:// layers: if the image store does not have them; each time, to follow a "
        "tag; or never, so that a missing image is an error.",
        example="never",
        default="missing",
    )
    lazy: bool = setting(
        Boolean(),
        doc="Whether layers of docker:// images are fetched while they are used: of layers in the formats zstd:chunked and eStargz, "
        "only the table of contents is fetched before the start, and then the chunks that are read. Other layers are fetched and "
        "unpacked. If the registry cannot be reached, reading what was not fetched fails with EIO.",
        example=True,
        default=False,
    )
    writable: str = setting(
        Choice("ephemeral", "persistent", "none"),
        doc="Changes to the root: discarded at exit, kept for the next start of the same file, or refused.",
        example="persistent",
        default="ephemeral",
    )
    driver: str = setting(
        Choice("unionfs"),
        doc="The union file system that merges the layers.",
        example="unionfs",
        default="unionfs",
    )
    server: str = setting(
        Choice("auto", "direct", "pyfuse3", "none"),
        doc="The server of the root file system. direct: reads /dev/fuse itself. pyfuse3: uses libfuse; slower. "
        "none: no server; the root must qualify for a direct bind: a read-only root of one archive, without marks, sockets and "
        "FIFOs, and with a place for each mount. auto: none if the root qualifies, else direct. The "
        "program sees the same files in each case.",
        example="pyfuse3",
        default="auto",
    )
    size: int | None = setting(
        Size(1),
        doc="Largest size of the writable layer, including copies of changed files of other layers.",
        example="2G",
        unit="bytes",
    )
    inodes: int | None = setting(
        Integer(1),
        doc="Largest number of files, directories and other objects in the writable layer.",
        example=100_000,
        unit="files",
    )
    native: tuple[str, ...] = setting(
        ListOf(DirectBindPathCodec(), distinct=True),
        doc="Directories that are direct binds: mounted read-only from the only layer that has them, an archive, without the server, "
        "so that their files are as fast as on the file system below. A volume may be mounted at a path in them that the archive has.",
        example=["/usr"],
        default=(),
    )
    optional: tuple[str, ...] = setting(
        ListOf(Text(), distinct=True),
        doc="Keys of this table that are not required: if one cannot be enforced, the sandbox starts with a warning.",
        example=["native"],
        default=(),
    )
