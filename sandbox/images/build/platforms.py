"""Check platforms, OS/ARCHITECTURE[/VARIANT], and compute the arguments that every build has from them."""

from __future__ import annotations

import re

_PLATFORM = re.compile(r"[a-z0-9]+/[a-z0-9_]+(?:/[a-z0-9]+)?")

PLATFORM_RULE = "write OS/ARCHITECTURE or OS/ARCHITECTURE/VARIANT, such as linux/arm64"


def is_platform(text: str) -> bool:
    """Return whether *text* is a platform, such as "linux/amd64" (image-spec, image-index.md)."""
    return _PLATFORM.fullmatch(text) is not None


def platform_arguments(target: str, build: str) -> dict[str, str]:
    """Return the arguments TARGET... and BUILD... for the platforms of the image and of this machine.

    They are those of the Dockerfile reference, "Automatic platform ARGs in the global scope".
    """
    found = {}
    for prefix, platform in (("TARGET", target), ("BUILD", build)):
        system, _, rest = platform.partition("/")
        architecture, _, variant = rest.partition("/")
        found[f"{prefix}PLATFORM"] = platform
        found[f"{prefix}OS"] = system
        found[f"{prefix}ARCH"] = architecture
        found[f"{prefix}VARIANT"] = variant
    return found
