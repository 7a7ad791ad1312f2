"""Write and read lock files, which name every source of an environment file with its digest.

    FILE.lock.toml      version = 1, [[sources]] with source and digest

`sandbox up --locked` uses exactly these. A source is written as the environment file has it, with paths relative to the
directory of the lock file, so that both files can be moved together. Directories have no digest, and are not locked.
"""

from __future__ import annotations

import os
from contextlib import suppress

from sandbox.errors import ImageError, StateError
from sandbox.images.oci.digest import Digest
from sandbox.kernel.files import open_regular
from sandbox.spec.values.layers import IMAGE_KINDS
from sandbox.state.file_digests import sha256_of
from unionfs._stdlib.typing import Any

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sandbox.spec.model import Spec
    from sandbox.spec.values import Layer

_VERSION = 1
_LARGEST = 1 << 20
_AGAIN = "run `sandbox lock` again"
_HEADER = "# Written by `sandbox lock`; run it again to accept other digests.\n"


def lock_path(file: str) -> str:
    """Return the path of the lock file of *file*."""
    return f"{file}.lock.toml"


def source_of(layer: Layer, directory: str) -> str:
    """Return *layer* as a lock file in *directory* names it."""
    return relative_source(layer.shown(), directory)


def relative_source(source: str, directory: str) -> str:
    """Return *source*, KIND:PATH, with a path relative to *directory* if it is in that; other sources as they are."""
    kind, _, path = source.partition(":")
    inside = path.startswith(directory.rstrip("/") + "/")
    return f"{kind}:{path.removeprefix(directory.rstrip('/') + '/')}" if inside else source


def lockable(spec: Spec) -> list[tuple[int, Layer]]:
    """Return the layers of *spec* that have a digest, with their numbers in the file."""
    kinds = {"tar", *IMAGE_KINDS}
    return [(number, layer) for number, layer in enumerate(spec.root.layers) if layer.kind in kinds]


def read_lock(path: str) -> dict[str, str]:
    """Return the digests in the lock file *path*, by source.

    Raises:
        StateError: there is no such file, or it is damaged.
    """
    import tomllib

    try:
        with open(open_regular(path), "rb") as file:
            content = file.read(_LARGEST + 1)
        if len(content) > _LARGEST:
            raise ValueError(f"more than {_LARGEST} bytes")
        value = tomllib.loads(content.decode())
        if value["version"] != _VERSION:
            raise StateError(f"{path}: written by another version of sandbox", hint=_AGAIN)
        digests: dict[str, str] = {}
        for one in value["sources"]:
            source = str(one["source"])
            if source in digests:
                raise ValueError(f"{source} stands there twice")
            digests[source] = str(Digest.parse(str(one["digest"])))
    except FileNotFoundError:
        hint = f"`sandbox lock {path.removesuffix('.lock.toml')}` writes it"
        raise StateError(f"{path}: there is no lock file", hint=hint) from None
    except OSError as error:
        raise StateError(f"{path}: {(error.strerror or str(error)).lower()}") from None
    except KeyError as error:
        raise StateError(f"{path}: damaged: {error} is missing", hint=_AGAIN) from None
    except (ValueError, TypeError) as error:
        raise StateError(f"{path}: damaged: {error}", hint=_AGAIN) from None
    except RecursionError:
        raise StateError(f"{path}: damaged: nested too deeply", hint=_AGAIN) from None
    return digests


def write_lock(path: str, digests: Mapping[str, str]) -> None:
    """Replace the lock file *path* atomically by one with *digests*, by source.

    Raises:
        StateError: it cannot be written; the old one is still there.
    """
    import tomli_w

    sources: list[dict[str, Any]] = [
        {"source": source, "digest": digest} for source, digest in digests.items()
    ]
    text = _HEADER + tomli_w.dumps({"version": _VERSION, "sources": sources})
    new = f"{path}.{os.urandom(4).hex()}.new"
    try:
        with open(new, "x", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.rename(new, path)
    except BaseException as error:
        with suppress(OSError):
            os.unlink(new)
        if isinstance(error, OSError):
            raise StateError(f"{path}: {(error.strerror or str(error)).lower()}") from None
        raise


def archive_digest(path: str) -> str:
    """Return the digest of the archive *path*.

    Raises:
        ImageError: it cannot be read.
    """
    try:
        fd = open_regular(path)
        try:
            return f"sha256:{sha256_of(fd)}"
        finally:
            os.close(fd)
    except OSError as error:
        raise ImageError(f"{path}: {(error.strerror or str(error)).lower()}") from None


def drift(path: str, source: str, locked: str, found: str) -> ImageError:
    """Return the error that *source* has the digest *found*, and the lock file *path* names *locked*."""
    return ImageError(
        f"{source} has changed: {path} has {locked}, and it is {found} now",
        hint="restore the old one, or accept the new one: run `sandbox lock` again",
    )


def not_locked(path: str, source: str) -> ImageError:
    """Return the error that the lock file *path* does not name *source*."""
    return ImageError(f"{source} is not in {path}", hint=_AGAIN)


def superfluous(digests: Mapping[str, str], used: Iterable[str], path: str) -> StateError | None:
    """Return the error that the lock file *path* names sources that its file does not have; None if all are *used*."""
    left = sorted(set(digests) - set(used))
    if not left:
        return None
    return StateError(f"{path} names {left[0]}, which the file does not have", hint=_AGAIN)
