"""Collect facts about this machine, and about the host paths that a spec names, as values. Nothing is changed or started."""
