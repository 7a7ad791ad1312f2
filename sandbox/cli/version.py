"""Print the version, and the commit of a checkout. The parser calls it for `sandbox --version`."""

from __future__ import annotations

import os

import sandbox

_TOP = os.path.dirname(os.path.dirname(os.path.abspath(sandbox.__file__)))


def describe(top: str = _TOP) -> str:
    """Return "sandbox VERSION", followed by the commit if *top*, which contains the package, is a checkout of git."""
    version = f"sandbox {sandbox.__version__}"
    if not all(os.path.exists(os.path.join(top, name)) for name in (".git", "pyproject.toml")):
        return version
    import subprocess

    # Without tags the description is the commit alone; "-dirty" marks changes that are in no commit.
    command = ["git", "-C", top, "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return version  # no git, or a checkout of another user, in which git reads nothing
    return f"{version} (commit {done.stdout.strip()})"
