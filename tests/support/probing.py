"""What a probe of a requirement returns, and commands that it tries."""

from __future__ import annotations

import os
import pwd
import subprocess
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Missing:
    """An unmet requirement, with its remedy."""

    what: str
    remedy: str = ""
    #: Whether root could provide it on this machine.
    removable: bool = True

    def __str__(self) -> str:
        return f"{self.what} ({self.remedy})" if self.remedy else self.what


Probe = Callable[[], Missing | None]


def account() -> str:
    """Return the name of this account for messages."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return f"uid {os.geteuid()}"


def try_command(*command: str) -> str | None:
    """Run *command*. Return None if it succeeds, otherwise the last line of its output or its exit status."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=60, check=False
        )
    except FileNotFoundError:
        return f"{command[0]}: not found"
    lines = (done.stderr or done.stdout).strip().splitlines()
    return (
        None
        if done.returncode == 0
        else (lines[-1] if lines else f"{command[0]} ended with {done.returncode}")
    )
