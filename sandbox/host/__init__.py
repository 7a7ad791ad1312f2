"""Facts about this machine and the paths on it that a spec names, as values; nothing is changed and no program started."""
