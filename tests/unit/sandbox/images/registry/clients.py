"""Clients with short limits for the faulty server, and what they transfer."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sandbox.images.registry.client import RegistryClient
from sandbox.images.registry.credential import Credential
from sandbox.images.registry.registries_conf import Location
from sandbox.images.registry.settings import Limits, TlsSettings
from tests.unit.sandbox.images.registry.faulty_server import FaultyServer, Reply, Request

PATH = "team/app"
SECRET = "s3cr3t-pass:word"


@dataclass(frozen=True)
class Given:
    """Finds one credential, for one host."""

    credential: Credential | None = None
    registry: str | None = None

    def find(self, registry: str, path: str = "") -> Credential | None:
        return self.credential if self.registry in (None, registry) else None


def credential(**changes: Any) -> Credential:
    values: dict[str, Any] = {"user": "me", "secret": SECRET, "origin": "/home/me/auth.json"}
    return Credential(**values | changes)


def short_limits(**changes: Any) -> Limits:
    values: dict[str, Any] = {"connect": 2.0, "stall": 1.0, "attempts": 4, "pause": 0.01, "patience": 1.5}
    return Limits(**values | changes)


def client_of(
    *servers: FaultyServer | str,
    credentials: Given | None = None,
    environ: Mapping[str, str] | None = None,
    tls: TlsSettings | None = None,
    insecure: bool = True,
    path: str = PATH,
    **limits: Any,
) -> RegistryClient:
    """Return a client of *servers*, of which the last is the registry and the others are mirrors."""
    hosts = [one if isinstance(one, str) else one.host for one in servers]
    return RegistryClient(
        [Location(host, path, insecure) for host in hosts],
        credentials=credentials or Given(),
        environ=environ or {},
        tls=tls,
        limits=short_limits(**limits),
    )


def content(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def served(
    blobs: Mapping[str, bytes], then: Callable[[Request], Reply] | None = None
) -> Callable[[Request], Reply]:
    """Return the responses of a registry that has *blobs*, by path below the repository, and serves ranges."""

    def handle(request: Request) -> Reply:
        if request.path == "/v2/":
            return Reply()
        data = blobs.get(request.path.removeprefix(f"/v2/{PATH}/"))
        if data is None:
            return Reply(404) if then is None else then(request)
        return whole_or_part(request, data)

    return handle


def whole_or_part(request: Request, data: bytes) -> Reply:
    """Return the response with *data*, or with the range of it that *request* names."""
    wanted = request.headers.get("range")
    if wanted is None:
        return Reply(200, body=data)
    first, _, last = wanted.removeprefix("bytes=").partition("-")
    start, end = int(first), min(int(last) + 1 if last else len(data), len(data))
    if start >= len(data):
        return Reply(416, {"Content-Range": f"bytes */{len(data)}"})
    return Reply(206, {"Content-Range": f"bytes {start}-{end - 1}/{len(data)}"}, data[start:end])
