"""Copy-up: copies an object of a lower layer to the writable layer before its first change."""
