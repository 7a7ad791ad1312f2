"""Read the build context: a directory of the host, from which a build copies files.

Every path is opened from a descriptor of the top, component by component and without following links. So nothing outside is ever
read, whatever is renamed meanwhile. Only the path of a source itself may have links, which are followed by their text, within the
context. Files that .dockerignore leaves out do not exist here.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager

from sandbox.errors import ImageError
from sandbox.images.build.dockerignore import IgnoreRules
from sandbox.images.build.patterns import glob
from sandbox.images.names import printable
from sandbox.kernel.open_paths import open_directory_beneath
from sandbox.kernel.walk import LeadsOutError, TooManyLinksError, follow_links
from unionfs._stdlib.dataclasses import dataclass

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)
_WHITEOUT = ".wh."
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_LIST = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextFile:
    """A file, directory or symbolic link of the context. `path` is relative to the top, "" for the top itself.

    `link` is the target of a symbolic link. `identity` is that of a file with several names: device and inode.
    """

    path: str
    mode: int
    size: int
    mtime_ns: int
    link: str = ""
    identity: tuple[int, int] | None = None

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory."""
        return stat.S_ISDIR(self.mode)


class BuildContext:
    """One build context. The creator closes it."""

    def __init__(self, path: str, rules: IgnoreRules) -> None:
        """Open the directory *path*, from which *rules* leave out files.

        Raises:
            ImageError: it cannot be opened, or is no directory.
        """
        self.path = path
        self._rules = rules
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise ImageError(
                f"the build context {path}: {(error.strerror or str(error)).lower()}",
                hint="--context DIR names the directory that files are copied from",
            ) from None

    def close(self) -> None:
        """Close the directory."""
        os.close(self._fd)

    def find(self, source: str) -> list[str]:
        """Return the paths that *source*, which may have wildcards, names: sorted, without links, relative to the top.

        Raises:
            ImageError: there is none, or a link leads out of the context.
        """
        found = []
        for path in glob(source, self._names):
            real = self._resolve(path)
            # A directory that is left out exists if files below it do not.
            if real == "" or self._has(real):
                found.append(real)
        if not found:
            raise ImageError(
                f"{_shown(source)} is not in the build context {self.path}",
                hint="check the path, --context and .dockerignore",
            )
        return found

    def tree(self, path: str) -> list[ContextFile]:
        """Return the file *path*, which has no links, and all that is below it, sorted by the bytes of the paths, parents first.

        Raises:
            ImageError: one cannot be read, is no file, directory or link, or has a name that no layer can have.
        """
        with self._explaining(path):
            top = self._look(path)
            found = [top]
            pending = [top] if top.is_directory else []
            while pending:
                for child in self._children(pending.pop().path):
                    found.append(child)
                    if child.is_directory:
                        pending.append(child)
        if self._rules.has_exceptions:
            found = self._without_excluded(found)
        return sorted(found, key=lambda one: os.fsencode(one.path).split(b"/") if one.path else [])

    @contextmanager
    def open(self, file: ContextFile) -> Iterator[int]:
        """Give a descriptor of the regular file *file* for reading.

        Raises:
            ImageError: it cannot be opened, or another file has its name since.
        """
        with self._explaining(file.path):
            parent, _, name = file.path.rpartition("/")
            parent_fd = open_directory_beneath(self._fd, os.fsencode(parent))
            try:
                fd = os.open(name, _READ, dir_fd=parent_fd)
            finally:
                os.close(parent_fd)
        try:
            info = os.fstat(fd)
            if not stat.S_ISREG(info.st_mode) or info.st_size != file.size:
                raise changed(file.path)
            with self._explaining(file.path):
                yield fd
        finally:
            os.close(fd)

    def _children(self, path: str) -> Iterator[ContextFile]:
        parent_fd = open_directory_beneath(self._fd, os.fsencode(path))
        try:
            # O_PATH cannot be read.
            fd = os.open(".", _LIST, dir_fd=parent_fd)
        finally:
            os.close(parent_fd)
        try:
            for name in os.listdir(fd):
                child = f"{path}/{name}" if path else name
                if self._may_have(child):
                    if name.startswith(_WHITEOUT):
                        raise ImageError(
                            f"{_shown(child)} of the build context: layers use names that begin with {_WHITEOUT} as marks",
                            hint="rename it, or leave it out by .dockerignore",
                        )
                    excluded = self._rules.excludes(child)
                    if not excluded or stat.S_ISDIR(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
                        yield _described(child, name, fd)
        finally:
            os.close(fd)

    def _may_have(self, path: str) -> bool:
        """Return whether *path*, or something below it, may be part of the context."""
        return self._rules.has_exceptions or not self._rules.excludes(path)

    def _without_excluded(self, found: list[ContextFile]) -> list[ContextFile]:
        """Return *found* without the directories that are left out, unless a file below them is not."""
        kept: set[str] = set()
        for file in found:
            if file.path == "" or not self._rules.excludes(file.path):
                at = file.path
                while at not in kept:
                    kept.add(at)
                    at = at.rpartition("/")[0]
        return [file for file in found if file.path in kept]

    def _look(self, path: str) -> ContextFile:
        if not path:
            info = os.fstat(self._fd)
            return ContextFile(path="", mode=info.st_mode, size=0, mtime_ns=info.st_mtime_ns)
        parent, _, name = path.rpartition("/")
        fd = open_directory_beneath(self._fd, os.fsencode(parent))
        try:
            return _described(path, name, fd)
        finally:
            os.close(fd)

    def _has(self, path: str) -> bool:
        try:
            found = self._look(path)
        except OSError as error:
            if error.errno in _ABSENT:
                return False
            raise _failure(path, error) from None
        if not self._rules.excludes(path):
            return True
        return found.is_directory and self._rules.has_exceptions and len(self.tree(path)) > 1

    def _names(self, path: str) -> list[str]:
        real = self._resolve(path)
        with self._explaining(path):
            try:
                fd = open_directory_beneath(self._fd, os.fsencode(real))
            except OSError as error:
                if error.errno in _ABSENT:
                    return []
                raise
            try:
                listed = os.open(".", _LIST, dir_fd=fd)
            finally:
                os.close(fd)
            try:
                names = os.listdir(listed)
            finally:
                os.close(listed)
        return sorted(name for name in names if self._has(f"{real}/{name}" if real else name))

    def _resolve(self, path: str) -> str:
        """Return *path* with its links followed by their text, within the context. It need not exist."""

        def link_at(at: str) -> str:
            try:
                return self._look(at).link
            except OSError as error:
                if error.errno not in _ABSENT:
                    raise _failure(path, error) from None
                return ""

        try:
            return follow_links(path, link_at, beneath=True)
        except LeadsOutError:
            raise _leads_out(path) from None
        except TooManyLinksError:
            raise ImageError(f"{_shown(path)} of the build context: too many symbolic links") from None

    @contextmanager
    def _explaining(self, path: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise _failure(path, error) from None


def changed(path: str) -> ImageError:
    """Return the error that the file *path* is not the one that was seen before."""
    return ImageError(f"{_shown(path)} of the build context was changed during the build", hint="build again")


def _described(path: str, name: str, parent_fd: int) -> ContextFile:
    info = os.stat(name, dir_fd=parent_fd, follow_symlinks=False)
    kind = stat.S_IFMT(info.st_mode)
    if kind not in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK):
        raise ImageError(
            f"{_shown(path)} of the build context is no file, directory or symbolic link",
            hint="remove it, or leave it out by .dockerignore",
        )
    several = kind == stat.S_IFREG and info.st_nlink > 1
    return ContextFile(
        path=path,
        mode=info.st_mode,
        size=info.st_size if kind == stat.S_IFREG else 0,
        mtime_ns=info.st_mtime_ns,
        link=os.readlink(name, dir_fd=parent_fd) if kind == stat.S_IFLNK else "",
        identity=(info.st_dev, info.st_ino) if several else None,
    )


def _leads_out(path: str) -> ImageError:
    return ImageError(
        f"{_shown(path)} leads out of the build context by a symbolic link",
        hint="copy the files into the context, or use a directory above as the context",
    )


def _failure(path: str, error: OSError) -> ImageError:
    name = error.filename if isinstance(error.filename, str) and error.filename != "." else ""
    where = _shown(path) if not name or path.endswith(name) else f"{_shown(path)}: {_shown(name)}"
    return ImageError(
        f"{where} of the build context: {(error.strerror or str(error)).lower()}",
        hint="make it readable, or leave it out by .dockerignore",
    )


def _shown(path: str) -> str:
    return printable(os.fsencode(path)) or "."
