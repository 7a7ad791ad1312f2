"""Decide where copied files go in the layers so far: links of the target are followed, and missing directories are added.

The rules are those of the Dockerfile reference ("COPY", "Destination"). The files of a directory go into the target. A single
file is the target, or goes into it if that is a directory. A directory that is copied onto a link to a directory goes where the
link leads, so that a tree with `bin/` can be copied over a root whose /bin is a link.
"""

from __future__ import annotations

import os

from sandbox.builder.owners import owner_ids
from sandbox.builder.union import Union
from sandbox.errors import ImageError
from sandbox.images.names import printable
from unionfs._stdlib.dataclasses import dataclass, field
from unionfs._stdlib.typing import Any

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What one source of a copy is: its name, and if it is a directory, the directories below it, parents first.

    These are relative to it, and have no leading slash.
    """

    name: str
    is_directory: bool
    directories: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where the sources of one copy go. All paths are absolute, and have no links in the layers so far.

    `targets` has for each source its directory or its file. `missing` are directories to create, parents first. `moved` has for
    each source the directories below it that go elsewhere, because a link is in their place.
    """

    targets: tuple[str, ...]
    missing: tuple[str, ...]
    owner: tuple[int, int]
    moved: tuple[Mapping[str, str], ...] = field(default=())

    def as_json(self) -> dict[str, Any]:
        """Return the placement for JSON."""
        return {
            "targets": list(self.targets),
            "missing": list(self.missing),
            "owner": list(self.owner),
            "moved": [dict(one) for one in self.moved],
        }

    @classmethod
    def from_json(cls, value: Any) -> Placement:
        """Return the placement that `as_json` gave as *value*."""
        uid, gid = value["owner"]
        return cls(
            targets=tuple(value["targets"]),
            missing=tuple(value["missing"]),
            owner=(uid, gid),
            moved=tuple(value["moved"]),
        )


def place(union: Union, target: str, owner: str, sources: Sequence[Source]) -> Placement:
    """Return where *sources* go in *union* for the absolute path *target*, a directory for certain if it ends with a slash.

    Raises:
        ImageError: several sources have a target that is no directory, or *owner* is unknown.
        OSError: a layer cannot be read.
    """
    top = _top(union, target)
    is_directory = target.endswith("/") or union.kind(top) == "directory"
    if len(sources) > 1 and not is_directory:
        raise ImageError(
            f"several files need a directory as target, and {_shown(target)} is none",
            hint=f"write {target}/",
        )
    targets = [
        top if source.is_directory or not is_directory else _joined(top, source.name) for source in sources
    ]
    missing: dict[str, None] = {}
    for source, path in zip(sources, targets, strict=True):
        wanted = path if source.is_directory else path.rpartition("/")[0]
        missing.update(dict.fromkeys(missing_directories(union, wanted or "/")))
    if is_directory and not sources:
        missing.update(dict.fromkeys(missing_directories(union, top)))
    return Placement(
        targets=tuple(targets),
        missing=tuple(missing),
        owner=owner_ids(owner, union),
        moved=tuple(
            _moved(union, path, source.directories) for source, path in zip(sources, targets, strict=True)
        ),
    )


def missing_directories(union: Union, path: str) -> list[str]:
    """Return those of *path*, which has no links, and of the directories above it that do not exist, parents first.

    Raises:
        ImageError: one of them is no directory.
    """
    found = []
    at = ""
    for name in path.strip("/").split("/") if path != "/" else []:
        at += f"/{name}"
        kind = union.kind(at)
        if kind == "":
            found.append(at)
        elif kind != "directory":
            raise ImageError(
                f"{_shown(at)} is no directory in the layers so far",
                hint="choose another target, or remove that file in an earlier step",
            )
    return found


def directories_of(union: Union, path: str) -> Iterator[str]:
    """Yield the directories below the directory *path* of *union*, relative to it, parents first."""
    pending = [""]
    while pending:
        at = pending.pop()
        if at:
            yield at
        for name, is_directory in sorted(union.listing(_joined(path, at)).items(), reverse=True):
            if is_directory:
                pending.append(f"{at}/{name}" if at else name)


def _top(union: Union, target: str) -> str:
    """Return *target* with the links above it followed, and itself if it is a link to a directory: other links are replaced."""
    parent, _, name = target.rstrip("/").rpartition("/")
    if not name:
        return "/"
    unfollowed = _joined(union.resolve(parent or "/"), name)
    followed = union.resolve(unfollowed)
    leads_on = target.endswith("/") or union.kind(followed) == "directory"
    return followed if leads_on else unfollowed


def _moved(union: Union, top: str, directories: Sequence[str]) -> Mapping[str, str]:
    found: dict[str, str] = {}
    absent = {""} if not union.kind(top) else set()  # nothing is below these, so nothing is looked up there
    for path in directories:
        parent, _, name = path.rpartition("/")
        usual = _joined(found.get(parent) or _joined(top, parent), name)
        if parent in found:
            found[path] = usual
        kind = "" if parent in absent else union.kind(usual)
        if kind == "":
            absent.add(path)
        elif kind == "link":
            followed = union.resolve(usual)
            if union.kind(followed) == "directory":
                found[path] = followed
            else:
                absent.add(path)
    return found


def _joined(top: str, path: str) -> str:
    return f"{top.rstrip('/')}/{path}" if path else top


def _shown(path: str) -> str:
    return printable(os.fsencode(path))
