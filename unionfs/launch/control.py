"""Executes the requests that the launcher sends while the mount is served (unionfs/launch/protocol.py): those of a snapshot.

The serving loop calls :meth:`Control.handle` between two requests of the kernel, so no program sees a request half done.
"""

from __future__ import annotations

import errno
import json
import os
import select
import socket
from contextlib import suppress

from unionfs._stdlib.typing import Any
from unionfs.errors import UnionError, explain
from unionfs.launch.protocol import DONE, MAX_CONTROL, MOST_PATHS
from unionfs.vfs.filesystem import UnionFs


class Control:
    """The launcher's requests to one mounted union, and the lifeline of its server. It borrows the socket and the union."""

    def __init__(self, channel: socket.socket, fs: UnionFs) -> None:
        """Receive requests about *fs* from *channel*."""
        self._channel = channel
        self._fs = fs

    def fileno(self) -> int:
        """Return the descriptor of the socket, for poll(2)."""
        return self._channel.fileno()

    def handle(self) -> bool:
        """Receive one request, execute it and answer it. Return False if the launcher has closed its end."""
        try:
            packet, fds, _, _ = socket.recv_fds(
                self._channel, MAX_CONTROL, 2, socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return True
        except OSError:
            return False
        if not packet or self._launcher_is_gone():
            for fd in fds:
                os.close(fd)
            return False
        try:
            answer = self._execute(json.loads(packet), fds)
        except OSError as error:
            answer = {
                "errno": errno.errorcode.get(error.errno or 0, "EIO"),
                "error": explain(error) if error.filename is not None else error.strerror or str(error),
            }
        except UnionError as error:
            answer = {"errno": "EINVAL", "error": str(error)}
        except (IndexError, KeyError, TypeError, ValueError, RecursionError) as error:
            answer = {"errno": "EPROTO", "error": f"malformed request from the launcher: {error!r}"}
        finally:
            for fd in fds:
                os.close(fd)
        with suppress(OSError):  # the launcher is gone, which the next call notices
            self._channel.send((DONE + json.dumps(answer)).encode(), socket.MSG_NOSIGNAL)
        return True

    def _launcher_is_gone(self) -> bool:
        """Return whether the launcher has closed its end. The next start may use the layer as it is recorded now."""
        poll = select.poll()
        poll.register(self._channel, 0)
        return bool(poll.poll(0))

    def _execute(self, request: dict[str, Any], fds: list[int]) -> dict[str, Any]:
        """Execute *request*; descriptors that it takes over are removed from *fds*."""
        action = request["do"]
        if action == "stamp":
            return {"stamp": self._fs.search_stamp}
        if action == "link":
            with open(fds.pop(), "rb") as file:
                file.seek(0)
                paths = file.read().split(b"\0")[:-1]
            if len(paths) > MOST_PATHS:
                raise ValueError(f"{len(paths)} paths at once")
            return {
                "linked": self._fs.link_remaining_names(paths),
                "more": self._fs.leave_index(MOST_PATHS - len(paths)),
            }
        if action == "freeze":
            upper_fd, work_fd = fds
            searched = request["searched"]
            if not isinstance(searched, int):
                raise TypeError(f"not a stamp: {searched!r}")
            fds.clear()
            self._fs.freeze(upper_fd, work_fd, searched=searched)
            return {}
        raise ValueError(f"unknown request {action!r}")
