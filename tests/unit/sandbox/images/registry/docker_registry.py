"""Debian's docker-registry on loopback, the reference implementation of the distribution specification.

A test that uses it has the marker `docker_registry`.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

#: The line of htpasswd(1) for the user and password of `clients`, by bcrypt with the least cost.
HTPASSWD = "me:$2b$05$abcdefghijklmnopqrstuuw.7Ic9oecrO7jIJSN04LbZ0SkdHzLuy\n"


@contextmanager
def running(directory: Path, *, requests: bool = False, **http: Any) -> Iterator[str]:
    """Run a registry that has its data in *directory*; yield its host and port. *http* and `auth` are its settings.

    With *requests*, the file `log` in *directory* has a line for each request.
    """
    port = _free_port()
    auth = http.pop("auth", None)
    config = {
        "version": 0.1,
        "log": {"level": "error", "accesslog": {"disabled": not requests}},
        "storage": {"filesystem": {"rootdirectory": str(directory / "data")}, "delete": {"enabled": True}},
        "http": {"addr": f"127.0.0.1:{port}", **http},
        **({} if auth is None else {"auth": auth}),
    }
    path = directory / "config.yml"
    path.write_text(json.dumps(config))  # JSON is YAML
    environ = {name: value for name, value in os.environ.items() if not name.startswith("REGISTRY_")}
    with (
        open(directory / "log", "wb") as log,
        subprocess.Popen(["docker-registry", "serve", path], stdout=log, stderr=log, env=environ) as process,
    ):
        try:
            _wait_for(port, process)
            yield f"127.0.0.1:{port}"
        finally:
            process.kill()


def htpasswd(directory: Path) -> dict[str, Any]:
    """Return the setting `auth` that requires the user and password of `clients`."""
    path = directory / "htpasswd"
    path.write_text(HTPASSWD)
    return {"htpasswd": {"realm": "test", "path": str(path)}}


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert process.poll() is None, "docker-registry has ended"
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError("docker-registry does not listen")
