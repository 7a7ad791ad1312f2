"""What layers and writable layers keep in names and extended attributes: pure codecs, without system calls."""
