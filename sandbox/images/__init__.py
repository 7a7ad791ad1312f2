"""Layers and images: reading tar archives and turning them into trees on disk.

Nothing here is imported before a layer has to be unpacked. May import `sandbox.errors` and `sandbox.kernel`.
"""
