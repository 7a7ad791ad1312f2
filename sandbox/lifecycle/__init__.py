"""Implement the commands on persistent layers, named volumes and unpacked archives: list, measure, remove, adopt."""
