"""A package, so that `tests.support` means this one even where a library installs a package named tests."""
