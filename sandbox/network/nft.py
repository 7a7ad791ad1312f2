"""Run nft(8), which sets the rules for packets of a network namespace; nftables."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

_NFT = "nft"
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}


class Nft:
    """A running nft. The caller waits for its end."""

    def __init__(self, rules: str, enter: Callable[[], None]) -> None:
        """Start to execute *rules* in a child that calls *enter* first, which moves it into the network namespace.

        Raises:
            OSError: no process can be made.
        """
        reader, writer = os.pipe2(os.O_CLOEXEC)
        self._pid = os.fork()
        if self._pid == 0:
            try:
                os.dup2(writer, 2)
                enter()
                source = os.memfd_create("rules")
                os.write(source, rules.encode())
                os.lseek(source, 0, os.SEEK_SET)
                os.dup2(source, 0)
                os.execvpe(_NFT, [_NFT, "-f", "-"], _ENVIRONMENT)
            except FileNotFoundError:
                os._exit(errno.ENOENT)
            finally:
                os._exit(errno.EPERM)
        os.close(writer)
        self._reader = reader

    def wait(self) -> None:
        """Wait until the rules are in effect.

        Raises:
            FileNotFoundError: nft is not installed.
            OSError: nft fails; the text is what it prints.
        """
        with open(self._reader, encoding="utf-8", errors="replace") as pipe:
            printed = " ".join(pipe.read().split())
        _, status = os.waitpid(self._pid, 0)
        code = os.waitstatus_to_exitcode(status)
        if code == errno.ENOENT:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), _NFT)
        if code:
            raise OSError(errno.EPERM, printed or f"ended with status {code}", _NFT)


def execute_nft(rules: str) -> None:
    """Execute *rules*, all or none of them, in this network namespace.

    Raises:
        FileNotFoundError: nft is not installed.
        OSError: nft fails; the text is what it prints.
    """
    Nft(rules, lambda: None).wait()
