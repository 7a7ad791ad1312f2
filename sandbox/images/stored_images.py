"""Record which images the store has: by name, and by the digest of the manifest.

    IMAGES/images.json              {"version": 1, "names": {NAME: {"digest", "index", "source", "version", "time"}, ...}}
    IMAGES/manifests/HEX.json       layers and defaults of the image whose manifest has that digest

A start with an image that is unpacked reads only these two files. Both are made from documents that were checked, and are
replaced by rename, so no part of a file is ever read.
"""

from __future__ import annotations

import os
import re
import time
from contextlib import contextmanager, suppress

from sandbox.errors import ImageError, StateError
from sandbox.plan.image_values import ImageDefaults, ImageLayer, StoredImage
from sandbox.state.locks import exclusively_locked
from sandbox.state.trusted_files import LARGEST, read_json, replace_json
from unionfs._stdlib.dataclasses import asdict, dataclass, replace
from unionfs._stdlib.typing import Any

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container, Iterator

_NAMES = "images.json"
_RECORDS = "manifests"
_VERSION = 1
DEFAULT_TAG = "latest"
PREFIX = "image:"
"""May precede the name of an image, where other things have names, too."""
_LARGEST_NAMES = 1 << 26
"""The most bytes of the file of names that are read; each name has about 400."""
_OF_FILES = ("oci:", "docker-archive:")
"""Begin the names of images that a start has imported from a layer of its file. Other images cannot be given such a name."""
# [HOST[:PORT]/]PATH[:TAG], as container engines write it; "oci:1", and "oci", which means "oci:latest", are of another kind.
_NAME = r"(?!(?:oci|tar|dir|docker|docker-archive|image)(?::|\Z))[A-Za-z0-9][A-Za-z0-9._/:-]{0,254}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageName:
    """A name of an image in the store, and what it refers to."""

    name: str
    #: The digest of the manifest.
    digest: str
    #: The digest of the index that the image was chosen from; "" if there was none.
    index: str = ""
    #: Where the image came from: "docker://docker.io/library/debian:13"; "" for an image that was built or committed here.
    source: str = ""
    #: Facts about the file that it came from, which tell whether that has changed; empty for other sources.
    version: tuple[int, ...] = ()
    #: When it was stored, in seconds since the epoch.
    time: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRecord:
    """An image of the store without its name."""

    #: The digest and the media type of its manifest, and the digest of its configuration.
    digest: str
    media_type: str
    config: str
    #: OS/ARCHITECTURE[/VARIANT]
    platform: str
    layers: tuple[ImageLayer, ...]
    defaults: ImageDefaults = ImageDefaults()
    #: When it was made, as its configuration tells: RFC 3339, or "".
    created: str = ""

    def checked(self, source: str) -> ImageRecord:
        """Return the record itself if it is not too large to be stored. *source* is for messages.

        Raises:
            ImageError: it has more than LARGEST bytes as JSON.
        """
        import json

        if len(json.dumps(asdict(self))) > LARGEST:
            raise ImageError(
                f"{source}: image {self.digest}: its {len(self.layers)} layers and its defaults take more than {LARGEST} bytes",
                hint="make an image of fewer layers, or with a smaller environment",
            )
        return self

    def named(self, name: str) -> StoredImage:
        """Return the image for a plan, called *name* in messages."""
        return StoredImage(name=name, digest=self.digest, layers=self.layers, defaults=self.defaults)


def normalized(name: str) -> str:
    """Return *name* with its tag: "debian" and "image:debian" are "debian:latest".

    A name with a digest, or that of a file, gets no tag.
    """
    name = name.removeprefix(PREFIX)
    if is_of_file(name) or "@" in name or ":" in name.rpartition("/")[2]:
        return name
    return f"{name}:{DEFAULT_TAG}"


def is_of_file(name: str) -> bool:
    """Return whether *name* is that of a layout or an archive, from which a start has imported the image."""
    return name.startswith(_OF_FILES)


def check_new_name(name: str) -> str:
    """Return *name* if it can be given to an image: NAME or NAME:TAG.

    Raises:
        ImageError: it cannot.
    """
    if re.fullmatch(_NAME, name) is None:
        raise ImageError(
            f"{name!r} cannot be the name of an image", hint="write NAME or NAME:TAG, such as debian:13"
        )
    return name


class StoredImages:
    """The names and records of one image directory. Owns nothing; several processes may use it at once."""

    def __init__(self, images: str) -> None:
        """Use the image directory *images*, which need not exist."""
        self.images = images

    def names(self) -> dict[str, ImageName]:
        """Return all names.

        Raises:
            StateError: the file of names is damaged.
        """
        path = os.path.join(self.images, _NAMES)
        try:
            value = read_json(path, _LARGEST_NAMES)
            if value["version"] != _VERSION:
                raise StateError(
                    f"{path} was written by another version of sandbox",
                    hint="use that version, or remove the file",
                )
            return {name: _name(name, fields) for name, fields in value["names"].items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise StateError(
                f"{path} is damaged: {error}", hint="remove it, and fetch or import the images again"
            ) from None

    def find(self, name: str) -> ImageName | None:
        """Return what *name* refers to: NAME, NAME:TAG, or NAME@DIGEST; None if nothing.

        DIGEST is that of a manifest or an index. "image:" may precede the name.

        Raises:
            StateError: the file of names is damaged.
        """
        names = self.names()
        name = normalized(name)
        found = names.get(name)
        if found is not None or "@" not in name:
            return found
        repository, _, digest = name.partition("@")
        tagged = (one for one in names.values() if digest in (one.digest, one.index))
        return next((one for one in tagged if _repository(one.name) == _repository(repository)), None)

    def record(self, digest: str) -> ImageRecord | None:
        """Return the image whose manifest is *digest*; None if the store does not have it, or its record is damaged."""
        try:
            return _record(read_json(self._path(digest)))
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None

    def records(self) -> list[ImageRecord]:
        """Return all images, those without a name too."""
        found = []
        with suppress(FileNotFoundError):
            for name in sorted(os.listdir(os.path.join(self.images, _RECORDS))):
                if not name.endswith(".json"):
                    continue  # a file that is being written
                with suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
                    found.append(_record(read_json(os.path.join(self.images, _RECORDS, name))))
        return found

    def add(self, record: ImageRecord, name: ImageName | None) -> None:
        """Store *record* and give it *name*, which another image may have had.

        Raises:
            StateError: it cannot be written.
        """
        try:
            os.makedirs(os.path.join(self.images, _RECORDS), mode=0o700, exist_ok=True)
            replace_json(self._path(record.digest), asdict(record), lasting=True)
        except OSError as error:
            raise _not_written(self.images, error) from None
        if name is not None:
            with self.changing() as names:
                names[name.name] = replace(name, digest=record.digest, time=time.time())

    def remove_record(self, digest: str) -> None:
        """Remove the record of the image *digest*, if there is one."""
        with suppress(FileNotFoundError):
            os.unlink(self._path(digest))

    def remove_unreadable(self, kept: Container[str]) -> None:
        """Remove records that are damaged, unless their digests are in *kept*, and files that killed processes have left.

        The caller makes sure that no other process writes.
        """
        base = os.path.join(self.images, _RECORDS)
        with suppress(FileNotFoundError):
            for name in os.listdir(base):
                digests = [f"{algorithm}:{name.removesuffix('.json')}" for algorithm in ("sha256", "sha512")]
                whole = name.endswith(".json") and any(map(self.record, digests))
                if not whole and not any(digest in kept for digest in digests):
                    os.unlink(os.path.join(base, name))
        with suppress(FileNotFoundError):
            for name in os.listdir(self.images):
                if name.startswith(f"{_NAMES}.") and name.endswith(".new"):
                    os.unlink(os.path.join(self.images, name))

    @contextmanager
    def changing(self) -> Iterator[dict[str, ImageName]]:
        """Yield the names, locked; changes of the dictionary are written at the end.

        Raises:
            StateError: the file of names is damaged, or cannot be written.
        """
        os.makedirs(self.images, mode=0o700, exist_ok=True)
        with exclusively_locked(self.images):
            names = self.names()
            before = dict(names)
            yield names
            if names != before:
                value = {"version": _VERSION, "names": {name: _as_json(one) for name, one in names.items()}}
                try:
                    replace_json(os.path.join(self.images, _NAMES), value, lasting=True)
                except OSError as error:
                    raise _not_written(self.images, error) from None

    def _path(self, digest: str) -> str:
        return os.path.join(self.images, _RECORDS, f"{digest.partition(':')[2]}.json")


def missing(name: str) -> ImageError:
    """Return the error that the store has no image *name*."""
    return ImageError(
        f"the image store has no image {name}",
        hint="`sandbox image ls` lists them; `sandbox pull` fetches one",
    )


def _repository(name: str) -> str:
    """Return *name* without its tag."""
    head, slash, last = name.rpartition("/")
    return f"{head}{slash}{last.partition(':')[0]}"


def _name(name: str, fields: Any) -> ImageName:
    return ImageName(
        name=name,
        digest=_digest(fields["digest"]),
        index=_digest(fields["index"]) if fields["index"] else "",
        source=str(fields["source"]),
        version=tuple(map(int, fields["version"])),
        time=float(fields["time"]),
    )


def _as_json(name: ImageName) -> dict[str, Any]:
    return {key: value for key, value in asdict(name).items() if key != "name"}


def _digest(value: Any) -> str:
    """Return the digest *value*; raise ValueError if it is none: parts of it become names of files."""
    algorithm, _, digits = str(value).partition(":")
    if (algorithm, len(digits)) not in (("sha256", 64), ("sha512", 128)) or digits.strip("0123456789abcdef"):
        raise ValueError(f"{value!r} is not a digest")
    return str(value)


def _record(value: Any) -> ImageRecord:
    defaults: dict[str, Any] = {
        key: tuple(map(str, given)) if isinstance(given, list) else str(given)
        for key, given in value["defaults"].items()
    }
    return ImageRecord(
        digest=_digest(value["digest"]),
        media_type=str(value["media_type"]),
        config=_digest(value["config"]),
        platform=str(value["platform"]),
        created=str(value["created"]),
        layers=tuple(
            ImageLayer(
                diff_id=_digest(layer["diff_id"]),
                digest=_digest(layer["digest"]),
                size=int(layer["size"]),
                media_type=str(layer["media_type"]),
                table=_digest(layer["table"]) if layer.get("table") else "",
            )
            for layer in value["layers"]
        ),
        defaults=ImageDefaults(**defaults),
    )


def _not_written(images: str, error: OSError) -> StateError:
    reason = (error.strerror or str(error)).lower()
    return StateError(
        f"the image directory {images} cannot be written: {reason}",
        hint="free some space, or set SANDBOX_CACHE_DIR to another directory",
    )
