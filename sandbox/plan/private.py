"""Protect the launcher's private directories: refuse sources in them, and hide them in volumes that contain them."""

from __future__ import annotations

from collections.abc import Iterator

from sandbox.host.private_directories import PrivateDirectory, PrivateFacts
from sandbox.kernel.idmaps import IdMap
from sandbox.kernel.mountinfo import Location, is_inside, location, paths_to
from sandbox.plan.operations import BindVolume, HideDirectory


def private_part(path: str, private: PrivateFacts) -> PrivateDirectory | None:
    """Return the private directory that *path* is or lies in, through any mount; None if there is none.

    *path* has no symbolic links.
    """
    at = location(private.mounts, path)
    for directory in private.directories:
        if is_inside(path, directory.path):
            return directory
        if at is not None and any(
            at.device == area.device and is_inside(at.path, area.path)
            for area in _locations_of(directory, private)
        ):
            return directory
    return None


def source_refusal(source: str, *, writable: bool, private: PrivateFacts) -> tuple[str, str] | None:
    """Return message and hint if a volume may not show *source*, a host path without symbolic links; otherwise None."""
    part = private_part(source, private)
    if part is not None and (writable or not part.readable):
        hint = 'to share files between sandboxes, use type = "named"'
        if part.readable:
            hint += "; to read it, set read_only = true"
        return f"{source} is in the sandboxes' own {part.name}", hint
    for directory in private.directories:
        if directory is part:
            continue
        elsewhere = f"set {directory.variable} to a directory outside of {source}"
        for path in _shown(source, directory, private):
            if not is_inside(path, directory.path):
                message = f"the {directory.name} {directory.path} cannot be hidden in {source}: a mount of the host also shows it, or a part of it, at {path}"
                return message, f"name a directory without {path}, or unmount that, or {elsewhere}"
        for link in directory.links if writable else ():
            if _is_shown(link, source, private):
                return (
                    f"the path of the {directory.name} contains the symbolic link {link}, which the program could replace",
                    f"set {directory.variable} to {directory.path}, make the volume read-only, or name a directory without the link",
                )
    return None


def hidden_in(
    volume: BindVolume, private: PrivateFacts, uid_map: tuple[IdMap, ...] | None
) -> tuple[HideDirectory, ...]:
    """Return the operations that hide the private directories in *volume*.

    *uid_map* is that of the sandbox; None if it joins a user namespace.
    """
    found = [
        directory
        for directory in private.directories
        if directory.path != volume.source and is_inside(directory.path, volume.source)
    ]
    # A directory within another private one is hidden with that one.
    outer = [
        directory
        for directory in found
        if not any(other is not directory and is_inside(directory.path, other.path) for other in found)
    ]
    return tuple(
        HideDirectory(
            name=directory.name,
            source=directory.path,
            variable=directory.variable,
            volume=volume.target,
            path=directory.path[len(volume.source.rstrip("/")) + 1 :],
            identity=directory.identity,
            closed=uid_map is not None
            and directory.only_for is not None
            and not any(directory.only_for in range(e.outside, e.outside + e.count) for e in uid_map),
        )
        for directory in outer
    )


def _locations_of(directory: PrivateDirectory, private: PrivateFacts) -> Iterator[Location]:
    """Yield the location of *directory* in its file system, and that of each mount below it."""
    at = location(private.mounts, directory.path)
    if at is not None:
        yield at
    for entry in private.mounts:
        if entry.mount_point != directory.path and is_inside(entry.mount_point, directory.path):
            yield Location(entry.device, entry.root)


def _shown(source: str, directory: PrivateDirectory, private: PrivateFacts) -> Iterator[str]:
    """Yield each path at which a volume of *source* would expose *directory* or a part of it."""
    for area in _locations_of(directory, private):
        yield from paths_to(private.mounts, source, area)


def _is_shown(path: str, source: str, private: PrivateFacts) -> bool:
    """Tell whether the host path *path* can be reached through a volume of *source*."""
    at = location(private.mounts, path)
    return is_inside(path, source) or (
        at is not None and next(paths_to(private.mounts, source, at), None) is not None
    )
