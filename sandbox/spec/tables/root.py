"""[sandbox] and [root]: the name of the sandbox, and its root file system."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from sandbox.spec.codecs import Choice, Integer, ListOf, Size, TableOf, Text
from sandbox.spec.settings import setting
from sandbox.spec.values.layers import Layer, LayerCodec
from sandbox.spec.values.namespaces import SANDBOX_NAME, SANDBOX_NAME_RULE, HostnameCodec
from sandbox.spec.values.native import NativePathCodec
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
        Text(), doc="One line for people, shown in listings.", example="throw-away shell over the host"
    )
    labels: Mapping[str, str] = setting(
        TableOf(Text()), doc="Labels to select sandboxes by.", example={"team": "infra"}, default=_NO_LABELS
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Root:
    """[root]: the layers of the root file system, and where changes to it are stored."""

    layers: tuple[Layer, ...] = setting(
        ListOf(LayerCodec(), minimum=1),
        doc="Layers of the root file system, bottom first: what a later one holds hides the same path of earlier ones.",
        example=["dir:/"],
        required=True,
    )
    writable: str = setting(
        Choice("ephemeral", "persistent", "none"),
        doc="Where changes go: gone after exit, kept for the next start of the same file, or refused.",
        example="persistent",
        default="ephemeral",
    )
    driver: str = setting(
        Choice("unionfs"), doc="What joins the layers.", example="unionfs", default="unionfs"
    )
    server: str = setting(
        Choice("auto", "direct", "pyfuse3", "none"),
        doc="Which of the servers of unionfs answers the kernel: direct by itself, pyfuse3 through libfuse, which is slower and "
        "knows older kernels. With none nobody does: a read-only root of one archive is bound from the store, if it holds nothing that only "
        "unionfs can show and has a place for each mount. With auto it is none where that can be, else direct, and pyfuse3 where the kernel is "
        "too old for that. What the program sees is the same.",
        example="pyfuse3",
        default="auto",
    )
    size: int | None = setting(
        Size(1),
        doc="Most that the writable layer may hold. Copies of what a program changes in other layers count, too.",
        example="2G",
        unit="bytes",
    )
    inodes: int | None = setting(
        Integer(1),
        doc="Most files, directories and other objects that the writable layer may hold.",
        example=100_000,
        unit="files",
    )
    native: tuple[str, ...] = setting(
        ListOf(NativePathCodec(), distinct=True),
        doc="Directories that only one layer has, an archive, bound read-only from it: programs and files in them are used at the speed of the file "
        "system below. Volumes may be mounted in them where the archive has the place.",
        example=["/usr"],
        default=(),
    )
    optional: tuple[str, ...] = setting(
        ListOf(Text(), distinct=True),
        doc="Settings of this table that may go unenforced, with a warning, where they cannot be enforced.",
        example=["native"],
        default=(),
    )
