"""``python -m sandbox``: the same as the command ``sandbox``."""

from sandbox.cli.main import command

command()
