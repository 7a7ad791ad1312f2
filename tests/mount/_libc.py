"""Calls through ctypes that Python lacks: directory streams with positions (opendir(3), telldir(3)), and capset(2)."""

from __future__ import annotations

import ctypes
import os
from types import TracebackType
from typing import Self


def drop_effective_capability(number: int) -> None:
    """Remove the capability *number* from this thread (capset(2))."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    data = (ctypes.c_uint32 * 6)()
    if _libc.capget(header, data) < 0:
        raise OSError(ctypes.get_errno(), "capget")
    for word in range(3):
        data[word] &= ~(1 << number)
    if _libc.capset(header, data) < 0:
        raise OSError(ctypes.get_errno(), "capset")


class _Dirent(ctypes.Structure):
    """struct dirent64, as readdir64(3) returns it on every architecture of Linux."""

    _fields_ = (
        ("d_ino", ctypes.c_uint64),
        ("d_off", ctypes.c_int64),
        ("d_reclen", ctypes.c_ushort),
        ("d_type", ctypes.c_ubyte),
        ("d_name", ctypes.c_char * 256),
    )


_libc = ctypes.CDLL(None, use_errno=True)
_CAPABILITY_VERSION_3 = 0x20080522
_libc.opendir.restype = ctypes.c_void_p
_libc.opendir.argtypes = (ctypes.c_char_p,)
_libc.readdir64.restype = ctypes.POINTER(_Dirent)
_libc.readdir64.argtypes = (ctypes.c_void_p,)
_libc.telldir.restype = ctypes.c_long
_libc.telldir.argtypes = (ctypes.c_void_p,)
_libc.seekdir.restype = None
_libc.seekdir.argtypes = (ctypes.c_void_p, ctypes.c_long)
_libc.rewinddir.restype = None
_libc.rewinddir.argtypes = (ctypes.c_void_p,)
_libc.closedir.argtypes = (ctypes.c_void_p,)


class DirectoryStream:
    """One open directory stream; it closes as a context manager."""

    def __init__(self, path: str) -> None:
        """Open a stream on *path*."""
        stream = _libc.opendir(os.fsencode(path))
        if stream is None:
            _fail(path)
        self._stream = ctypes.c_void_p(stream)

    def read(self) -> bytes | None:
        """Return the next name other than ``.`` and ``..``; None at the end."""
        while True:
            ctypes.set_errno(0)
            entry = _libc.readdir64(self._stream)
            if not entry:
                if ctypes.get_errno():
                    _fail("readdir")
                return None
            # The record is only as long as its name, so the length of the structure must not be copied.
            name = ctypes.string_at(ctypes.addressof(entry.contents) + _Dirent.d_name.offset)
            if name not in (b".", b".."):
                return name

    def rest(self) -> list[bytes]:
        """Return the remaining names."""
        names = []
        while (name := self.read()) is not None:
            names.append(name)
        return names

    def tell(self) -> int:
        """Return the position of the entry that :meth:`read` returns next."""
        return int(_libc.telldir(self._stream))

    def seek(self, position: int) -> None:
        """Seek to a position that :meth:`tell` returned."""
        _libc.seekdir(self._stream, position)

    def rewind(self) -> None:
        """Start again, with the present names."""
        _libc.rewinddir(self._stream)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _libc.closedir(self._stream)


def _fail(what: str) -> None:
    number = ctypes.get_errno()
    raise OSError(number, os.strerror(number), what)
