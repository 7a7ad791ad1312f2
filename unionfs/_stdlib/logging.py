"""Warnings of the server on standard error. `logging` is imported at the first warning, because most servers write none."""

from __future__ import annotations

import errno
import os
import sys

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    import logging


class LazyLogger:
    """A logger that is created when it is first used."""

    def __init__(self, name: str) -> None:
        """Log under the module name *name*."""
        self._name = name

    def warning(self, text: str, *arguments: object) -> None:
        """Write *text*, with *arguments* in place of its %s."""
        logger = self._logger()
        if logger is None:
            _write(text % arguments)
        else:
            logger.warning(text, *arguments)

    def exception(self, text: str, *arguments: object) -> None:
        """Write *text* and the traceback of the exception that is being handled."""
        logger = self._logger()
        if logger is None:
            _write(f"{text % arguments}: {sys.exception()!r}")
        else:
            logger.exception(text, *arguments)  # noqa: LOG004 - the caller handles an exception

    def _logger(self) -> logging.Logger | None:
        """Return the logger, or None if this process may no longer read the modules that logging needs (see
        `unionfs.launch.confine`).
        """
        try:
            import logging
            import traceback  # noqa: F401 - `logging` imports it later, for a traceback
        except (ImportError, OSError, LookupError):
            return None
        if not logging.getLogger().handlers:
            to_standard_error(everything=False)
        return logging.getLogger(self._name)


def _write(text: str) -> None:
    sys.stderr.write(f"unionfs: {text}\n")
    sys.stderr.flush()


def to_standard_error(*, everything: bool) -> None:
    """Write warnings, or all messages if *everything*, to standard error: one line each, with the prefix "unionfs: "."""
    import logging

    logging.basicConfig(format="unionfs: %(message)s", level=logging.DEBUG if everything else logging.WARNING)
    logging.getLogger("pyfuse3").setLevel(logging.WARNING)
    logging.getLogger("pyfuse3").addFilter(_is_relevant)


def _is_relevant(record: logging.LogRecord) -> bool:
    """Return False for a failed reply without a receiver: the client was killed, or the mount is gone (ENOENT, fs/fuse/dev.c)."""
    return "fuse_reply_" not in record.msg or record.args != (os.strerror(errno.ENOENT),)
