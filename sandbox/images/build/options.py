"""Define the options of a build, and the functions by which it learns about images."""

from __future__ import annotations

from sandbox.images.build.config import ImageConfig
from unionfs._stdlib.dataclasses import dataclass, field

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PROXY_ARGUMENTS = tuple(
    name
    for word in ("HTTP", "HTTPS", "FTP", "NO", "ALL")
    for name in (f"{word}_PROXY", f"{word.lower()}_proxy")
)
"""Arguments that commands get without an ARG, and that no image keeps (Dockerfile reference, "Predefined ARGs")."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildOptions:
    """The options of a build, and what it has to know about images.

    `platform` and `build_platform` are OS/ARCHITECTURE[/VARIANT]: that of the image, and that of this machine.
    `target` is the name or the number of the stage that becomes the image; "" is the last one.
    `arguments` are values of ARG from the command line.
    `is_stored` returns whether the local store has an image of that name. `read_config` gets a source and a platform, and
    returns the configuration of the image; it may pull the image for that.
    """

    platform: str
    build_platform: str
    is_stored: Callable[[str], bool]
    read_config: Callable[[str, str], ImageConfig]
    target: str = ""
    arguments: Mapping[str, str] = field(default_factory=dict)
