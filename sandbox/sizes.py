"""Return sizes in bytes as text for people. Used for lists of what is kept and for lists of changes. Pure."""

from __future__ import annotations


def human_size(size: int | None) -> str:
    """Return *size* in bytes as text: "1.5 GiB"; "?" for None."""
    if size is None:
        return "?"
    for unit, bits in (("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if size >> bits:
            return f"{size / (1 << bits):.1f} {unit}"
    return f"{size} B"
