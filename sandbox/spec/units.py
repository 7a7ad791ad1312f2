"""Parse and format quantities of an environment file: sizes, durations, octal modes.

Pure functions from text to numbers and back. The parsers raise ValueError with a message for the user.
"""

from __future__ import annotations

import re

from sandbox.spec.notation import shown
from sandbox.spec.patterns import pattern

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30

INT64_MAX = (1 << 63) - 1
"""The largest integer of TOML, and of every kernel interface that accepts a number of bytes."""

DURATION_MAX = float((1 << 31) - 1)
"""The longest duration, in seconds: 68 years, which every timer of the kernel can represent."""

UNLIMITED = "unlimited"

_SIZE = pattern(r"([0-9]{1,20})(?:\.([0-9]{1,20}))? *([a-z]*)", re.IGNORECASE)
_PREFIXES = ("", "k", "m", "g", "t", "p", "e")
_SIZE_UNITS = {
    prefix + suffix: 1 << (10 * power)
    for power, prefix in enumerate(_PREFIXES)
    for suffix in (("", "ib") if prefix else ("", "b"))
}
_DECIMAL_UNITS = {prefix + "b" for prefix in _PREFIXES if prefix}
_DURATION = pattern(r"(?:[0-9]{1,15}(?:\.[0-9]{1,15})?(?:ms|[smhd]))+")
_DURATION_PART = pattern(r"([0-9.]+)(ms|[smhd])")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_OCTAL = pattern(r"[0-7]{1,6}")


def parse_size(text: str) -> int:
    """Return the number of bytes of "4096", "512M", "1.5G", "64KiB": multiples are powers of 1024.

    A fraction of a byte is dropped. "512MB" is refused, because half of its readers would read it as 512,000,000.
    """
    match = _SIZE.fullmatch(text)
    unit = match[3].lower() if match else ""
    if match and unit in _DECIMAL_UNITS:
        raise ValueError(
            f'{shown(text)} is ambiguous; write "{match[0][: -len(unit)]}{unit[0].upper()}" (powers of 1024)'
        )
    if not match or unit not in _SIZE_UNITS:
        raise ValueError(f"{shown(text)} is not a size")
    whole, fraction = match[1], match[2] or ""
    scale: int = 10 ** len(fraction)
    size = int(whole + fraction) * _SIZE_UNITS[unit] // scale
    if size > INT64_MAX:
        raise ValueError(f"{shown(text)} is more than 64 bits can count")
    return size


def format_size(size: int) -> str:
    """Return *size* with the largest unit that leaves it whole: 536870912 is "512M"."""
    power = 0
    while size and size % 1024 == 0 and power + 1 < len(_PREFIXES):
        size //= 1024
        power += 1
    return f"{size}{_PREFIXES[power].upper()}"


def parse_duration(text: str) -> float:
    """Return the seconds of "30s", "1h30m", "500ms", "2d"; the parts add up."""
    if not _DURATION.fullmatch(text):
        raise ValueError(f"{shown(text)} is not a duration")
    return sum(float(number) * _SECONDS[unit] for number, unit in _DURATION_PART.findall(text))


def format_duration(seconds: float) -> str:
    """Return *seconds* in the notation of `parse_duration`: 5400 is "1h30m"."""
    if seconds > 1e18:  # a mistake that is only reported; in milliseconds it may exceed every finite number
        return f"{seconds:g}s"
    milliseconds = round(seconds * 1000)
    parts = []
    for unit, length in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)):
        count, milliseconds = divmod(milliseconds, length)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


def parse_octal(text: str) -> int:
    """Return the permission bits of "0755" or "755"."""
    if not _OCTAL.fullmatch(text):
        raise ValueError(f"{shown(text)} is not an octal mode")
    return int(text, 8)


def format_octal(mode: int) -> str:
    """Return *mode* as four octal digits."""
    return f"{mode:04o}"
