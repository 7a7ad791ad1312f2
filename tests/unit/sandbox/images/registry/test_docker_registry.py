"""A real registry, Debian's docker-registry: what the client pushes it accepts, and what it serves the client verifies."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO

import pytest

from sandbox.images.registry.client import MANIFEST_TYPES, RegistryClient
from sandbox.images.registry.credentials import CredentialStore
from sandbox.images.registry.failures import RegistryError
from sandbox.images.registry.login import log_in, log_out
from sandbox.images.registry.registries_conf import Location
from sandbox.images.registry.settings import TlsSettings
from sandbox.images.registry.transfers import run_transfers
from tests.unit.sandbox.images.registry.certificates import make_authority, make_certificate
from tests.unit.sandbox.images.registry.clients import (
    SECRET,
    Given,
    client_of,
    content,
    credential,
    digest_of,
    short_limits,
)
from tests.unit.sandbox.images.registry.docker_registry import htpasswd, running

pytestmark = pytest.mark.docker_registry

INDEX, MANIFEST = MANIFEST_TYPES[:2]
CONFIG = b'{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}'
LAYERS = [content(3_000_000, 1), content(70_000, 2), b""]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the host of a registry with plain HTTP and without a login."""
    with running(tmp_path_factory.mktemp("plain")) as host:
        yield host


@contextmanager
def opened(*blobs: bytes) -> Iterator[list[BinaryIO]]:
    files = [tempfile.TemporaryFile(buffering=0) for _ in blobs]  # noqa: SIM115 - closed below
    try:
        for file, data in zip(files, blobs, strict=True):
            file.write(data)
        yield files
    finally:
        for file in files:
            file.close()


def manifest_of(layers: list[bytes]) -> bytes:
    def descriptor(kind: str, data: bytes) -> dict[str, object]:
        return {
            "mediaType": f"application/vnd.oci.image.{kind}",
            "size": len(data),
            "digest": digest_of(data),
        }

    content = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor("config.v1+json", CONFIG),
        "layers": [descriptor("layer.v1.tar", data) for data in layers],
    }
    # Neither indented nor sorted as the registry would do it: the bytes must stay.
    return json.dumps(content, indent=3).encode() + b"\n\n"


def push(client: RegistryClient, layers: list[bytes], tag: str = "v1") -> str:
    """Push an image of *layers*; return the digest of its manifest."""
    blobs = [CONFIG, *layers]
    with opened(*blobs) as files:
        run_transfers(
            [
                partial(client.push_blob, digest_of(data), len(data), file.fileno())
                for data, file in zip(blobs, files, strict=True)
            ],
            client.cancel,
        )
    return client.put_manifest(tag, MANIFEST, manifest_of(layers))


def pull(client: RegistryClient, layers: list[bytes], target: str) -> None:
    """Pull the manifest *target* and all its blobs, and compare them with *layers*."""
    found = client.manifest(target)
    assert (found.media_type, found.content) == (MANIFEST, manifest_of(layers))
    described = json.loads(found.content)
    descriptors = [described["config"], *described["layers"]]
    with opened(*(b"" for _ in descriptors)) as files:
        run_transfers(
            [
                partial(client.download, one["digest"], one["size"], file.fileno())
                for one, file in zip(descriptors, files, strict=True)
            ],
            client.cancel,
        )
        assert [os.pread(file.fileno(), 1 << 23, 0) for file in files] == [CONFIG, *layers]


@pytest.mark.parametrize("chunk", [16 << 20, 1 << 20, 100_000])
def test_an_image_is_pushed_and_pulled_by_tag_and_digest(plain: str, chunk: int) -> None:
    with client_of(plain, path=f"push/chunk-{chunk}", chunk=chunk) as client:
        digest = push(client, LAYERS)
        assert digest == digest_of(manifest_of(LAYERS))
        pull(client, LAYERS, "v1")
        pull(client, LAYERS, digest)
        with pytest.raises(RegistryError, match="MANIFEST_UNKNOWN") as missing:
            client.manifest("v2")
        assert missing.value.status == 404
        assert client.has_blob(digest_of(LAYERS[0]))
        assert not client.has_blob(digest_of(b"other"))


def test_an_index_keeps_its_digest(plain: str) -> None:
    with client_of(plain, path="index") as client:
        digest = push(client, LAYERS)
        entry = {"mediaType": MANIFEST, "size": len(manifest_of(LAYERS)), "digest": digest}
        index = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]}).encode()
        pushed = client.put_manifest("multi", INDEX, index)
        found = client.manifest("multi")
        assert (found.media_type, found.digest, found.content) == (INDEX, pushed, index)


def test_a_blob_is_mounted_from_another_repository(plain: str) -> None:
    data = content(50_000, 7)
    with opened(data) as [file], client_of(plain, path="mount/source") as source:
        assert source.push_blob(digest_of(data), len(data), file.fileno()) == "uploaded"
        with client_of(plain, path="mount/target") as target:
            assert not target.has_blob(digest_of(data))
            assert target.push_blob(digest_of(data), len(data), -1, mount_from=["mount/source"]) == "mounted"
            assert target.push_blob(digest_of(data), len(data), -1) == "present"
            assert not target.mount(digest_of(b"other"), "mount/source")


def test_a_download_resumes_by_range(plain: str) -> None:
    data = content(2_000_000, 8)
    with client_of(plain, path="resume") as client, opened(data, data[:1_500_000]) as [whole, part]:
        client.upload(digest_of(data), len(data), whole.fileno())
        positions: list[int] = []
        client.download(digest_of(data), len(data), part.fileno(), positions.append)
        assert positions[0] == 1_500_000
        assert os.pread(part.fileno(), 1 << 22, 0) == data
        assert client.read_range(digest_of(data), 1_000_000, 77) == data[1_000_000:1_000_077]


class Cutter:
    """Forwards connections to a host, and cuts each of the first ones after some bytes in one direction."""

    def __init__(self, host: str, cuts: list[int]) -> None:
        self._target = host.rpartition(":")
        self._cuts = cuts
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._accept)
        self._others: list[threading.Thread] = []
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()
        for thread in self._others:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection((self._target[0], int(self._target[2])))
            cut = self._cuts.pop(0) if self._cuts else None
            pair = [
                threading.Thread(target=self._forward, args=(client, server, cut)),
                threading.Thread(target=self._forward, args=(server, client, cut)),
            ]
            closer = threading.Thread(target=self._close, args=(pair, client, server))
            for thread in (*pair, closer):
                thread.start()
            self._others.append(closer)

    @staticmethod
    def _forward(source: socket.socket, target: socket.socket, cut: int | None) -> None:
        try:
            while data := source.recv(1 << 16):
                if cut is not None:
                    data, cut = data[:cut], cut - len(data)
                target.sendall(data)
                if cut is not None and cut <= 0:
                    break
        except OSError:
            pass
        for one in (source, target):
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    @staticmethod
    def _close(pair: list[threading.Thread], *sockets: socket.socket) -> None:
        for thread in pair:
            thread.join()
        for one in sockets:
            one.close()


@pytest.mark.parametrize("cut", [1, 200, 3000, 150_000, 1_100_000])
def test_transfers_survive_cut_connections(plain: str, cut: int) -> None:
    """The registry itself decides what it has kept of an upload that was cut."""
    data = content(2_500_000, cut)
    cutter = Cutter(plain, [10**9, cut, cut, cut])
    try:
        with (
            client_of(cutter.host, path=f"cut/after-{cut}", chunk=1_000_000) as client,
            opened(data) as [file],
        ):
            client.upload(digest_of(data), len(data), file.fileno())
    finally:
        cutter.close()
    cutter = Cutter(plain, [10**9, cut, cut, cut])
    try:
        with client_of(cutter.host, path=f"cut/after-{cut}") as client, opened(b"") as [file]:
            client.download(digest_of(data), len(data), file.fileno())
            assert os.pread(file.fileno(), 1 << 22, 0) == data
    finally:
        cutter.close()


def test_content_with_another_digest_is_refused_by_the_registry(plain: str) -> None:
    data = content(1000, 9)
    with client_of(plain, path="wrong") as client, opened(data) as [file]:
        with pytest.raises(RegistryError, match="DIGEST_INVALID") as failed:
            client.upload(digest_of(b"other"), len(data), file.fileno())
        assert digest_of(b"other") in failed.value.message


def test_skopeo_reads_what_is_pushed(plain: str, tmp_path: Path) -> None:
    if shutil.which("skopeo") is None:
        pytest.skip("needs skopeo (apt-get install skopeo)")
    with client_of(plain, path="foreign") as client:
        digest = push(client, LAYERS[:2])
    done = subprocess.run(
        ["skopeo", "inspect", "--tls-verify=false", "--raw", f"docker://{plain}/foreign@{digest}"],
        check=True,
        capture_output=True,
        timeout=60,
    )
    assert done.stdout == manifest_of(LAYERS[:2])


# --- TLS and a login ---


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, TlsSettings]]:
    """Return the host of a registry with TLS and a login, and the settings that trust it."""
    directory = tmp_path_factory.mktemp("secured")
    certificates = tmp_path_factory.mktemp("authority")
    shutil.copy(make_authority(directory), certificates)
    certificate = make_certificate(directory, "server")
    tls = {"certificate": str(certificate), "key": str(directory / "server.key")}
    with running(directory, tls=tls, auth=htpasswd(directory)) as host:
        yield host, TlsSettings(cert_dir=str(certificates))


@pytest.mark.openssl
def test_an_image_is_pushed_and_pulled_over_tls_with_credentials(secured: tuple[str, TlsSettings]) -> None:
    host, tls = secured
    given = Given(credential())
    with client_of(host, path="tls", tls=tls, insecure=False, credentials=given, chunk=1 << 20) as client:
        digest = push(client, LAYERS)
        pull(client, LAYERS, "v1")
        pull(client, LAYERS, digest)


@pytest.mark.openssl
def test_without_or_with_wrong_credentials_the_error_tells_to_log_in(
    secured: tuple[str, TlsSettings],
) -> None:
    host, tls = secured
    for given, hint in (
        (Given(), f"`sandbox login {host}`"),
        (Given(credential(secret="wrong")), f"/home/me/auth.json were refused: `sandbox login {host}` again"),
    ):
        with client_of(host, path="tls", tls=tls, insecure=False, credentials=given) as client:
            with pytest.raises(RegistryError, match="requires a login") as failed:
                client.manifest("v1")
            with pytest.raises(RegistryError, match="requires a login"):
                client.has_blob(digest_of(LAYERS[0]))
        assert hint in (failed.value.hint or "")


@pytest.mark.openssl
def test_a_login_is_verified_and_then_used(secured: tuple[str, TlsSettings], tmp_path: Path) -> None:
    host, tls = secured
    environ = {"XDG_RUNTIME_DIR": str(tmp_path)}
    with pytest.raises(RegistryError, match="the certificate is not trusted"):
        log_in(host, "me", SECRET, environ, limits=short_limits())
    key, place = log_in(host, "me", SECRET, environ, tls=tls, limits=short_limits())
    assert (key, place) == (host, str(tmp_path / "containers/auth.json"))
    store = CredentialStore(environ)
    location = Location(host, "login", insecure=False)
    with RegistryClient(
        [location], credentials=store, environ=environ, tls=tls, limits=short_limits()
    ) as client:
        push(client, [])
    _, removal = log_out(host, environ)
    assert removal.removed == place
    assert store.find(host) is None
