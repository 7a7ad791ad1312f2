"""Read tar archives, unpack them into layers of the layer store, and examine layers for direct binds.

The image directory contains what can be fetched and unpacked again:

    IMAGES/archives/KEY/    an unpacked `tar:` archive: lock, ids, tree, index, references.json, archive.json (origin.py),
                            native (direct_bind.py)

    names         printable names of archive members
    attributes    extended attributes that an archive may set
    headers       tar headers and their records, from bytes to values
    whiteouts     names of members that delete objects of lower layers
    compression   decompression in bounded memory
    tar           an archive as a stream of members
    bounded_queue pieces of data from one thread to another
    layer_stream  a layer that is read once, with its digests
    report        what was unpacked, and what was left out
    directories   the directories of a tree that is being unpacked
    destination   directories below the destination, and nowhere else
    direct_bind   whether a directory of one layer can be bind-mounted without the union
    lower_layers  objects of the layers below, which an archive may name
    metadata      owner, attributes, mode and times of what an archive creates
    hard_links    hard links, also to files of the layers below
    unpack        the members of an archive, written below the destination
    bounded       unpacking with a memory limit
    reading       an archive read once, with its digest and progress
    root_archive  checks of an archive that becomes the root of a sandbox
    import_lock   the lock of a process that unpacks an archive
    unpacked_trees  unpacked trees under keys: complete, locked while in use, removed under their ids
    origin        the record of the archive that a layer was unpacked from
    layer_store   each archive unpacked once for each id map

A module imports only modules listed above it, and from outside as the table of docs/architecture.md has it.
The modules that read and unpack archives are imported only when a layer has to be unpacked.
"""
