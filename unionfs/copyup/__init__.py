"""Copy-up: the copy of an object of a lower layer in the writable layer, made before its first change."""
