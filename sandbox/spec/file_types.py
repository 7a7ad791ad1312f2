"""Report paths of an environment file whose file type cannot be used there on any machine."""

from __future__ import annotations

import os
import stat

from sandbox.spec.diagnostic import Diagnostic
from sandbox.spec.model import Spec

_NAMES = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def wrong_file_types(spec: Spec) -> list[Diagnostic]:
    """Return a mistake for each layer or file to read whose path leads to a file of a type that cannot be used there.

    A path that does not exist here, or cannot be examined, is no mistake. No file is opened.
    """
    found = []
    for number, layer in enumerate(spec.root.layers):
        if layer.kind in {"dir", "tar"} and (mode := _type(layer.path)) is not None:
            wrong = wrong_layer_type(layer.kind, layer.path, mode)
            if wrong is not None:
                found.append(spec.diagnose(f"root.layers[{number}]", *wrong))
    for key, path in _read(spec).items():
        if path is not None and (mode := _type(path)) not in {None, stat.S_IFREG}:
            found.append(spec.diagnose(key, f"{path} is {_NAMES.get(mode or 0)}, not a regular file"))
    return found


def wrong_layer_type(kind: str, path: str, file_type: int) -> tuple[str, str] | None:
    """Return message and hint if a file of *file_type* (S_IFMT) at *path* cannot be a layer of *kind*; else None."""
    wanted = stat.S_IFDIR if kind == "dir" else stat.S_IFREG
    if file_type == wanted:
        return None
    if kind == "dir" and file_type == stat.S_IFREG:
        return f"{path} is a file, not a directory", f'write "tar:{path}"'
    if kind == "tar" and file_type == stat.S_IFDIR:
        return f"{path} is a directory, not a file", f'write "dir:{path}"'
    what = "directory" if kind == "dir" else "regular file"
    return f"{path} is {_NAMES.get(file_type)}, not a {what}", f"give the path of a {what}"


def _read(spec: Spec) -> dict[str, str | None]:
    """Return the paths of the files that are read, by their keys."""
    seccomp = spec.security.seccomp
    named = (
        {"security.seccomp": seccomp}
        if isinstance(seccomp, str)
        else {"security.seccomp.profile": seccomp.profile}
    )
    profiles = {key: path if "/" in path else None for key, path in named.items()}
    return {"process.env_file": spec.process.env_file, **profiles}


def _type(path: str) -> int | None:
    try:
        return stat.S_IFMT(os.stat(path).st_mode)
    except (OSError, ValueError):
        return None
