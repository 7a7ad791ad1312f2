"""The layer index: the merged names and attributes of immutable lower layers, in a file that every mount of the stack maps."""
