"""SHA-256 without OpenSSL. The standard `hashlib` loads OpenSSL, which takes milliseconds of each start."""

from __future__ import annotations

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from hashlib import sha256
else:
    try:
        from _sha2 import sha256  # since CPython 3.12
    except ImportError:
        try:
            from _sha256 import sha256
        except ImportError:  # an interpreter that was built without this module
            from hashlib import sha256

__all__ = ["sha256"]
