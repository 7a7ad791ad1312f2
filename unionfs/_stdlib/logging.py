"""What a server has to say, on standard error: as a rule nothing, so that `logging` is imported when there is something."""

from __future__ import annotations

import errno
import os
import sys

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    import logging


class Complaints:
    """A logger that is made when it is first used."""

    def __init__(self, name: str) -> None:
        """Complain as the module *name*."""
        self._name = name

    def warning(self, text: str, *arguments: object) -> None:
        """Say *text* with *arguments* in the places of its %s."""
        logger = self._logger()
        if logger is None:
            _say(text % arguments)
        else:
            logger.warning(text, *arguments)

    def exception(self, text: str, *arguments: object) -> None:
        """Say *text* and the traceback of the exception that is being handled."""
        logger = self._logger()
        if logger is None:
            _say(f"{text % arguments}: {sys.exception()!r}")
        else:
            logger.exception(text, *arguments)  # noqa: LOG004 - who calls this handles one

    def _logger(self) -> logging.Logger | None:
        """Return the logger; None where this process may not read what that takes any more (see `confine`)."""
        try:
            import logging
            import traceback  # noqa: F401 - what it imports when it is needed
        except (ImportError, OSError, LookupError):
            return None
        if not logging.getLogger().handlers:
            to_standard_error(everything=False)
        return logging.getLogger(self._name)


def _say(text: str) -> None:
    sys.stderr.write(f"unionfs: {text}\n")
    sys.stderr.flush()


def to_standard_error(*, everything: bool) -> None:
    """Say warnings there, or everything, each as one line that begins with our name."""
    import logging

    logging.basicConfig(format="unionfs: %(message)s", level=logging.DEBUG if everything else logging.WARNING)
    logging.getLogger("pyfuse3").setLevel(logging.WARNING)
    logging.getLogger("pyfuse3").addFilter(_is_worth_saying)


def _is_worth_saying(record: logging.LogRecord) -> bool:
    """Keep quiet of a reply that nobody waits for: its client was killed, or the mount is gone (ENOENT, fs/fuse/dev.c)."""
    return "fuse_reply_" not in record.msg or record.args != (os.strerror(errno.ENOENT),)
