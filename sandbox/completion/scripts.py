"""Return the completion scripts of shells, which argcomplete generates."""

from __future__ import annotations

SHELLS = ("bash", "zsh", "fish")


def script(shell: str) -> str:
    """Return the script with which *shell* (one of SHELLS) completes the command `sandbox`."""
    from argcomplete.shell_integration import shellcode

    return shellcode(["sandbox"], shell=shell).strip("\n") + "\n"
