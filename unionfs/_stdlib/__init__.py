"""Replacements for standard-library modules that are slow to import. Each has the name of the module that it replaces."""
