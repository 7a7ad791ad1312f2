"""Parse and print references to images in registries: `docker://HOST[:PORT]/NAME[:TAG][@DIGEST]`. Pure.

The grammar is that of the distribution reference (github.com/distribution/reference) and of the distribution specification,
"Pulling manifests". Two restrictions are ours. The host is required, because a short name may lead to another registry than
the user expects. The only algorithm of digests is SHA-256.
"""

from __future__ import annotations

import re

from sandbox.errors import ImageError
from unionfs._stdlib.dataclasses import dataclass

SCHEME = "docker://"
"""The prefix of a reference to an image in a registry, as skopeo and podman write it."""

_DOCKER_HUB = "docker.io"
_ENDPOINTS = {_DOCKER_HUB: "registry-1.docker.io"}
"""Registries whose API is on another host than their references name."""
_ALIASES = {"index.docker.io": _DOCKER_HUB, "registry-1.docker.io": _DOCKER_HUB}

_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_HOST = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9A-Fa-f:.]+\])(?::[0-9]{{1,5}})?")
_COMPONENT = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_PATH = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_MAX_NAME = 255
"""The most characters of a host and a path together, by the distribution reference."""

DEFAULT_TAG = "latest"


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository of a registry."""

    #: Host, and port where it is given; as the user writes it, so "docker.io" and not the host of its API.
    registry: str
    #: Path without slashes at its ends.
    path: str

    def __str__(self) -> str:
        return f"{SCHEME}{self.registry}/{self.path}"


@dataclass(frozen=True, slots=True)
class Reference:
    """An image in a registry. If it has a tag and a digest, the digest decides, as for podman."""

    repository: Repository
    #: The tag; None if there is only a digest.
    tag: str | None
    #: The digest, "sha256:" and 64 hexadecimal digits; None if there is only a tag.
    digest: str | None

    def __str__(self) -> str:
        tag = "" if self.tag is None else f":{self.tag}"
        digest = "" if self.digest is None else f"@{self.digest}"
        return f"{self.repository}{tag}{digest}"

    def with_digest(self, digest: str) -> Reference:
        """Return the reference to the content *digest*, "sha256:" and 64 hexadecimal digits, in the same repository.

        Raises:
            ImageError: *digest* is none.
        """
        if not is_digest(digest):
            raise ImageError(
                f"{self}: {digest!r} is not a digest", hint="write sha256: and 64 digits of 0-9 and a-f"
            )
        return Reference(self.repository, self.tag, digest)

    @property
    def target(self) -> str:
        """The digest if there is one, else the tag: the last component of the manifest's URL."""
        target = self.digest or self.tag
        assert target is not None
        return target


def parse_reference(text: str) -> Reference:
    """Parse *text*, `docker://HOST[:PORT]/NAME[:TAG][@DIGEST]`. The default tag is "latest" unless there is a digest.

    Raises:
        ImageError: the text does not follow the grammar, or is a short name, which has no host.
    """
    if not text.startswith(SCHEME):
        raise ImageError(f"{text}: a reference begins with {SCHEME}", hint=f"write {SCHEME}HOST/NAME:TAG")
    name, at, digest = text.removeprefix(SCHEME).partition("@")
    if at and not is_digest(digest):
        raise ImageError(
            f"{text}: {digest!r} is not a digest", hint="write @sha256: and 64 digits of 0-9 and a-f"
        )
    # A colon behind the last slash begins a tag; one before it begins a port.
    head, slash, last = name.rpartition("/")
    last, colon, tag = last.partition(":")
    name = f"{head}{slash}{last}"
    if colon and not slash and tag.isdecimal() and ("." in last or last == "localhost"):
        raise ImageError(f"{text}: names no repository", hint=f"write {SCHEME}{last}:{tag}/NAME:TAG")
    if colon and _TAG.fullmatch(tag) is None:
        raise ImageError(
            f"{text}: {tag!r} is not a tag",
            hint="a tag has at most 128 characters: letters, digits, _ . and -, of which . and - are not the first",
        )
    repository = _repository(text, name, f"{colon}{tag}{at}{digest}")
    return Reference(repository, tag if colon else None if at else DEFAULT_TAG, digest if at else None)


def parse_registry(text: str) -> str:
    """Return the registry, or registry and path, that *text* names for a login: `HOST[:PORT][/NAMESPACE]`.

    A prefix `docker://` is accepted.

    Raises:
        ImageError: the text does not follow the grammar.
    """
    host, slash, path = text.removeprefix(SCHEME).partition("/")
    if _HOST.fullmatch(host) is None or (slash and _PATH.fullmatch(path) is None):
        raise ImageError(
            f"{text}: is not the name of a registry", hint="write HOST, HOST:PORT or HOST/NAMESPACE"
        )
    return f"{_ALIASES.get(host, host)}{slash}{path}"


def is_digest(text: str) -> bool:
    """Tell whether *text* is a digest: "sha256:" and 64 lower-case hexadecimal digits."""
    return _DIGEST.fullmatch(text) is not None


def is_tag(text: str) -> bool:
    """Tell whether *text* is a tag, by the distribution specification."""
    return _TAG.fullmatch(text) is not None


def is_location(text: str) -> bool:
    """Tell whether *text* is `HOST[:PORT]`, or that and a path: what registries.conf calls a location."""
    host, slash, path = text.partition("/")
    return _HOST.fullmatch(host) is not None and (not slash or _PATH.fullmatch(path) is not None)


def api_host(registry: str) -> str:
    """Return the host, and port where it is given, that serves the API of *registry*."""
    return _ENDPOINTS.get(registry, registry)


def _repository(text: str, name: str, rest: str) -> Repository:
    """Return the repository *name* of the reference *text*; *rest* is what follows it there."""
    first, slash, path = name.partition("/")
    # By the distribution reference, the first component is a host only if it has a dot or a colon, or is "localhost".
    if not slash or not ("." in first or ":" in first or first == "localhost"):
        raise _short_name(text, name, rest)
    if _HOST.fullmatch(first) is None:
        raise ImageError(f"{text}: {first!r} is not a host", hint=f"write {SCHEME}HOST[:PORT]/NAME:TAG")
    registry = _ALIASES.get(first, first)
    if registry == _DOCKER_HUB and "/" not in path:
        path = f"library/{path}"  # containers-registries.conf(5), "Normalization of docker.io references"
    if _PATH.fullmatch(path) is None:
        hint = "a name has lower-case letters and digits, with . _ - or / between them"
        raise ImageError(f"{text}: {path!r} is not the name of a repository", hint=hint)
    if len(registry) + 1 + len(path) > _MAX_NAME:
        raise ImageError(f"{text}: is longer than {_MAX_NAME} characters without its tag")
    return Repository(registry, path)


def _short_name(text: str, name: str, rest: str) -> ImageError:
    if _PATH.fullmatch(name) is None:
        return ImageError(f"{text}: names no registry", hint=f"write {SCHEME}HOST/NAME:TAG")
    path = name if "/" in name else f"library/{name}"
    return ImageError(
        f"{text}: short names are refused, because they do not name the registry",
        hint=f"write {SCHEME}{_DOCKER_HUB}/{path}{rest}, or the registry that you mean",
    )
