"""Manage the state and run directories: their content, the locks on it, and the removal of runs that have ended."""
