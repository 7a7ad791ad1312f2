"""Executes the requests of the control socket: passes them to the file system's server, and keeps the record of the layers in step."""

from __future__ import annotations

import errno
import os
from contextlib import suppress

from sandbox.runtime.control import Request, RequestError
from sandbox.runtime.unionfs_server import Server
from sandbox.state.sandbox_directory import RunDirectory
from sandbox.state.stack_record import RecordedStack
from unionfs._stdlib.dataclasses import replace
from unionfs._stdlib.typing import Any

#: The descriptors that each request has.
_DESCRIPTORS = {"stamp": 0, "link": 1, "freeze": 2}


class LayerRequests:
    """The requests about the writable layer of one sandbox. The supervisor creates it; there is nothing to close."""

    def __init__(self, home: RunDirectory, server: Server) -> None:
        """Execute requests about the writable layer in *home*, which lasts, by *server*."""
        self._home = home
        self._server = server
        self._before: RecordedStack | None = None

    def begin(self, request: Request) -> None:
        """Begin to execute *request*; :meth:`done` takes the answer of the server.

        Raises:
            RequestError: it is malformed, or the record cannot be written.
        """
        if len(request.fds) != _DESCRIPTORS.get(request.name, -1):
            raise RequestError(f"unknown or malformed request {request.name}")
        message: dict[str, object] = {"do": request.name}
        if request.name == "freeze":
            if not isinstance(request.message.get("searched"), int):
                raise RequestError("malformed request freeze: it has no stamp")
            self._record_next(request.message.get("directory"))
            message["searched"] = request.message.get("searched")
        try:
            self._server.ask(message, request.fds)
        except OSError as error:
            self._restore()
            raise RequestError(f"the file system's server cannot be asked: {error.strerror}") from None

    def _record_next(self, directory: object) -> None:
        home, stack = self._home, self._home.stack
        assert stack is not None
        path = directory if isinstance(directory, str) else ""
        above, number = os.path.split(path)
        if above != home.later_path or not number.isdecimal():
            raise RequestError("the directory of the next layer is not one of this sandbox")
        self._before = stack
        home.note_stack(replace(stack, next=path))
        try:
            home.record({})
        except OSError as error:
            self._restore()
            raise RequestError(
                f"the record of the layer cannot be written: {error.strerror}",
                errno.errorcode.get(error.errno or 0),
            ) from None

    def done(self, answer: dict[str, Any]) -> dict[str, Any]:
        """Return what the client is told when the server has sent *answer*."""
        if self._before is None:
            return answer
        if "error" in answer:
            self._restore()
            return answer
        self._before = None
        assert self._home.stack is not None
        self._home.note_stack(self._home.stack.frozen())
        # If the record cannot be written, the next command learns from the layer that it was frozen (state/earlier_layers.py).
        with suppress(OSError):
            self._home.record({})
        return {"layers": list(self._home.stack.earlier)}

    def _restore(self) -> None:
        """Record the layers as they were before the freeze, which did not take place."""
        before, self._before = self._before, None
        if before is None:
            return
        self._home.note_stack(before)
        with suppress(OSError):
            self._home.record({})
