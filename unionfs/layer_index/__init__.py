"""The layer index: what immutable lower layers hold, merged once, in a file that every mount of the same stack maps."""
