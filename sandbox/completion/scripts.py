"""The scripts that shells read; argcomplete writes them."""

from __future__ import annotations

SHELLS = ("bash", "zsh", "fish")


def script(shell: str) -> str:
    """Return what *shell* (one of SHELLS) reads to complete the command `sandbox`."""
    from argcomplete.shell_integration import shellcode

    return shellcode(["sandbox"], shell=shell).strip("\n") + "\n"
