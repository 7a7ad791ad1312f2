"""The direct server: reads FUSE requests from /dev/fuse and answers them, without libfuse."""
