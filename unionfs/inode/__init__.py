"""Inodes: the numbers that the kernel uses, the objects that they identify, and the open handles of those objects."""
