"""Codecs for file names and extended attributes in which layers store metadata. Pure: no system calls."""
