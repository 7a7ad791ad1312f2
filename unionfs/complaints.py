"""What a server has to say, on standard error."""

from __future__ import annotations

import errno
import logging
import os


def to_standard_error(*, everything: bool) -> None:
    """Say warnings there, or everything, each as one line that begins with our name."""
    logging.basicConfig(format="unionfs: %(message)s", level=logging.DEBUG if everything else logging.WARNING)
    logging.getLogger("pyfuse3").setLevel(logging.WARNING)
    logging.getLogger("pyfuse3").addFilter(_is_worth_saying)


def _is_worth_saying(record: logging.LogRecord) -> bool:
    """Keep quiet of a reply that nobody waits for: its client was killed, or the mount is gone (ENOENT, fs/fuse/dev.c)."""
    return "fuse_reply_" not in record.msg or record.args != (os.strerror(errno.ENOENT),)
