"""A server whose writable layer is frozen on request, as the launcher's will be.

Usage: ``python -m tests.mount.freezing_server SERVER MOUNTPOINT LOWER UPPER WORK``. It prints ``ready``. Each line ``UPPER WORK``
on its standard input freezes the layer, and is answered with the seconds that this took. It ends when it is unmounted.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable

from unionfs.assemble import LayerSource, StackSource, open_stack
from unionfs.fuse.backend import ENDING, choose, load, serve
from unionfs.mount import mount
from unionfs.options import Server, Serving
from unionfs.vfs.filesystem import UnionFs

_OPEN_DIR = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


def _between_requests(fs: UnionFs, server: Server) -> Callable[[Callable[[], None]], None]:
    """Return a function that runs its argument in the server's thread between two requests."""
    if server is Server.PYFUSE3:
        import trio

        return trio.lowlevel.current_trio_token().run_sync_soon
    threads = fs.before_freeze[0].__self__  # type: ignore[attr-defined]

    def run(work: Callable[[], None]) -> None:
        def resumed() -> tuple[bytes, ...]:
            work()
            return ()

        threads.ready.append(resumed)
        threads._wake()

    return run


def _obey(fs: UnionFs, run: Callable[[Callable[[], None]], None]) -> None:
    for line in sys.stdin:
        upper, work = line.split()

        def freeze(upper: str = upper, work: str = work) -> None:
            fds = os.open(upper, _OPEN_DIR), os.open(work, _OPEN_DIR)
            before = time.monotonic()
            fs.freeze(*fds)
            _say(str(time.monotonic() - before))

        run(freeze)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main(name: str, mountpoint: str, lower: str, upper: str, work: str) -> int:
    """Serve until the mount ends."""
    os.umask(0)
    server = Server.PYFUSE3 if name == "pyfuse3" else Server.DIRECT
    load(server)
    fs = open_stack(
        StackSource(
            lowers=(LayerSource(fd=os.open(lower, _OPEN_DIR)),),
            upper_fd=os.open(upper, _OPEN_DIR),
            work_fd=os.open(work, _OPEN_DIR),
        )
    )
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    options = {"default_permissions", *({"allow_other"} if os.geteuid() == 0 else set())}
    mounted = mount(mountpoint, options)
    choice = choose(Serving(server=server, open_requests=name != "unopened"))

    def ready() -> None:
        run = _between_requests(fs, server)
        threading.Thread(target=_obey, args=(fs, run), daemon=True).start()
        _say("ready")

    return serve(choice, fs, os.dup(mounted.fd), on_ready=ready)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
