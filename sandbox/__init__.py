"""A declarative, rootless sandbox: one TOML file describes an isolated environment, `sandbox up` starts it.

The package imports nothing here, so that `python -m sandbox` loads only the modules that the given command needs.
"""

__version__ = "0.1.0"
