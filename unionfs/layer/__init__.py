"""Layers: directory trees on disk, read through descriptors, and the rules that merge several of them into one view."""
