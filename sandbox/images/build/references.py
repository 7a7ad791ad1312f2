"""Resolve the name of a base image, as FROM and --from have it, to a source."""

from __future__ import annotations

import re

from sandbox.spec.notation import shown

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

SCRATCH = "scratch"
"""The name of an image without files."""

REGISTRY = "docker://"

_MAX_NAME = 512

# distribution-spec, "Pulling manifests": <name>, <reference>. The host is that of the reference grammar of Docker.
_HOST = r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?"
_NAME = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*"
_VERSION = r"(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(?:@sha256:[0-9a-f]{64}|@sha512:[0-9a-f]{128})?"
_QUALIFIED = re.compile(rf"{_HOST}/{_NAME}{_VERSION}")
_SHORT = re.compile(rf"{_NAME}{_VERSION}")
_FORM = "write HOST/NAME:TAG, such as docker.io/library/debian:13"

_WITH_PATH = ("oci:", "oci-archive:", "docker-archive:", "tar:")


class UnknownImageError(Exception):
    """A name that is no image that can be used. *hint* is the remedy."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


def image_source(name: str, is_stored: Callable[[str], bool]) -> str:
    """Return the source that *name* means: one with a prefix such as "docker://" or "image:".

    A name that begins with a host is an image of that registry. Any other is an image of the local store, for which *is_stored*
    returns whether it is there: no registry is searched, because the user would not know whose image that is.

    Raises:
        UnknownImageError: the name is malformed, or short and not in the store.
    """
    if len(name) > _MAX_NAME:
        raise UnknownImageError(f"{shown(name)} is longer than {_MAX_NAME} characters", _FORM)
    if name.startswith(REGISTRY):
        if not _QUALIFIED.fullmatch(name.removeprefix(REGISTRY)) or not is_qualified(
            name.removeprefix(REGISTRY)
        ):
            raise UnknownImageError(
                f"{shown(name)} is not the name of an image", f"{_FORM}, behind {REGISTRY}"
            )
        return name
    if name.startswith("image:"):
        if not _SHORT.fullmatch(name.removeprefix("image:")) and not _QUALIFIED.fullmatch(
            name.removeprefix("image:")
        ):
            raise UnknownImageError(
                f"{shown(name)} is not the name of an image", "write image:NAME or image:NAME:TAG"
            )
        return name
    if name.startswith("dir:"):
        hint = "pack it with `tar -C DIRECTORY -cf base.tar .`, and write tar:base.tar"
        raise UnknownImageError(f"{shown(name)} is a directory, which is no layer of an image", hint)
    for prefix in _WITH_PATH:
        if name.startswith(prefix):
            if name == prefix:
                raise UnknownImageError(f"{shown(name)} has no path", f"write {prefix}PATH")
            return name
    if is_qualified(name):
        if not _QUALIFIED.fullmatch(name):
            raise UnknownImageError(f"{shown(name)} is not the name of an image", _FORM)
        return REGISTRY + name
    if not _SHORT.fullmatch(name):
        raise UnknownImageError(f"{shown(name)} is not the name of an image", _FORM)
    if is_stored(name):
        return f"image:{name}"
    repository = name if "/" in name else f"library/{name}"
    hint = f"write {REGISTRY}docker.io/{repository}, or image:{name} for an image of the local store, which has none so far"
    raise UnknownImageError(f"{shown(name)} does not name a registry", hint)


def is_qualified(name: str) -> bool:
    """Return whether *name* begins with the host of a registry: it has a dot or a port, or is localhost."""
    host, slash, _ = name.partition("/")
    return bool(slash) and ("." in host or ":" in host or host == "localhost")
