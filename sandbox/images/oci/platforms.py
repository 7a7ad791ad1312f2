"""Platforms of images, and which of them a machine runs. Pure.

Names are those of Go's GOOS and GOARCH (image-spec, image-index.md, "Platform"). Other names of a platform, and the order in
which variants replace each other, are those of containerd (package platforms, `Normalize` and `Only`).
"""

from __future__ import annotations

import re

from sandbox.errors import ImageError
from sandbox.images.names import printable
from unionfs._stdlib.dataclasses import dataclass, field
from unionfs._stdlib.typing import Any, Self

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from sandbox.images.oci.json_documents import Fields

_SYSTEMS = {"macos": "darwin"}
_ARCHITECTURES = {
    "i386": ("386", ""),
    "i486": ("386", ""),
    "i586": ("386", ""),
    "i686": ("386", ""),
    "x86_64": ("amd64", ""),
    "x86-64": ("amd64", ""),
    "aarch64": ("arm64", ""),
    "armhf": ("arm", "v7"),
    "armv7l": ("arm", "v7"),
    "armv8l": ("arm", "v8"),
    "armel": ("arm", "v6"),
    "armv6l": ("arm", "v6"),
    "armv5tel": ("arm", "v5"),
    "loongarch64": ("loong64", ""),
}
"""GOARCH and variant for other names of a machine, among them those of uname(2)."""

# What a variant is without its name: image-spec, "Platform Variants"; arm v7 is containerd's choice.
_DEFAULT_VARIANTS = {"arm64": "v8", "arm": "v7", "amd64": "v1"}
_VARIANT = re.compile(r"v([1-9])(?:\.([0-9]))?")
_COMPONENT = re.compile(r"[A-Za-z0-9_.-]{1,64}")

FIELDS = ("os", "architecture", "variant", "os.version", "os.features")
"""The fields of a platform, in descriptors and in configurations."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Platform:
    """The system and the machine that an image is for."""

    os: str
    architecture: str
    variant: str = ""
    os_version: str = ""
    os_features: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)  # fields that are not known here

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the platform that *text* writes as `OS/ARCHITECTURE[/VARIANT]` or as `ARCHITECTURE`, for Linux.

        Raises:
            ImageError: *text* is not of this form.
        """
        parts = text.split("/")
        if len(parts) == 1:
            parts = ["linux", text]
        if len(parts) > 3 or not all(map(_COMPONENT.fullmatch, parts)):
            raise ImageError(
                f"{printable(text.encode('utf-8', 'backslashreplace'))!r} is not a platform",
                hint="write OS/ARCHITECTURE or OS/ARCHITECTURE/VARIANT, such as linux/amd64 or linux/arm/v7",
            )
        return cls(
            os=parts[0], architecture=parts[1], variant=parts[2] if len(parts) > 2 else ""
        ).normalized()

    @classmethod
    def decode(cls, fields: Fields) -> Self:
        """Return the platform in *fields*: those of a configuration, or of the field `platform` of a descriptor.

        Raises:
            ImageError: a field is of another type, or `os` or `architecture` is missing.
        """
        return cls(
            os=fields.text("os"),
            architecture=fields.text("architecture"),
            variant=fields.optional_text("variant"),
            os_version=fields.optional_text("os.version"),
            os_features=fields.texts("os.features"),
        )

    def as_document(self) -> dict[str, Any]:
        """Return the platform for JSON."""
        document = {**self.extra, "os": self.os, "architecture": self.architecture}
        if self.variant:
            document["variant"] = self.variant
        if self.os_version:
            document["os.version"] = self.os_version
        if self.os_features:
            document["os.features"] = list(self.os_features)
        return document

    def __str__(self) -> str:
        """Return the platform as `parse` reads it, printable."""
        text = "/".join(filter(None, (self.os, self.architecture, self.variant)))
        return printable(text.encode("utf-8", "backslashreplace"))

    def normalized(self) -> Self:
        """Return the platform with Go's names and without a variant that is the default, except for arm."""
        system = self.os.lower()
        given = self.architecture.lower()
        architecture, implied = _ARCHITECTURES.get(given, (given, ""))
        variant = self.variant.lower() or implied
        if re.fullmatch(r"[1-9](\.[0-9])?", variant):
            variant = f"v{variant}"
        default = _DEFAULT_VARIANTS.get(architecture, "")
        if architecture == "arm":
            variant = variant or default
        elif variant == default:
            variant = ""
        return type(self)(os=_SYSTEMS.get(system, system), architecture=architecture, variant=variant)

    def substitutes(self) -> Iterator[Self]:
        """Yield the platforms whose programs run on this one, best first; the first is the normalized platform itself."""
        own = self.normalized()
        for architecture, variant in _runs(own.architecture, own.variant):
            yield type(self)(os=own.os, architecture=architecture, variant=variant).normalized()


def of_machine(machine: str) -> Platform:
    """Return the Linux platform of *machine*, which is the name that uname(2) returns."""
    return Platform(os="linux", architecture=machine).normalized()


def _runs(architecture: str, variant: str) -> Iterator[tuple[str, str]]:
    """Yield architectures and variants that *architecture* and *variant* runs, best first."""
    yield architecture, variant
    match = _VARIANT.fullmatch(variant or _DEFAULT_VARIANTS.get(architecture, ""))
    if match is None:
        return
    major, minor = int(match[1]), int(match[2] or 0)
    if architecture == "amd64":
        yield from ((architecture, f"v{level}") for level in range(major - 1, 0, -1))
        yield "386", ""
    elif architecture == "arm64" and major in {8, 9}:
        yield from ((architecture, name) for name in _earlier_arm64(major, minor))
        yield from (("arm", f"v{level}") for level in (8, 7, 6, 5))
    elif architecture == "arm":
        yield from ((architecture, f"v{level}") for level in range(major - 1, 4, -1))


def _earlier_arm64(major: int, minor: int) -> Iterator[str]:
    """Yield the earlier variants of arm64. Armv9.N has the features of Armv8.(N+5) (Arm Architecture Reference Manual, A2)."""
    if major == 9:
        yield from (f"v9.{level}" if level else "v9" for level in range(minor - 1, -1, -1))
        minor += 6
    yield from (f"v8.{level}" if level else "v8" for level in range(minor - 1, -1, -1))
