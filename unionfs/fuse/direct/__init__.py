"""The direct server: reads requests from /dev/fuse and answers them, without libfuse."""
