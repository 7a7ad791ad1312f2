"""Pulls that are killed, that run at once, and from registries that fail: the store stays whole, and errors are clear."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import socket
import tarfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Self

import pytest

from tests.e2e.images import check_store, process, spec, succeed
from tests.e2e.support import PYTHON, Launcher, sandbox, wait_for
from tests.unit.sandbox.images.registry.faulty_server import FaultyServer, Reply, Request

pytestmark = [pytest.mark.fuse, pytest.mark.userns, pytest.mark.once]

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
#: The longest time, in seconds, after which a command has reported that its registry fails.
PROMPT = 20


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def layer_of(name: str, data: bytes) -> bytes:
    """Return a tar with directories for mount points, and the file *name*."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for each in ("usr", "proc", "sys", "dev", "tmp", "etc", "data"):
            info = tarfile.TarInfo(each)
            info.type, info.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(info)
        for each in ("bin", "lib", "lib64"):
            info = tarfile.TarInfo(each)
            info.type, info.linkname = tarfile.SYMTYPE, f"usr/{each}"
            tar.addfile(info)
        info = tarfile.TarInfo(f"data/{name}")
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


class Image:
    """The documents and blobs of an image, by their digests."""

    def __init__(self, *sizes: int, diff_ids: list[str] | None = None) -> None:
        self.layers = [layer_of(f"file{number}", os.urandom(size)) for number, size in enumerate(sizes)]
        ids = diff_ids or [digest_of(layer) for layer in self.layers]
        config = {
            "architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": ids},
        }  # fmt: skip
        self.config = json.dumps(config).encode()
        self.manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "config": self._descriptor(CONFIG, self.config),
                "layers": [self._descriptor(LAYER, layer) for layer in self.layers],
            }
        ).encode()
        self.blobs = {digest_of(data): data for data in (self.config, *self.layers)}

    @staticmethod
    def _descriptor(kind: str, data: bytes) -> dict[str, object]:
        return {"mediaType": kind, "size": len(data), "digest": digest_of(data)}

    @property
    def size(self) -> int:
        return sum(map(len, self.layers))

    def reply(self, request: Request) -> Reply:
        """Serve the image as a registry does, with ranges."""
        if request.path == "/v2/":
            return Reply(body=b"{}")
        kind, _, target = request.path.rpartition("/")
        if kind.endswith("/manifests"):
            if target not in ("1", digest_of(self.manifest)):
                return Reply(404, body=b'{"errors": [{"code": "MANIFEST_UNKNOWN"}]}')
            return Reply(headers={"Content-Type": MANIFEST}, body=self.manifest)
        data = self.blobs[target]
        start = int(request.headers.get("range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
        if start:
            headers = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}
            return Reply(206, headers, data[start:])
        return Reply(body=data)


def permit(launcher: Launcher, host: str) -> str:
    """Let the launcher use plain HTTP for *host*; return the reference of the image there."""
    conf = launcher.directory / "registries.conf"
    conf.write_text(f'[[registry]]\nlocation = "{host}"\ninsecure = true\n')
    (launcher.directory / "auth.json").write_text("{}")
    launcher.environ["CONTAINERS_REGISTRIES_CONF"] = str(conf)
    launcher.environ["REGISTRY_AUTH_FILE"] = str(launcher.directory / "auth.json")
    return f"docker://{host}/team/app:1"


# -- interrupted and simultaneous pulls ----------------------------------------------------------------------


class Line:
    """Forwards connections to *host*, not faster than *rate* bytes per second to the client, and counts these bytes."""

    def __init__(self, host: str, rate: int) -> None:
        self._target = host.partition(":")
        self._rate = rate
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setsockopt(
            socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16
        )  # of accepted connections, too
        self.host = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.sent = 0
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._accept)]
        self._sockets: list[socket.socket] = []

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for one in (self._listener, *self._sockets):
            one.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection((self._target[0], int(self._target[2])))
            self._sockets += (client, server)
            for source, target in ((client, server), (server, client)):
                thread = threading.Thread(target=self._forward, args=(source, target, target is client))
                thread.start()
                self._threads.append(thread)

    def _forward(self, source: socket.socket, target: socket.socket, counted: bool) -> None:
        try:
            while data := source.recv(1 << 15):
                target.sendall(data)
                if counted:
                    with self._lock:
                        self.sent += len(data)
                    time.sleep(len(data) / self._rate)
        except OSError:
            pass
        for one in (source, target):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("share", [0.3, 0.8])
def test_a_pull_that_is_killed_continues_where_it_was(launcher: Launcher, share: float) -> None:
    image = Image(6_000_000, 1_000_000, 3_000_000)
    with FaultyServer(image.reply) as server, Line(server.host, 4_000_000) as line:
        reference = permit(launcher, line.host)
        with process(launcher, "pull", reference) as pulling:
            wait_for(lambda: line.sent > share * image.size, "a part of the image")
            pulling.send_signal(signal.SIGKILL)
            pulling.wait()
        assert succeed(launcher, "image", "ls") == []
        done = sandbox(launcher, "image", "verify")
        assert (done.status, done.out) == (0, "")
        partial = sum(path.stat().st_size for path in (launcher.state / "images").glob("partial/*"))
        complete = sum(path.stat().st_size for path in (launcher.state / "images").glob("blobs/*/*"))
        assert partial + complete > share * image.size / 2
        assert succeed(launcher, "pull", reference)["digest"] == digest_of(image.manifest)
        assert line.sent < 1.5 * image.size
    check_store(launcher)


def test_two_pulls_at_once_fetch_each_layer_once(launcher: Launcher) -> None:
    image = Image(2_000_000, 2_000_000, 1_000_000)
    with FaultyServer(image.reply) as server, Line(server.host, 4_000_000) as line:
        reference = permit(launcher, line.host)
        with (
            process(launcher, "pull", reference, "a:1", "--json") as first,
            process(launcher, "pull", reference, "b:1", "--json") as second,
        ):
            outputs = [one.communicate(timeout=60) for one in (first, second)]
            assert [one.returncode for one in (first, second)] == [0, 0], outputs
        for layer in image.layers:
            assert server.count("GET", digest_of(layer)) == 1
    assert {one["name"] for one in succeed(launcher, "image", "ls")} == {"a:1", "b:1"}
    check_store(launcher)


def test_a_pull_takes_over_from_one_that_is_killed_meanwhile(launcher: Launcher) -> None:
    image = Image(4_000_000)
    with FaultyServer(image.reply) as server, Line(server.host, 4_000_000) as line:
        reference = permit(launcher, line.host)
        with process(launcher, "pull", reference, "a:1") as first:
            wait_for(lambda: line.sent > 1_000_000, "a part of the image")
            with process(launcher, "pull", reference, "b:1") as second:
                time.sleep(0.5)
                first.send_signal(signal.SIGKILL)
                _, err = second.communicate(timeout=60)
                assert second.returncode == 0, err
        assert line.sent < 1.5 * image.size
    assert [one["name"] for one in succeed(launcher, "image", "ls")] == ["b:1"]
    check_store(launcher)


def test_ctrl_c_ends_a_pull_at_once_and_the_next_one_continues(launcher: Launcher) -> None:
    image = Image(8_000_000, 1_000_000)
    with FaultyServer(image.reply) as server, Line(server.host, 3_000_000) as line:
        reference = permit(launcher, line.host)
        with process(launcher, "pull", reference) as pulling:
            wait_for(lambda: line.sent > 2_000_000, "a part of the image")
            before = time.monotonic()
            pulling.send_signal(signal.SIGINT)
            _, err = pulling.communicate(timeout=60)
            assert time.monotonic() - before < 5
            assert pulling.returncode in (130, -signal.SIGINT), err
            assert "Traceback" not in err
        assert succeed(launcher, "pull", reference)["digest"] == digest_of(image.manifest)
        assert line.sent < 1.5 * image.size
    check_store(launcher)


# -- registries that fail ------------------------------------------------------------------------------------


def _status(status: int, of: str) -> Callable[[Image, Request], Reply | None]:
    def fail(_: Image, request: Request) -> Reply | None:
        return Reply(status, body=b'{"errors": [{"code": "DENIED"}]}') if of in request.path else None

    return fail


def _wrong(image: Image, request: Request) -> Reply | None:
    target = request.path.rpartition("/")[2]
    if target != digest_of(image.layers[0]):
        return None
    return Reply(body=bytes(len(image.layers[0])))


def _wrong_manifest(image: Image, request: Request) -> Reply | None:
    if "/manifests/" not in request.path:
        return None
    return Reply(headers={"Content-Type": MANIFEST}, body=image.manifest[:-1])


def _long(image: Image, request: Request) -> Reply | None:
    target = request.path.rpartition("/")[2]
    if target != digest_of(image.layers[0]):
        return None
    return Reply(body=image.layers[0] + bytes(1 << 20))


def _dead(image: Image, request: Request) -> Reply | None:
    """Cut each connection in the middle of the first layer."""
    target = request.path.rpartition("/")[2]
    return Reply(body=image.layers[0], cut=1000) if target == digest_of(image.layers[0]) else None


def _stalled(image: Image, request: Request) -> Reply | None:
    """Send a part of the first layer, and then nothing more."""
    target = request.path.rpartition("/")[2]
    return Reply(body=image.layers[0], cut=1000, stall=True) if target == digest_of(image.layers[0]) else None


FAILURES: dict[str, Callable[[Image, Request], Reply | None]] = {
    "404 for the manifest": _status(404, "/manifests/"),
    "401 for the manifest": _status(401, "/manifests/"),
    "500 for the manifest": _status(500, "/manifests/"),
    "404 for a blob": _status(404, "/blobs/"),
    "403 for a blob": _status(403, "/blobs/"),
    "500 for a blob": _status(500, "/blobs/"),
    "another layer": _wrong,
    "a longer layer": _long,
    "a manifest that is cut": _wrong_manifest,
    "connections that are cut": _dead,
    "connections that stall": _stalled,
}


#: A client that tries again takes seconds to give up.
SLOW = ("500 for the manifest", "connections that are cut", "connections that stall")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.long] * (name in SLOW)) for name in FAILURES]
)
def test_a_registry_that_fails_is_one_clear_error_at_its_place_in_the_file(
    launcher: Launcher, name: str
) -> None:
    image = Image(100_000, 1000)
    fail = FAILURES[name]
    with FaultyServer(lambda request: fail(image, request) or image.reply(request)) as server:
        reference = permit(launcher, server.host)
        before = time.monotonic()
        done = launcher.up(spec(reference, writable="ephemeral"), [PYTHON, "-c", ""])
        assert time.monotonic() - before < PROMPT
    assert done.status == 125
    assert "test.toml:4" in done.err
    assert reference.rpartition(":")[0] in done.err
    if "manifest" not in name:
        assert "sha256:" in done.err
    assert "Traceback" not in done.err
    assert done.err.count("error") <= 3, done.err
    assert succeed(launcher, "image", "ls") == []
    check_store(launcher)
    assert list((launcher.state / "images").glob("blobs/*/*")) == []


@pytest.mark.parametrize("program", [pytest.param("pull", marks=pytest.mark.long), "push"])
def test_a_registry_that_is_not_there_or_accepts_nothing_is_an_error_soon(
    launcher: Launcher, program: str
) -> None:
    image = Image(1000)
    with FaultyServer(image.reply) as server:
        succeed(launcher, "pull", permit(launcher, server.host), "app:1")
    arguments = {"pull": ("{}", "again:1"), "push": ("app:1", "{}")}[program]
    with socket.create_server(("127.0.0.1", 0), backlog=1) as listener:
        host = f"127.0.0.1:{listener.getsockname()[1]}"
        for text in (permit(launcher, server.host), permit(launcher, host)):
            permit(launcher, text.split("/")[2])
            before = time.monotonic()
            done = sandbox(launcher, program, *(each.format(text) for each in arguments))
            assert time.monotonic() - before < PROMPT
            assert done.status == 125
            assert text.split("/")[2] in done.err
            assert "Traceback" not in done.err
    check_store(launcher)


def test_a_layer_whose_content_is_not_what_the_image_states_is_refused_before_it_is_used(
    launcher: Launcher,
) -> None:
    image = Image(1000, diff_ids=[f"sha256:{'0' * 64}"])
    with FaultyServer(image.reply) as server:
        reference = permit(launcher, server.host)
        for arguments in (("pull", reference), ("up", launcher.write(spec(reference, writable="ephemeral")))):
            done = sandbox(launcher, *arguments)
            assert done.status == 125
            assert digest_of(image.layers[0]) in done.err
            assert "diff id" in done.err
    assert list((launcher.state / "images").glob("layers/*")) == []
