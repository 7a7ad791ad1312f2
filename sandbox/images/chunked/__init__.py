"""Layers whose contents can be fetched in chunks while they are used: zstd:chunked, which this package also writes, and eStargz.

Such a blob ends with a table of contents: the members of the archive, where their contents are in the blob, and the digest of each
chunk. An annotation of the layer in the manifest has the digest of the table.

    names           the words and numbers of zstd:chunked; pure
    footer          the end of a zstd:chunked layer, which tells where its tables are, and the annotations that tell the same
    tar_split       all of a tar besides the contents of files, so that the tar can be made again from the files
    writer          writes a zstd:chunked layer
    toc             annotations, and the table: members and chunks from bytes; pure
    table_archive   the table as an archive whose members are indexed
    partial_layers  the tables, and the chunks that were fetched, in the image directory
    fetch_table     the table of a layer from a registry
    pieces          one piece of a blob, decompressed, and its chunks verified
    fetcher         the process that fetches chunks for the file system server
    fetcher_process its start and its end, in the launcher
    fetching        the layers of one root that it fetches

The format zstd:chunked is that of containers/storage (docs/containers-storage-zstd-chunked.md and pkg/chunked/ there), which has
no other specification. A module imports only modules listed above it, and others of sandbox/images.
"""
