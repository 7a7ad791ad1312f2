"""Layers in the format zstd:chunked, whose files can be fetched one by one.

    names       the words and numbers of the format; pure
    footer      the end of a layer, which tells where its tables are, and the annotations that tell the same
    tar_split   all of a tar besides the contents of files, so that the tar can be made again from the files
    writer      writes a layer

The format is that of containers/storage (docs/containers-storage-zstd-chunked.md and pkg/chunked/ there), which has no other
specification. A module imports only modules listed above it.
"""
