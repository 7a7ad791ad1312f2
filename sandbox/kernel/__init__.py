"""Kernel mechanisms, one module per concern.

The functions take plain values and file descriptors, and do not know the spec. They raise plain :class:`OSError` and
:class:`ValueError`; their callers add the hints for the user.
"""
