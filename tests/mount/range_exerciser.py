"""Random operations on the contents of one file, each compared with the expected bytes, as fsx does.

The file is open twice, and mapped during other operations. So the kernel's page cache and the server must agree at any
time. `PYTHONPATH=. python tests/mount/range_exerciser.py FILE SEED COUNT` repeats one history. It prints the digest of the
contents, and the operations that the file system refused.
"""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
import random
import sys
from collections.abc import Callable

from unionfs._libc import FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE, fallocate

_PAGE = mmap.PAGESIZE
#: Maximum size of the file, and of an operation.
_MOST = 300_000
_LONGEST = 70_000
_NOT_HERE = frozenset((errno.EOPNOTSUPP, errno.ENOSYS))
_KINDS = {0: "allocate", FALLOC_FL_PUNCH_HOLE: "punch hole", FALLOC_FL_ZERO_RANGE: "zero range"}


class Exerciser:
    """One file, open twice, and its expected bytes. :meth:`close` closes both descriptors."""

    def __init__(self, path: str, seed: int, *, lacks: frozenset[str] = frozenset()) -> None:
        """Open or create *path*. The history is that of *seed*, without the operations in *lacks*."""
        self._path = path
        self._random = random.Random(seed)
        self._steps = 0
        self.log: list[str] = []
        #: Operations that the file system has refused (EOPNOTSUPP).
        self.refused: set[str] = set()
        self._fds = [os.open(path, os.O_RDWR | os.O_CREAT, 0o644), os.open(path, os.O_RDWR)]
        self._mapping: mmap.mmap | None = None
        with open(path, "rb") as file:
            self._bytes = bytearray(file.read())
        operations: dict[str, tuple[int, Callable[[], None]]] = {
            "read": (4, self._read), "write": (4, self._write), "append": (1, self._append),
            "map_read": (2, self._map_read), "map_write": (2, self._map_write), "unmap": (1, self._unmap),
            "truncate": (2, self._truncate), "allocate": (2, self._allocate), "punch": (2, self._punch),
            "zero": (2, self._zero), "copy": (3, self._copy), "seek": (2, self._seek), "sync": (1, self._sync),
            "drop": (1, self._drop_pages), "reopen": (2, self._reopen), "direct": (2, self._direct),
            "rename": (1, self._rename), "mode": (1, self._mode),
        }  # fmt: skip
        self._operations = [
            (name, act)
            for name, (weight, act) in operations.items()
            for _ in range(weight)
            if name not in lacks
        ]

    def run(self, count: int) -> None:
        """Do *count* operations. Raise AssertionError, with the last ones, if the file differs from the expected bytes."""
        for _ in range(count):
            name, act = self._random.choice(self._operations)
            self._steps += 1
            self.log.append(name)
            try:
                act()
                self._check(os.fstat(self._fd()).st_size == len(self._bytes), "the size")
            except OSError as error:
                raise AssertionError(f"{error} at {self._steps}:\n" + "\n".join(self.log[-30:])) from error
        self.verify()

    def verify(self) -> None:
        """Compare the whole file."""
        with open(self._path, "rb") as file:
            self._compare(file.read(), 0, len(self._bytes) + 1)

    def digest(self) -> str:
        """Return the SHA-256 of the expected bytes, as sha256sum(1) prints it."""
        return hashlib.sha256(self._bytes).hexdigest()

    def close(self) -> None:
        """Close the descriptors and the mapping."""
        self._unmap()
        for fd in self._fds:
            os.close(fd)

    def _note(self, text: str) -> None:
        self.log[-1] += f" {text}"

    def _check(self, holds: bool, what: str) -> None:
        if not holds:
            raise AssertionError(f"{what} at {self._steps}:\n" + "\n".join(self.log[-30:]))

    def _compare(self, found: bytes, offset: int, length: int) -> None:
        wanted = bytes(self._bytes[offset : offset + length])
        if found != wanted:
            at = next(
                (i for i, pair in enumerate(zip(found, wanted, strict=False)) if pair[0] != pair[1]), -1
            )
            self._check(
                False, f"{len(found)} bytes for {len(wanted)} at {offset}, the first difference at {at}"
            )

    def _fd(self) -> int:
        return self._random.choice(self._fds)

    def _range(self, most: int = _MOST) -> tuple[int, int]:
        """Return a random offset and length, sometimes on page boundaries."""
        offset = self._random.randrange(max(1, most))
        length = self._random.choice((self._random.randint(1, 100), self._random.randint(1, _LONGEST)))
        if not self._random.randrange(3):
            offset -= offset % _PAGE
        if not self._random.randrange(3):
            length = max(_PAGE, length - length % _PAGE)
        return offset, max(1, min(length, _MOST - offset))

    def _fill(self, offset: int, data: bytes) -> None:
        if offset > len(self._bytes):
            self._bytes += bytes(offset - len(self._bytes))
        self._bytes[offset : offset + len(data)] = data

    def _data(self, length: int) -> bytes:
        return self._random.randbytes(length)

    # -- operations --------------------------------------------------------------------------------

    def _read(self) -> None:
        offset, length = self._range()
        self._note(f"{offset} {length}")
        self._compare(os.pread(self._fd(), length, offset), offset, length)

    def _write(self) -> None:
        offset, length = self._range()
        self._note(f"{offset} {length}")
        data = self._data(length)
        self._check(os.pwrite(self._fd(), data, offset) == length, "a short write")
        self._fill(offset, data)

    def _append(self) -> None:
        if len(self._bytes) > _MOST:
            return
        data = self._data(self._random.randint(1, 5000))
        self._note(f"{len(data)}")
        fd = os.open(self._path, os.O_WRONLY | os.O_APPEND)
        os.write(fd, data)
        os.close(fd)
        self._bytes += data

    def _mapped(self) -> mmap.mmap | None:
        size = len(self._bytes)
        if self._mapping is not None and len(self._mapping) != size:
            self._unmap()  # an access past the end causes SIGBUS
        if self._mapping is None and size:
            self._mapping = mmap.mmap(self._fd(), size)
        return self._mapping

    def _map_read(self) -> None:
        mapping = self._mapped()
        if mapping is not None:
            offset, length = self._range(len(mapping))
            self._note(f"{offset} {length}")
            self._compare(mapping[offset : offset + length], offset, length)

    def _map_write(self) -> None:
        mapping = self._mapped()
        if mapping is not None:
            offset, length = self._range(len(mapping))
            length = min(length, len(mapping) - offset)
            self._note(f"{offset} {length}")
            data = self._data(length)
            mapping[offset : offset + length] = data
            self._fill(offset, data)
            if self._random.randrange(2):
                self._note("flushed")
                mapping.flush()

    def _unmap(self) -> None:
        if self._mapping is not None:
            self._mapping.close()
            self._mapping = None

    def _truncate(self) -> None:
        size, _ = self._range()
        self._note(f"{size}")
        if self._random.randrange(2):
            os.ftruncate(self._fd(), size)
        else:
            os.truncate(self._path, size)
        self._bytes = self._bytes[:size] + bytes(max(0, size - len(self._bytes)))

    def _change_blocks(self, mode: int, offset: int, length: int) -> bool:
        self._note(f"mode {mode:#x} {offset} {length}")
        try:
            fallocate(self._fd(), mode, offset, length)
        except OSError as error:
            if error.errno not in _NOT_HERE:
                raise
            self._note("refused")
            self.refused.add(_KINDS[mode & ~FALLOC_FL_KEEP_SIZE])
            return False
        return True

    def _allocate(self) -> None:
        offset, length = self._range()
        keep = self._random.randrange(2)
        if self._change_blocks(FALLOC_FL_KEEP_SIZE * keep, offset, length) and not keep:
            self._bytes += bytes(max(0, offset + length - len(self._bytes)))

    def _punch(self) -> None:
        offset, length = self._range()
        if self._change_blocks(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length):
            end = min(len(self._bytes), offset + length)
            if end > offset:
                self._bytes[offset:end] = bytes(end - offset)

    def _zero(self) -> None:
        offset, length = self._range()
        keep = self._random.randrange(2)
        if self._change_blocks(FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE * keep, offset, length):
            end = min(len(self._bytes), offset + length) if keep else offset + length
            if end > offset:
                self._fill(offset, bytes(end - offset))

    def _copy(self) -> None:
        offset, length = self._range(len(self._bytes))
        target, _ = self._range()
        length = min(length, len(self._bytes) - offset)  # a copy to beyond the end extends the file meanwhile
        if length <= 0:
            return
        if offset < target + length and target < offset + length:
            return  # EINVAL: the ranges overlap
        self._note(f"{offset} to {target} {length}")
        done = 0
        source_fd, target_fd = self._fd(), self._fd()
        while done < length:
            more = os.copy_file_range(source_fd, target_fd, length - done, offset + done, target + done)
            if not more:
                break
            done += more
        self._check(done == length, f"{done} bytes copied")
        if done:
            self._fill(target, bytes(self._bytes[offset : offset + done]))

    def _seek(self) -> None:
        offset, _ = self._range()
        fd = self._fd()
        if self._mapping is not None:
            self._mapping.flush()  # the kernel sends LSEEK before it writes back mapped pages
        whence = self._random.choice((os.SEEK_DATA, os.SEEK_HOLE))
        self._note(f"{whence} {offset}")
        size = len(self._bytes)
        try:
            found = os.lseek(fd, offset, whence)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            self._check(offset >= size or whence == os.SEEK_DATA, "no hole at the end")
            found = size
        if offset < size:
            self._check(offset <= found <= size, f"{found} found")
            if whence == os.SEEK_DATA:
                self._check(not any(self._bytes[offset:found]), f"data before {found}")

    def _sync(self) -> None:
        self._random.choice((os.fsync, os.fdatasync))(self._fd())

    def _drop_pages(self) -> None:
        """Drop the kernel's page cache of the file, so that the next read sends a request."""
        os.fsync(self._fd())
        os.posix_fadvise(self._fd(), 0, 0, os.POSIX_FADV_DONTNEED)
        offset, length = self._range()
        self._compare(os.pread(self._fd(), length, offset), offset, length)

    def _reopen(self) -> None:
        number = self._random.randrange(2)
        if not self._random.randrange(4):
            self._note("empty")
            os.close(os.open(self._path, os.O_WRONLY | os.O_TRUNC))
            self._bytes = bytearray()
        fd = os.open(self._path, os.O_RDWR)
        os.close(self._fds[number])
        self._fds[number] = fd

    def _direct(self) -> None:
        """Read or write without the page cache: whole pages, which a plain file requires."""
        offset, length = self._range()
        offset, length = offset - offset % _PAGE, max(_PAGE, length - length % _PAGE)
        try:
            fd = os.open(self._path, os.O_RDWR | os.O_DIRECT)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return
        try:
            with mmap.mmap(-1, length) as room:
                if self._random.randrange(2):
                    self._note(f"read {offset} {length}")
                    done = os.preadv(fd, (room,), offset)
                    self._compare(room[:done], offset, length)
                else:
                    self._note(f"write {offset} {length}")
                    self._unmap()
                    data = self._data(length)
                    room[:] = data
                    self._check(os.pwritev(fd, (room,), offset) == length, "a short write")
                    self._fill(offset, data)
        finally:
            os.close(fd)

    def _rename(self) -> None:
        other = self._path + ".renamed"
        os.rename(self._path, other)
        self._check(os.stat(other).st_size == len(self._bytes), "the size under the other name")
        if self._random.randrange(2):
            os.rename(other, self._path)
        else:
            os.link(other, self._path)
            os.unlink(other)

    def _mode(self) -> None:
        os.chmod(self._path, self._random.choice((0o600, 0o644)))


if __name__ == "__main__":
    exerciser = Exerciser(sys.argv[1], int(sys.argv[2]))
    exerciser.run(int(sys.argv[3]))
    exerciser.close()
    sys.stdout.writelines(f"{line}\n" for line in (exerciser.digest(), *sorted(exerciser.refused)))
