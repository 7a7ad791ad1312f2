"""Kernel mechanisms, one module per concern. They take plain values and descriptors, know nothing of the spec, and raise
plain :class:`OSError` and :class:`ValueError`; turning those into advice is their callers' work.
"""
