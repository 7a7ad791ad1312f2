"""The configuration of an image as a value (image-spec, config.md, and Docker's image specification 1.2). Pure.

`decode_config` reads it from untrusted bytes. Fields that are not known here, such as `Healthcheck`, are kept and encoded again.
"""

from __future__ import annotations

from sandbox.errors import ImageError
from sandbox.images.oci.digest import Digest
from sandbox.images.oci.json_documents import DAMAGED, Fields, canonical, parse
from sandbox.images.oci.model import Manifest
from sandbox.images.oci.platforms import FIELDS, Platform
from unionfs._stdlib.dataclasses import dataclass, field
from unionfs._stdlib.typing import Any, Self

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_HISTORY = ("created", "created_by", "author", "comment", "empty_layer")
_DEFAULTS = (
    "User",
    "Env",
    "Entrypoint",
    "Cmd",
    "WorkingDir",
    "StopSignal",
    "ExposedPorts",
    "Volumes",
    "Labels",
)
_CONFIG = (*FIELDS, "created", "author", "config", "rootfs", "history")


@dataclass(frozen=True, kw_only=True, slots=True)
class ProcessDefaults:
    """What a container does unless its user requests something else: the field `config`. Nothing of it is checked for sense."""

    user: str = ""  # USER[:GROUP], names or numbers
    env: tuple[str, ...] = ()  # NAME=VALUE
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    working_dir: str = ""
    stop_signal: str = ""  # a name or a number
    exposed_ports: tuple[str, ...] = ()  # PORT/PROTOCOL
    volumes: tuple[str, ...] = ()  # paths
    labels: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)  # fields that are not known here

    @classmethod
    def decode(cls, fields: Fields) -> Self:
        """Return the defaults in *fields*.

        Raises:
            ImageError: a field is of another type, or has a text with a zero byte.
        """
        return cls(
            user=fields.optional_text("User"),
            env=fields.texts("Env"),
            entrypoint=fields.texts("Entrypoint"),
            cmd=fields.texts("Cmd"),
            working_dir=fields.optional_text("WorkingDir"),
            stop_signal=fields.optional_text("StopSignal"),
            exposed_ports=fields.keys("ExposedPorts"),
            volumes=fields.keys("Volumes"),
            labels=fields.text_map("Labels"),
            extra=fields.rest(_DEFAULTS),
        )

    def as_document(self) -> dict[str, Any]:
        """Return the defaults for JSON, without those that are empty."""
        known = {
            "User": self.user,
            "Env": list(self.env),
            "Entrypoint": list(self.entrypoint),
            "Cmd": list(self.cmd),
            "WorkingDir": self.working_dir,
            "StopSignal": self.stop_signal,
            "ExposedPorts": {port: {} for port in self.exposed_ports},
            "Volumes": {path: {} for path in self.volumes},
            "Labels": dict(self.labels),
        }
        return {**self.extra, **{key: value for key, value in known.items() if value}}


@dataclass(frozen=True, kw_only=True, slots=True)
class History:
    """One step by which an image was made."""

    created: str = ""  # RFC 3339
    created_by: str = ""
    author: str = ""
    comment: str = ""
    empty_layer: bool = False  # the step has made no layer
    extra: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def decode(cls, fields: Fields) -> Self:
        """Return the step in *fields*.

        Raises:
            ImageError: a field is of another type.
        """
        return cls(
            created=fields.optional_text("created"),
            created_by=fields.optional_text("created_by"),
            author=fields.optional_text("author"),
            comment=fields.optional_text("comment"),
            empty_layer=fields.boolean("empty_layer"),
            extra=fields.rest(_HISTORY),
        )

    def as_document(self) -> dict[str, Any]:
        """Return the step for JSON, without what is empty."""
        known = {
            "created": self.created,
            "created_by": self.created_by,
            "author": self.author,
            "comment": self.comment,
            "empty_layer": self.empty_layer,
        }
        return {**self.extra, **{key: value for key, value in known.items() if value}}


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageConfig:
    """The configuration of one image. The digests of its uncompressed layers, bottom first, are `diff_ids`."""

    platform: Platform
    diff_ids: tuple[Digest, ...]
    process: ProcessDefaults = field(default_factory=ProcessDefaults)
    history: tuple[History, ...] = ()
    created: str = ""  # RFC 3339
    author: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)  # fields that are not known here

    def encode(self) -> bytes:
        """Return the configuration as canonical JSON."""
        document = {
            **self.extra,
            **self.platform.as_document(),
            "rootfs": {"type": "layers", "diff_ids": [str(digest) for digest in self.diff_ids]},
        }
        known = {
            "config": self.process.as_document(),
            "history": [step.as_document() for step in self.history],
            "created": self.created,
            "author": self.author,
        }
        return canonical({**document, **{key: value for key, value in known.items() if value}})


def decode_config(content: bytes, name: str) -> ImageConfig:
    """Return the configuration in *content*; *name*, its source and digest, is for messages.

    Raises:
        ImageError: *content* is malformed, or has no platform or no layers' digests.
    """
    fields = parse(content, name)
    rootfs = fields.inner("rootfs")
    if rootfs.text("type") != "layers":
        rootfs.refuse("type", "is not layers")
    return ImageConfig(
        platform=Platform.decode(fields),
        diff_ids=tuple(_digest(rootfs, index, text) for index, text in enumerate(rootfs.texts("diff_ids"))),
        process=ProcessDefaults.decode(fields.inner("config")),
        history=tuple(History.decode(step) for step in fields.objects("history")),
        created=fields.optional_text("created"),
        author=fields.optional_text("author"),
        extra=fields.rest(_CONFIG),
    )


def check_layers(manifest: Manifest, config: ImageConfig, name: str) -> None:
    """Compare the number of layers of *manifest* with that of the diff ids of its *config*; *name* is for messages.

    Raises:
        ImageError: the numbers differ.
    """
    if len(config.diff_ids) != len(manifest.layers):
        raise ImageError(
            f"{name}: the manifest has {len(manifest.layers)} layers, but its configuration has {len(config.diff_ids)} diff ids",
            hint=DAMAGED,
        )


def timestamp(seconds: int) -> str:
    """Return the time *seconds* after the epoch as the specification writes it (RFC 3339), in UTC and in whole seconds.

    Raises:
        ValueError: the year is before 1 or after 9999.
    """
    from datetime import UTC, datetime, timedelta

    try:
        time = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
    except OverflowError:
        raise ValueError(f"{seconds} seconds after the epoch are not in the years 1 to 9999") from None
    return time.isoformat().replace("+00:00", "Z")


def _digest(fields: Fields, index: int, text: str) -> Digest:
    try:
        return Digest.parse(text)
    except ValueError as error:
        fields.refuse(f"diff_ids[{index}]", f"is not valid: {error}")
