"""A registry and images for tests of layers that are fetched while they are read."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from tests.e2e.images import base, run, spec
from tests.e2e.support import Launcher
from tests.e2e.test_registries import permit
from tests.support.chunked import ChunkedLayer, content_of, write_chunked_layout, write_zstd_chunked
from tests.support.images import tar_of
from tests.unit.sandbox.images.registry.docker_registry import running

CHUNK = 50_000
LARGE = content_of(1, 20 * CHUNK)
UPPER = tar_of(
    {
        "data/.wh.deleted": b"",
        "data/large": LARGE,
        "data/moved/kept": b"of the second layer",
        "data/small": b"small",
    },
    mtime=1_600_000_000,
)
#: Prints the beginning of a file.
HEAD = "head -c 10 /data/large | od -An -tx1"
FIRST = f" {LARGE[:10].hex(' ')}\n"


class Registry:
    """A registry that a test can end and start again."""

    def __init__(self, launcher: Launcher) -> None:
        self._directory = launcher.directory
        self._log = launcher.directory / "log"
        self._context = running(launcher.directory, requests=True)
        self.host = self._context.__enter__()
        permit(launcher, self.host)

    def end(self) -> None:
        self._context.__exit__(None, None, None)

    def push(self, layout: Path, name: str = "lazy") -> str:
        """Push the image of *layout*; return it as a layer of an environment file."""
        image = f"docker://{self.host}/team/{name}:1"
        run("skopeo", "--insecure-policy", "copy", "--dest-tls-verify=false", f"oci:{layout}:t", image)
        return image

    def served(self) -> dict[str, int]:
        """Return the bytes of each blob that the registry has sent by GET."""
        found: dict[str, int] = {}
        for digest, count in re.findall(r'"GET \S+/blobs/(\S+) HTTP/1.1" 20\d (\d+)', self._log.read_text()):
            found[digest] = found.get(digest, 0) + int(count)
        return found

    def blob(self, digest: str) -> Path:
        """Return the file that has the blob *digest*."""
        hexadecimal = digest.partition(":")[2]
        (found,) = self._directory.glob(f"data/docker/registry/v2/blobs/sha256/??/{hexadecimal}/data")
        return found


def base_tar(launcher: Launcher) -> bytes:
    return base(launcher.directory / "base.tar").read_bytes()


def image_of(
    launcher: Launcher, registry: Registry, write: Callable[..., ChunkedLayer] = write_zstd_chunked
) -> tuple[str, list[ChunkedLayer]]:
    """Push an image of two layers that *write* writes; return it and them."""
    layers = [write(base_tar(launcher)), write(UPPER, CHUNK)]
    return registry.push(write_chunked_layout(launcher.directory / "layout", *layers)), layers


def lazy(image: str, **options: str) -> str:
    """Return an environment file with *image*, fetched while it is read."""
    more = options.pop("more", "")
    return spec(image, writable=options.pop("writable", "ephemeral"), more=f"lazy = true\n{more}", **options)


def parts(launcher: Launcher) -> list[str]:
    return sorted(path.name for path in (launcher.state / "images").glob("lazy/*"))
