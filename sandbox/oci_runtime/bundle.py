"""Write an image as a bundle, which runc and crun run (runtime-spec 1.0, bundle.md)."""

from __future__ import annotations

import json
import os
from contextlib import suppress

from sandbox.errors import ImageError
from sandbox.images.names import printable
from sandbox.images.oci.image_config import ImageConfig
from sandbox.kernel.idmaps import IdMap, lookup
from sandbox.oci_runtime.runtime_config import ROOT_FILE_SYSTEM, BundleOptions, ProcessUser, runtime_config
from sandbox.runtime.process.passwd import UnknownAccountError, groups_of, resolve
from unionfs._stdlib.dataclasses import replace
from unionfs._stdlib.typing import Protocol

_CONFIG = "config.json"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_LARGEST_ID = (1 << 32) - 2


class RootFileSystem(Protocol):
    """The tree that a bundle gets. Both methods take a descriptor of the directory of its root, and leave it open."""

    def extract(self, directory: int, /) -> None:
        """Fill the empty *directory*, with owners as the id maps of the bundle have them; or leave it empty and raise an error."""

    def discard(self, directory: int, /) -> None:
        """Remove all that was extracted to *directory*."""


def write_bundle(
    path: str, image: ImageConfig, root: RootFileSystem, options: BundleOptions
) -> tuple[str, ...]:
    """Write the bundle *path* with the tree *root* and the configuration *image*; config.json comes last.

    *path* must not exist, or be an empty directory. After an error it is as before. Return notices of what the bundle lacks.

    Raises:
        ImageError: *path* has other files, or the image's user is unknown or not in the id map.
        OSError: a file cannot be written; or what *root* raises.
    """
    made = _make(path, options)
    try:
        directory = os.open(path, _DIRECTORY)
        try:
            if os.listdir(directory):
                raise ImageError(f"{path}: a directory that is not empty", hint="choose another directory")
            return _fill(directory, image, root, options)
        finally:
            os.close(directory)
    except BaseException:
        if made:
            with suppress(OSError):
                os.rmdir(path)
        raise


def _make(path: str, options: BundleOptions) -> bool:
    """Make the directory *path*; return False if it exists.

    Other users of the host must not reach its files, some of which may be set-user-id. But in a user namespace, root of the bundle
    has to reach the root file system.
    """
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        return False
    if options.uid_map and lookup(options.uid_map, 0) != os.geteuid():
        os.chmod(path, 0o711)
    return True


def _fill(
    directory: int, image: ImageConfig, root: RootFileSystem, options: BundleOptions
) -> tuple[str, ...]:
    os.mkdir(ROOT_FILE_SYSTEM, dir_fd=directory)
    try:
        tree = os.open(ROOT_FILE_SYSTEM, _DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
        try:
            os.fchmod(tree, 0o755)
            root.extract(tree)
            try:
                user, notices = _without_groups(find_user(tree, image, options), options)
                _write(directory, runtime_config(image, user, options))
                return notices
            except BaseException:
                root.discard(tree)
                raise
        finally:
            os.close(tree)
    except BaseException:
        with suppress(OSError):
            os.rmdir(ROOT_FILE_SYSTEM, dir_fd=directory)
        raise


def _without_groups(user: ProcessUser, options: BundleOptions) -> tuple[ProcessUser, tuple[str, ...]]:
    """Return *user* as the runtime can set it, and a notice if that is less than the image demands."""
    if not (options.rootless and user.groups):
        return user, ()
    listed = ", ".join(map(str, user.groups[:20]))
    notice = f"the program has no supplementary groups ({listed}): runc sets none for an ordinary user"
    return replace(user, groups=()), (notice,)


def find_user(root_fd: int, image: ImageConfig, options: BundleOptions) -> ProcessUser:
    """Return the ids of the user of *image*, whose names are looked up in the root *root_fd* (image-spec, conversion.md).

    An image without a user is run by root.

    Raises:
        ImageError: a name does not exist there, a number is no id, or an id is not in the map of *options*.
    """
    text = image.process.user or "0"
    user, _, group = text.partition(":")
    try:
        account = resolve(root_fd, _id_or_name(user), _id_or_name(group) if group else None)
    except UnknownAccountError as error:
        raise ImageError(
            f"the image's user {_shown(text)}: {_shown(str(error))}",
            hint="give the image another user, or an id",
        ) from None
    groups: tuple[int, ...] = ()
    if isinstance(_id_or_name(user), str) and not group:
        groups = tuple(groups_of(root_fd, user))
    for kind, number, id_map in (
        ("user", account.uid, options.uid_map),
        *(("group", gid, options.gid_map) for gid in (account.gid, *(() if options.rootless else groups))),
    ):
        _check_mapped(kind, number, id_map, text)
    return ProcessUser(uid=account.uid, gid=account.gid, groups=groups)


def _write(directory: int, document: object) -> None:
    new = f".{_CONFIG}.{os.urandom(4).hex()}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(new, flags, 0o666, dir_fd=directory), "w", encoding="utf-8") as file:
        try:
            json.dump(document, file, indent=4, sort_keys=True, ensure_ascii=False)
            file.write("\n")
            file.flush()
            os.rename(new, _CONFIG, src_dir_fd=directory, dst_dir_fd=directory)
        except BaseException:
            with suppress(OSError):
                os.unlink(new, dir_fd=directory)
            raise


def _id_or_name(text: str) -> int | str:
    if not (text.isascii() and text.isdigit()):
        return text
    if len(text) > 10 or int(text) > _LARGEST_ID:
        raise ImageError(
            f"the image's user: {text[:20]} is larger than any id", hint="give the image another user"
        )
    return int(text)


def _check_mapped(kind: str, number: int, id_map: tuple[IdMap, ...], text: str) -> None:
    if id_map and lookup(id_map, number) is None:
        raise ImageError(
            f"the image's user {_shown(text)}: {kind} {number} is not in the id map of the bundle",
            hint="give your account a range of subordinate ids (subuid(5)), or the image another user",
        )


def _shown(text: str) -> str:
    return printable(text.encode("utf-8", "backslashreplace"))
