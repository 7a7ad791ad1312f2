"""Layers: directory trees on disk, read by descriptors, and how several of them are merged into one view."""
