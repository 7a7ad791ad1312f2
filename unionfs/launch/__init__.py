"""Starts the server for the launcher: its request, the confinement of its process, and the index builder beside it."""
