"""`sandbox completion`: print the completion script of a shell."""

from __future__ import annotations

import argparse

from sandbox.completion.scripts import SHELLS

DESCRIPTION = """\
Print the completion script of a shell. It completes verbs, options, environment files, keys and their values, and
the profiles of the file."""
EPILOG = """\
in ~/.bashrc:  eval "$(sandbox completion bash)"
in ~/.zshrc:   eval "$(sandbox completion zsh)"  # after compinit
for fish:      sandbox completion fish > ~/.config/fish/completions/sandbox.fish"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("shell", metavar="SHELL", choices=SHELLS, help=", ".join(SHELLS))


def run(arguments: argparse.Namespace) -> int:
    """Print the script."""
    from sandbox.completion.scripts import script

    print(script(arguments.shell), end="")
    return 0
