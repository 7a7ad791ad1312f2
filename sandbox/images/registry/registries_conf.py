"""Read registries.conf: which hosts and repositories serve an image, and which of them may be contacted without TLS.

The format is version 2 of containers-registries.conf(5); files in `registries.conf.d` follow containers-registries.conf.d(5).
Of the settings, `prefix`, `location`, `insecure`, `blocked`, `mirror` and what restricts mirrors are used. Short names, their
aliases and search registries are not, because short names are refused.

Mirrors and remapping count for pulling only, as the page specifies. A push goes to the registry of the reference.
"""

from __future__ import annotations

import os

from sandbox.errors import ImageError
from sandbox.images.registry.reference import is_location
from unionfs._stdlib.dataclasses import dataclass
from unionfs._stdlib.typing import Any

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Literal

    from sandbox.images.registry.reference import Reference

    Pulls = Literal["all", "digest-only", "tag-only"]

_SYSTEM = "/etc/containers"
_MAX_SIZE = 1 << 20
"""The most bytes of one file."""
_PULLS: Mapping[str, Pulls] = {"all": "all", "digest-only": "digest-only", "tag-only": "tag-only"}


@dataclass(frozen=True, slots=True)
class Location:
    """A host, and a repository there, that may serve an image."""

    #: Host, and port where it is given.
    registry: str
    path: str
    #: Whether plain HTTP and certificates without verification are allowed.
    insecure: bool = False

    def __str__(self) -> str:
        return f"docker://{self.registry}/{self.path}"


@dataclass(frozen=True, slots=True)
class Mirror:
    """One [[registry.mirror]]."""

    location: str
    insecure: bool
    pulls: Pulls


@dataclass(frozen=True, slots=True)
class RegistryTable:
    """One [[registry]]."""

    #: A location, also with a tag or digest; or `*.` and a domain.
    prefix: str
    #: What takes the place of the prefix; "" leaves the name as it is.
    location: str
    insecure: bool
    blocked: bool
    mirrors: tuple[Mirror, ...]
    #: The file that has the table, for messages.
    file: str


class RegistriesConf:
    """The [[registry]] tables in effect; :func:`load` makes it."""

    def __init__(self, tables: Iterable[RegistryTable] = ()) -> None:
        """Use *tables*; a later one replaces an earlier one with the same prefix."""
        self._tables = {table.prefix: table for table in tables}

    def pull_locations(self, reference: Reference) -> tuple[Location, ...]:
        """Return the locations to pull *reference* from, in the order in which they are tried: mirrors, then its own.

        Raises:
            ImageError: the file blocks the image.
        """
        table = self._permitted(reference)
        own = _own(reference)
        if table is None:
            return (Location(*own),)
        name = "/".join(own)
        kind = "tag-only" if reference.digest is None else "digest-only"
        mirrors = [
            _remapped(table, name, mirror.location, insecure=mirror.insecure)
            for mirror in table.mirrors
            if mirror.pulls in ("all", kind)
        ]
        return (*mirrors, _remapped(table, name, table.location, insecure=table.insecure))

    def push_location(self, reference: Reference) -> Location:
        """Return the location to push *reference* to: its own.

        Raises:
            ImageError: the file blocks the image.
        """
        table = self._permitted(reference)
        return Location(*_own(reference), insecure=table is not None and table.insecure)

    def is_insecure(self, registry: str) -> bool:
        """Tell whether the file allows plain HTTP for the whole host *registry*."""
        table = self._table(registry)
        return table is not None and table.insecure

    def _permitted(self, reference: Reference) -> RegistryTable | None:
        name = str(reference).removeprefix("docker://")
        table = self._table(name)
        if table is not None and table.blocked:
            raise ImageError(
                f"{reference}: {table.file} blocks images of {table.prefix}",
                hint="remove `blocked = true` there, or use another registry",
            )
        return table

    def _table(self, name: str) -> RegistryTable | None:
        """Return the table with the longest prefix that matches *name*, by "Choosing a [[registry]] TOML table"."""
        matching = [table for table in self._tables.values() if _matched(table.prefix, name)]
        return max(matching, key=lambda table: len(_matched(table.prefix, name)), default=None)


def load(environ: Mapping[str, str]) -> RegistriesConf:
    """Return the tables of the files that *environ* selects; there need not be any.

    The file is $CONTAINERS_REGISTRIES_CONF, else `~/.config/containers/registries.conf`, else
    `/etc/containers/registries.conf`. Files of both directories `registries.conf.d` follow, the user's last.

    Raises:
        ImageError: a file cannot be read or is malformed, or $CONTAINERS_REGISTRIES_CONF names none.
    """
    places = [_SYSTEM]
    if home := environ.get("HOME"):
        places.append(os.path.join(home, ".config", "containers"))
    chosen = environ.get("CONTAINERS_REGISTRIES_CONF")
    if chosen is None:
        candidates = [os.path.join(place, "registries.conf") for place in reversed(places)]
        chosen = next(filter(os.path.exists, candidates), None)
    files = [] if chosen is None else [chosen]
    for place in places:
        directory = os.path.join(place, "registries.conf.d")
        try:
            names = sorted(name for name in os.listdir(directory) if name.endswith(".conf"))
        except OSError:
            continue
        files += [os.path.join(directory, name) for name in names]
    return RegistriesConf(table for file in files for table in _read(file))


def parse(text: str, file: str) -> list[RegistryTable]:
    """Return the [[registry]] tables of *text*, the content of *file*.

    Raises:
        ImageError: it is malformed; the error names the file and the table.
    """
    import tomllib

    try:
        content = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ImageError(f"{file}: {str(error).lower()}", hint="correct the file") from None
    if "registries" in content:
        raise ImageError(
            f"{file}: [registries] is the format of version 1, which is not supported",
            hint="write [[registry]] tables, see containers-registries.conf(5)",
        )
    return [_table(item, file) for item in _tables(content, "registry", file)]


def _read(file: str) -> list[RegistryTable]:
    try:
        with open(file, "rb") as stream:
            data = stream.read(_MAX_SIZE + 1)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ImageError(f"{file}: {reason}", hint="registries.conf must be readable") from None
    if len(data) > _MAX_SIZE:
        raise ImageError(f"{file}: is larger than {_MAX_SIZE} bytes")
    try:
        return parse(data.decode(), file)
    except UnicodeDecodeError:
        raise ImageError(f"{file}: is not UTF-8 text", hint="correct the file") from None


def _tables(table: Mapping[str, Any], key: str, file: str) -> list[Mapping[str, Any]]:
    value = table.get(key, [])
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise ImageError(f"{file}: {key} is not an array of tables", hint=f"write [[{key}]]")
    return value


def _table(table: Mapping[str, Any], file: str) -> RegistryTable:
    location = _text(table, "location", file).rstrip("/")
    prefix = _text(table, "prefix", file).rstrip("/") or location
    if not _is_prefix(prefix) or not (is_location(location) if location else True):
        raise ImageError(
            f"{file}: [[registry]]: {prefix!r} with location {location!r} is no location of a registry",
            hint="write HOST[:PORT][/NAME]; a prefix may also be *.DOMAIN",
        )
    by_digest = _flag(table, "mirror-by-digest-only", file)
    mirrors = tuple(_mirror(item, file, by_digest=by_digest) for item in _tables(table, "mirror", file))
    return RegistryTable(
        prefix=prefix,
        location=location,
        insecure=_flag(table, "insecure", file),
        blocked=_flag(table, "blocked", file),
        mirrors=mirrors,
        file=file,
    )


def _mirror(table: Mapping[str, Any], file: str, *, by_digest: bool) -> Mirror:
    location = _text(table, "location", file).rstrip("/")
    if not is_location(location):
        raise ImageError(
            f"{file}: [[registry.mirror]]: {location!r} is no location of a registry",
            hint="write HOST[:PORT][/NAME]",
        )
    chosen = _text(table, "pull-from-mirror", file) or ("digest-only" if by_digest else "all")
    pulls = _PULLS.get(chosen)
    if pulls is None or (by_digest and pulls != "digest-only"):
        raise ImageError(
            f"{file}: mirror {location}: pull-from-mirror = {chosen!r}",
            hint='write "all", "digest-only" or "tag-only", and not together with mirror-by-digest-only',
        )
    return Mirror(location, _flag(table, "insecure", file), pulls)


def _text(table: Mapping[str, Any], key: str, file: str) -> str:
    value = table.get(key, "")
    if not isinstance(value, str):
        raise ImageError(f"{file}: [[registry]]: {key} is not a string", hint=f'write {key} = "..."')
    return value


def _flag(table: Mapping[str, Any], key: str, file: str) -> bool:
    value = table.get(key, False)
    if not isinstance(value, bool):
        raise ImageError(f"{file}: [[registry]]: {key} is not true or false", hint=f"write {key} = true")
    return value


def _is_prefix(prefix: str) -> bool:
    """Tell whether *prefix* has one of the formats of the page, also with a tag or digest at its end."""
    if prefix.startswith("*."):
        return is_location(prefix[2:]) and "/" not in prefix and ":" not in prefix
    name = prefix.partition("@")[0]
    head, slash, last = name.rpartition("/")
    return is_location(f"{head}{slash}{last.partition(':')[0] if slash else last}")


def _matched(prefix: str, name: str) -> str:
    """Return the beginning of *name* that *prefix* matches, which ends before a separator; "" if there is none."""
    if prefix.startswith("*."):
        registry = name.partition("/")[0]
        host = registry.partition(":")[0]
        return registry if host.endswith(prefix[1:]) and len(host) >= len(prefix) else ""
    # A colon behind a host begins a port, and another port is another registry.
    separators = "/:@" if "/" in prefix else "/"
    is_match = name.startswith(prefix) and name[len(prefix) : len(prefix) + 1] in ("", *separators)
    return prefix if is_match else ""


def _own(reference: Reference) -> tuple[str, str]:
    return reference.repository.registry, reference.repository.path


def _remapped(table: RegistryTable, name: str, location: str, *, insecure: bool) -> Location:
    """Return the location of the repository *name*, in which *location* takes the place of the prefix of *table*."""
    if location:
        matched = _matched(table.prefix, name)
        # A prefix with a tag or digest covers the whole name of the repository.
        name = f"{location}{name[len(matched) :] if matched else ''}"
    registry, _, path = name.partition("/")
    if not path:
        raise ImageError(
            f"{table.file}: [[registry]] {table.prefix}: the location {location} is no repository",
            hint=f"write {location}/NAME, because the prefix is a whole repository",
        )
    return Location(registry, path, insecure)
