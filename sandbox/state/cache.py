"""Cache computed results as files in the state directory, because computing them takes longer than a start should.

    STATE/NAME/KEY      a line with a digest, then the content

A cached file is used only if it belongs to this user, no other user may write it, and its digest was made with the secret of the
run directory (sandbox/state/run_directory.py). Write access to the state directory is not enough to forge one. KEY is derived
from everything that the content depends on, so no file becomes outdated. The oldest files make room for new ones.
"""

from __future__ import annotations

import os
from contextlib import suppress

from sandbox.state.trusted_files import distrust, open_trusted

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from hashlib import blake2b
    from hmac import compare_digest
else:
    # Imports without OpenSSL, which hashlib and hmac load: that takes milliseconds of each start.
    try:
        from _blake2 import blake2b
        from _operator import _compare_digest as compare_digest
    except ImportError:  # the interpreter was built without these modules
        from hashlib import blake2b
        from hmac import compare_digest

_OPEN_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class CacheDirectory:
    """A directory of cached files, opened by :meth:`open` and closed by :meth:`close`."""

    def __init__(self, fd: int, secret: bytes) -> None:
        """Take ownership of *fd*; see :meth:`open`."""
        self._fd = fd
        self._secret = secret

    @classmethod
    def open(cls, state_fd: int, name: str, *, secret: bytes) -> CacheDirectory | None:
        """Open the directory *name* of the state directory, creating it if missing; None if it cannot be created or trusted."""
        try:
            with suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=state_fd)
            fd = os.open(name, _OPEN_DIR, dir_fd=state_fd)
        except OSError:
            return None
        if distrust(os.fstat(fd)) is None:
            return cls(fd, secret)
        os.close(fd)
        return None

    def get(self, key: str, *, at_most: int) -> bytes | None:
        """Return the content cached as *key*; None if there is none that can be trusted, or it has more than *at_most* bytes."""
        opened = open_trusted(key, dir_fd=self._fd)
        if opened is None:
            return None
        fd, info = opened
        with open(fd, "rb") as file:
            if info.st_nlink != 1:
                return None
            whole = file.read(at_most + 128)
        head, _, content = whole.partition(b"\n")
        return content if compare_digest(head, self._digest(key, content)) else None

    def put(self, key: str, content: bytes, *, entries: int) -> None:
        """Store *content* as *key*, and then remove all but the newest *entries* files.

        Raises:
            OSError: it cannot be stored; no part of it remains.
        """
        temporary = f"{key}.{os.getpid()}.new"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

        def opener(name: str, _flags: int) -> int:
            return os.open(name, flags, 0o600, dir_fd=self._fd)

        with suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=self._fd)  # left by a killed process that had this pid
        try:
            with open(temporary, "wb", opener=opener) as file:
                file.write(self._digest(key, content) + b"\n" + content)
            os.rename(temporary, key, src_dir_fd=self._fd, dst_dir_fd=self._fd)
        except OSError:
            with suppress(OSError):
                os.unlink(temporary, dir_fd=self._fd)
            raise
        self._make_room(entries)

    def close(self) -> None:
        """Close the descriptor of the directory."""
        os.close(self._fd)

    def _make_room(self, entries: int) -> None:
        names = os.listdir(self._fd)
        if len(names) <= entries:
            return

        def written(name: str) -> int:
            return os.stat(name, dir_fd=self._fd, follow_symlinks=False).st_mtime_ns

        for name in sorted(names, key=written)[: len(names) - entries]:
            os.unlink(name, dir_fd=self._fd)

    def _digest(self, key: str, content: bytes) -> bytes:
        # The key is part of the digest, so that one entry cannot replace another. A file name cannot contain NUL.
        digest = blake2b(key.encode() + b"\0" + content, digest_size=32, key=self._secret)
        return digest.hexdigest().encode()
