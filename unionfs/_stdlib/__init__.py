"""Stand-ins for modules of the standard library that are slow to import. Each has the name of the module that it replaces."""
